"""The two partition definitions: plate style (static, read when the code location loads) and checkpoint (dynamic)."""

import warnings
from typing import Any

import dagster as dg

from anony_pipeline.plates import styles

# BackfillPolicy is still marked beta; the warning would stand before each command's own output.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

STYLE_KEYS = [*sorted(set(styles.configured_styles()) - {styles.NEUTRAL}), styles.NEUTRAL]


def no_such_style(asked: str) -> str:
    """What is said of a style that is not there."""
    return (
        f"no such plate style: {asked}. There are: {', '.join(STYLE_KEYS)}. A style file in configs/plate_styles "
        "becomes a partition when the code location is loaded again."
    )


class PlateStyles(dg.StaticPartitionsDefinition):
    """Static partitions that refuse an unknown key with those that there are; Dagster's own names none."""

    def validate_partition_key(self, partition_key: str, context: Any) -> None:  # noqa: ANN401 - Dagster's own, not exported
        """See the class.

        Raises:
            dg.DagsterUnknownPartitionError: If there is no such key.
        """
        try:
            super().validate_partition_key(partition_key, context)
        except dg.DagsterUnknownPartitionError as error:
            raise dg.DagsterUnknownPartitionError(no_such_style(partition_key)) from error


STYLES = PlateStyles(STYLE_KEYS)
CHECKPOINTS = dg.DynamicPartitionsDefinition(name="checkpoint")

PER_STYLE: dict[str, Any] = {"partitions_def": STYLES, "backfill_policy": dg.BackfillPolicy.single_run()}
"""What every asset by plate style takes: one definition, and all styles in one step, so that models load once."""

ONE_STYLE = "dagster/partition"
"""Tag of a run that is about one style."""

EVERY_STYLE = {
    "dagster/asset_partition_range_start": STYLE_KEYS[0],
    "dagster/asset_partition_range_end": STYLE_KEYS[-1],
}
"""Tags of a job's run that is about all styles."""


def styles_of(context: dg.AssetExecutionContext) -> list[str]:
    """The plate styles that this run is about.

    Raises:
        dg.Failure: If the run was given a style that is not there; it lists those that are.
    """
    try:
        return [str(key) for key in context.partition_keys]
    except dg.DagsterInvalidInvocationError as error:
        raise dg.Failure(no_such_style(context.run.tags.get(ONE_STYLE, "a range")), allow_retries=False) from error

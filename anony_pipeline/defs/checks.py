"""Checks that stop a run on broken data, before hours are spent on it; the release's gates are `scorecard`'s checks."""

from collections.abc import Iterator

import dagster as dg

from anony_pipeline.defs.partitions import STYLE_KEYS
from anony_pipeline.defs.resources import Experiment

SHOWN = 20
RULES = {
    "boxes_in_images": "Every box has an area and lies inside its image.",
    "files_are_there": "Every image that the unified files name is there.",
    "no_leak_between_splits": "No image of train stands in val, nor a near-duplicate of it.",
    "styles_are_known": "Every plate style that an image names is a partition.",
}


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset="unified_coco", blocking=True, description=rule) for name, rule in RULES.items()
    ]
)
def unified_coco_integrity(
    context: dg.AssetCheckExecutionContext, experiment: Experiment
) -> Iterator[dg.AssetCheckResult]:
    """The unified set is what it claims to be."""
    from anony_pipeline.datasets import integrity
    from anony_pipeline.datasets.loaders import open_split

    config = experiment.config()
    train, val = open_split(config, "train"), open_split(config, "val")
    found = {
        "boxes_in_images": [*integrity.boxes_in_images(train), *integrity.boxes_in_images(val)],
        "files_are_there": (missing := [*integrity.missing_files(train), *integrity.missing_files(val)]),
        # Images that are not there can't be compared.
        "no_leak_between_splits": missing or integrity.leaks(train, val),
        "styles_are_known": [*integrity.unknown_styles(train, STYLE_KEYS), *integrity.unknown_styles(val, STYLE_KEYS)],
    }
    for name, problems in found.items():
        if problems:
            # Dagster's own message names the check alone.
            context.log.error(f"{name}: {len(problems)} problems:\n" + "\n".join(problems[:SHOWN]))
        yield dg.AssetCheckResult(
            asset_key="unified_coco",
            check_name=name,
            passed=not problems,
            metadata={"problems": len(problems), "first": "\n".join(problems[:SHOWN]) or "none"},
        )


ALL = [unified_coco_integrity]

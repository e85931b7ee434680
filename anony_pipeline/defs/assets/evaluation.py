"""What leaked and what was lost: one pass of the judges, its figures by plate style, and the scorecard."""

import json
from collections.abc import Iterator, Sequence

import dagster as dg

from anony_pipeline.config.schema import Config, Gates
from anony_pipeline.defs import checkpoints, metadata, retries, unchanged
from anony_pipeline.defs.automation import DAILY
from anony_pipeline.defs.partitions import PER_STYLE, STYLE_KEYS, styles_of
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.errors import CheckpointError
from anony_pipeline.evaluation.schema import METRICS, rules
from anony_pipeline.storage import atomic
from anony_pipeline.storage.locations import location

GROUP = "evaluation"

FIGURES = {
    "anonymized_val": ("coverage", "coverage_outside"),
    "fid": ("fid", "kid", "kid_of_inpaint"),
    "arcface_similarity": ("arcface_mean_sim", "reid_rank1", "reid_excess", "tar_at_far_1e2"),
    "easyocr_plate_accuracy": ("easyocr_plate_acc", "plate_cer", "plate_leak_rate"),
    "detector_map": ("val_map", "val_map50", "map_retention"),
}
"""Asset -> the metrics that it shows, of the row of the anonymizer on detected boxes."""

DESCRIPTIONS = {
    "anonymized_val": "The val images, anonymized end to end: what was found, covered and refused.",
    "fid": "How far anonymized regions are from real ones, to a feature network.",
    "arcface_similarity": "Whether an anonymized face still leads to its person.",
    "easyocr_plate_accuracy": "Whether the intended serial can be read, and the original one no longer.",
    "detector_map": "Whether a detector still finds on the anonymized images what was there.",
}


JUDGED = ["joint_checkpoint", "unified_coco", "face_recognizer", "plate_reader", "held_out_judges"]


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            group_name=GROUP,
            description=DESCRIPTIONS[name],
            kinds={"image" if name == "anonymized_val" else "pytorch"},
            deps=JUDGED if name == "anonymized_val" else ["anonymized_val"],
            skippable=True,
        )
        for name in FIGURES
    ],
    can_subset=True,
    pool="gpu",
    **PER_STYLE,
)
def judged(context: dg.AssetExecutionContext, experiment: Experiment) -> Iterator[dg.MaterializeResult]:
    """One pass over all asked styles: every judge is loaded once, and all figures come from the same tensors."""
    config = experiment.config()
    styles = styles_of(context)
    # In the order of FIGURES, which is that of the dependencies.
    names = [name for name in FIGURES if dg.AssetKey(name) in context.selected_asset_keys]
    now = unchanged.made_of(context.instance, config, "evaluation", JUDGED)
    with retries.if_a_store_is_away(context):
        checkpoint = checkpoints.current(context.instance, config)
        same = _standing(context, experiment, names, now, styles)
    if same:
        yield from same
        return
    from anony_pipeline.evaluation import scorecard as scorecards

    asked = None if set(styles) == set(STYLE_KEYS) else styles
    try:
        with retries.if_a_store_is_away(context):
            # Both compare every file's sum with the manifest before anything is loaded.
            here = checkpoints.fetched(checkpoint, config)
            card = scorecards.evaluate(config, here, asked, location(config.paths.outputs))
    except CheckpointError as error:
        checkpoints.mark_damaged(context, checkpoint, error)
        raise
    for name in names:
        for style in styles:
            figures = metadata.of_row(card.row(slice_name=f"style:{style}"), FIGURES[name])
            context.add_asset_metadata({unchanged.MADE_OF: now, **figures}, asset_key=name, partition_key=style)
        yield dg.MaterializeResult(
            asset_key=name,
            # Of every partition: overall figures would stand beside a style's own under the same names.
            metadata={"checkpoint": metadata.path(checkpoint), "checkpoint_version": card.subject.sha256},
            data_version=dg.DataVersion(now),
        )


def _standing(
    context: dg.AssetExecutionContext, experiment: Experiment, names: Sequence[str], now: str, styles: Sequence[str]
) -> list[dg.MaterializeResult] | None:
    """The results that repeat what all asked assets and styles have, if the scorecard on disk is still the one."""
    config = experiment.config()
    if not _card_is_of(config, checkpoints.current(context.instance, config), overall=set(styles) == set(STYLE_KEYS)):
        return None
    same = [unchanged.standing_styles(context, experiment, name, now, styles, lambda _: True) for name in names]
    return None if None in same else [result for result in same if result is not None]


def _card_is_of(config: Config, checkpoint: checkpoints.Place, *, overall: bool) -> bool:
    file = location(config.paths.outputs) / "scorecard.json"
    if not file.exists():
        return False
    card = json.loads(file.read_text())
    return card["subject"]["sha256"] == checkpoints.version(checkpoint) and (not overall or card["overall_of_this_run"])


GATES = {
    metric: f"{METRICS[metric].meaning}; {rule} the bound in `evaluation.gates`" for metric, rule, _ in rules(Gates())
}
"""Check name -> what it asks. Bounds are a configuration's, and there is none yet when the code location loads."""


@dg.asset(
    group_name=GROUP,
    deps=list(FIGURES),
    kinds={"json"},
    freshness_policy=DAILY,
    check_specs=[dg.AssetCheckSpec(name, asset="scorecard", description=rule) for name, rule in GATES.items()],
)
def scorecard(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """One checkpoint's figures beside the baselines', as JSON and as a page. Its checks are the release's gates."""
    from anony_pipeline.evaluation import scorecard as scorecards

    config = experiment.config()
    output = location(config.paths.outputs)
    with retries.if_a_store_is_away(context):
        card = scorecards.load(output / "scorecard.json")
        # Not the current one: `joint_checkpoint` may stand for another by now, whose figures these are not.
        checkpoint = checkpoints.judged_by(card.subject, config)
        history = checkpoints.scorecard_of(config, checkpoint)
        atomic.write_bytes(history, (output / "scorecard.json").read_bytes())
        examples = _examples(config)
    figures = metadata.headline(card)
    context.log_event(dg.AssetObservation(checkpoints.HISTORY, partition=checkpoint.name, metadata=figures))
    return dg.MaterializeResult(
        metadata={
            **figures,
            "figures": metadata.scorecard_table(card),
            metadata.COLUMN_SCHEMA: metadata.scorecard_columns(),
            **examples,
            "passed": card.passed,
            "checkpoint": metadata.path(checkpoint),
            "report": metadata.path(output / "report" / "index.html"),
            "scorecard": metadata.path(history),
        },
        data_version=dg.DataVersion(card.subject.sha256),
        check_results=[metadata.gate_result(gate) for gate in card.gates],
    )


def _examples(config: Config) -> dict[str, dg.MetadataValue]:
    """Regions before and after, where all val images are procedural."""
    from anony_pipeline.datasets.loaders import open_split
    from anony_pipeline.evaluation import scorecard as scorecards

    file = location(config.paths.outputs) / scorecards.EXAMPLES
    if not (file.exists() and metadata.is_procedural(config, [open_split(config, "val")])):
        return {}
    return {"before and after": metadata.picture_file(file, "before and after")}

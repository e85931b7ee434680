"""Pseudo-targets: what the generator learns to make of each region. Private: they hold original surroundings."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from anony_pipeline.defs import metadata, retries, unchanged
from anony_pipeline.defs.automation import ON_CHANGED_DATA
from anony_pipeline.defs.partitions import PER_STYLE, styles_of
from anony_pipeline.defs.resources import Experiment

if TYPE_CHECKING:
    from anony_pipeline.targets.report import TargetReport

GROUP = "targets"


@dg.asset(
    group_name=GROUP,
    deps=["unified_coco", "face_recognizer"],
    kinds={"image"},
    automation_condition=ON_CHANGED_DATA,
)
def face_pseudo_targets(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """A donor's face in the place of each face of the training images."""
    from anony_pipeline.datasets.folds import trained_on
    from anony_pipeline.datasets.loaders import open_split
    from anony_pipeline.targets import faces

    config = experiment.config()
    now = unchanged.made_of(context.instance, config, "targets", ["unified_coco", "face_recognizer"])
    if same := unchanged.standing(context, experiment, "face_pseudo_targets", now, unchanged.path_is_there("manifest")):
        return unchanged.again(same)
    with retries.if_a_store_is_away(context):
        coco = trained_on(config, open_split(config, "train"))
        report = faces.make_face_targets(config, coco)
    return dg.MaterializeResult(
        metadata={unchanged.MADE_OF: now, **metadata.of_targets(report, config, coco)}, data_version=_version([report])
    )


@dg.asset(
    group_name=GROUP,
    deps=["unified_coco", "plate_samples"],
    kinds={"image"},
    automation_condition=ON_CHANGED_DATA,
    **PER_STYLE,
)
def plate_pseudo_targets(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """A fresh serial of the same style in the place of each plate of the training images."""
    from anony_pipeline.datasets.folds import trained_on
    from anony_pipeline.datasets.loaders import open_split
    from anony_pipeline.targets import plates

    config, styles = experiment.config(), styles_of(context)
    now = unchanged.made_of(context.instance, config, "targets", ["unified_coco", "plate_samples"])
    if same := unchanged.standing_styles(
        context, experiment, "plate_pseudo_targets", now, styles, unchanged.path_is_there("manifest")
    ):
        return same
    with retries.if_a_store_is_away(context):
        coco = trained_on(config, open_split(config, "train"))
        reports = plates.make_plate_targets(config, coco, styles)
    for style, report in reports.items():
        shown = metadata.of_targets(report, config, coco)
        context.add_asset_metadata({unchanged.MADE_OF: now, **shown}, partition_key=style)
    return dg.MaterializeResult(data_version=_version(reports.values()))


def _version(reports: "Iterable[TargetReport]") -> dg.DataVersion:
    """Of all that the targets were made of: the same ones are nothing new to what is trained on them."""
    keys = sorted(record.key for report in reports for record in report.records)
    return dg.DataVersion(hashlib.sha256("\n".join(keys).encode()).hexdigest())

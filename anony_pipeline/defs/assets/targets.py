"""Pseudo-targets: what the generator learns to make of each region. Private: they hold original surroundings."""

import dagster as dg

from anony_pipeline.defs import metadata
from anony_pipeline.defs.partitions import PER_STYLE, styles_of
from anony_pipeline.defs.resources import Experiment

GROUP = "targets"


@dg.asset(group_name=GROUP, deps=["unified_coco", "face_recognizer"], kinds={"image"})
def face_pseudo_targets(experiment: Experiment) -> dg.MaterializeResult:
    """A donor's face in the place of each face of the training images."""
    from anony_pipeline.datasets.loaders import open_split
    from anony_pipeline.targets import faces

    config = experiment.config()
    report = faces.make_face_targets(config, open_split(config, "train"))
    return dg.MaterializeResult(metadata=metadata.of_targets(report, config))


@dg.asset(group_name=GROUP, deps=["unified_coco", "plate_samples"], kinds={"image"}, **PER_STYLE)
def plate_pseudo_targets(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """A fresh serial of the same style in the place of each plate of the training images."""
    from anony_pipeline.datasets.loaders import open_split
    from anony_pipeline.targets import plates

    config = experiment.config()
    reports = plates.make_plate_targets(config, open_split(config, "train"), styles_of(context))
    for style, report in reports.items():
        context.add_asset_metadata(metadata.of_targets(report, config), partition_key=style)
    return dg.MaterializeResult()

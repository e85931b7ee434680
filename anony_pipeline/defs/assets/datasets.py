"""Raw data sets and the unified COCO set that everything else reads."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from anony_pipeline.defs import metadata, retries, unchanged
from anony_pipeline.defs.automation import ON_CHANGED_DATA
from anony_pipeline.defs.resources import Experiment

GROUP = "datasets"


RAW = {
    "widerface": "WIDERFace: faces in all kinds of scenes, with six attributes.",
    "pp4av": "PP4AV: faces and license plates, seen from cars.",
}


@dg.multi_asset(
    specs=[
        dg.AssetSpec(key, group_name=GROUP, kinds={"image"}, skippable=True, description=description)
        for key, description in RAW.items()
    ],
    can_subset=True,
)
def raw_data(context: dg.AssetExecutionContext, experiment: Experiment) -> Iterator[dg.MaterializeResult]:
    """The data sets' folders: found, unpacked from an archive, or drawn."""
    from anony_pipeline.datasets import raw

    config = experiment.config()
    with retries.if_a_store_is_away(context):
        reports = raw.provide(config.data, Path(config.paths.cache))
    for key in sorted(context.selected_asset_keys):
        mine = [report for report in reports if report.layout == key.to_user_string()]
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={
                "files": sum(report.files for report in mine),
                "megabytes": sum(report.megabytes for report in mine),
                "sources": metadata.table([dataclasses.asdict(report) for report in mine]),
            },
            data_version=dg.DataVersion("-".join(report.version for report in mine) or "none"),
        )


COLUMNS = {
    "id": ("int", "The annotation's number."),
    "image_id": ("int", "Its image's number in `images`."),
    "category_id": ("int", "1 is a face, 2 a license plate."),
    "bbox": ("list[float]", "x, y, width and height in pixels."),
    "area": ("float", "Of the box, in square pixels."),
    "iscrowd": ("int", "1 counts neither as found nor as missed."),
    "attributes": ("dict", "WIDERFace's six attributes, where the source has them."),
    "identity": ("str", "Whose face it is, where that is known: procedural data alone."),
    "serial": ("str", "The plate's text, where that is known: procedural data alone."),
    "quad": ("list[list[float]]", "A plate's corners in pixels, clockwise from its own top left, where known."),
    "landmarks": ("list[list[float]]", "A face's eyes, nose and corners of the mouth in pixels, where known."),
}
"""Of the unified files' `annotations`."""


@dg.asset(
    group_name=GROUP,
    deps=list(RAW),
    kinds={"coco"},
    automation_condition=ON_CHANGED_DATA,
    metadata={metadata.COLUMN_SCHEMA: metadata.columns(COLUMNS)},
)
def unified_coco(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """All sources in one COCO file a split: categories `face` and `license_plate`, boxes in pixels."""
    from anony_pipeline.datasets import loaders, unify
    from anony_pipeline.datasets.sources import SPLITS
    from anony_pipeline.storage import manifests

    config = experiment.config()
    files = [unify.unified_file(config.paths.unified, split) for split in SPLITS]

    def version() -> str:
        return "-".join(manifests.sha256_of(file)[:12] for file in files if file.exists())

    now = unchanged.made_of(context.instance, config, "datasets", RAW)
    if same := unchanged.standing(
        context, experiment, "unified_coco", now, lambda old: unchanged.version_of(old) == version()
    ):
        return unchanged.again(same)
    with retries.if_a_store_is_away(context):
        report = unify.ensure_unified(config)
        shown = metadata.of_unified({split: loaders.open_split(config, split) for split in SPLITS}, config)
    return dg.MaterializeResult(
        metadata={
            unchanged.MADE_OF: now,
            "made": report is not None,
            **(metadata.numbers(report) if report else {}),
            **shown,
            "folder": metadata.path(config.paths.unified),
        },
        data_version=dg.DataVersion(version()),
    )

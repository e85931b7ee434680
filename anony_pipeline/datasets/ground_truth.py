"""The sidecar of procedural data: who a face is, what a plate says, and where its corners are."""

import json
from collections import defaultdict
from typing import Any

import numpy as np

from anony_pipeline.config.schema import Source
from anony_pipeline.datasets.coco import Record
from anony_pipeline.datasets.sources import Problem
from anony_pipeline.errors import DatasetError
from anony_pipeline.storage import locations
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import KINDS_BY_CATEGORY

FORMAT = "anony_pipeline.ground_truth/1"
MIN_IOU = 0.9
COPIED = ("identity", "serial", "quad", "landmarks")


def load(source: Source) -> dict[str, Record]:
    """Read the sidecar that a source names: its images by their path below the source's root; none without a sidecar.

    Raises:
        DatasetError: If it is missing, no JSON, or of another format.
    """
    if source.ground_truth is None:
        return {}
    path = locations.location(source.ground_truth)
    try:
        content = json.loads(path.read_bytes())
        images, name = content["images"], content["format"]
        shapes = {len(region["bbox"]) for truth in images.values() for region in truth["regions"] if region["kind"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            "the ground truth can't be read",
            where=path,
            got=f"{type(error).__name__}: {error}",
            do="make the procedural data anew, or remove `ground_truth` from the source",
        ) from error
    if name != FORMAT or not shapes <= {4}:
        raise DatasetError("the ground truth is of another format", where=path, got=name, allowed=FORMAT)
    return images


def join(source: Source, truth: Record, image: Record, annotations: list[Record]) -> list[Problem]:
    """Add what the sidecar knows of one image to its record and annotations, in place.

    An annotation takes the region of its own kind that overlaps it most, from an IoU of 0.9 up; a region is taken once.

    Args:
        source: The source that the image is of.
        truth: The sidecar's entry of the image.
        image: The image record; gets ``time``.
        annotations: The image's annotation records; get ``identity, serial, quad, landmarks`` and ``person``.

    Returns:
        A note for each annotation of a labeled thing that the sidecar doesn't know.
    """
    if "time" in truth:
        image["time"] = truth["time"]
    regions: dict[str, list[Record]] = defaultdict(list)
    for region in truth["regions"]:
        regions[region["kind"]].append(region)
    problems = []
    for kind_id, kind in KINDS_BY_CATEGORY.items():
        mine = [annotation for annotation in annotations if annotation["category_id"] == kind_id]
        problems += _match(source, image, mine, regions[kind.value])
    return problems


def _match(source: Source, image: Record, annotations: list[Record], regions: list[Record]) -> list[Problem]:
    overlaps = boxes.iou(
        boxes.xywh_to_xyxy([annotation["bbox"] for annotation in annotations]),
        boxes.xywh_to_xyxy([region["bbox"] for region in regions]),
    )
    unmatched = set(range(len(annotations)))
    while overlaps.size and overlaps.max() >= MIN_IOU:
        row, column = (int(i) for i in np.unravel_index(overlaps.argmax(), overlaps.shape))
        _copy(regions[column], annotations[row])
        overlaps[row, :] = overlaps[:, column] = -1
        unmatched.discard(row)
    return [
        Problem(
            "note",
            source.name,
            image["file_name"],
            "the ground truth doesn't know this box",
            str(annotations[i]["bbox"]),
        )
        for i in sorted(unmatched)
    ]


def _copy(region: dict[str, Any], annotation: Record) -> None:
    annotation.update({name: region[name] for name in COPIED if region.get(name) is not None})
    if region.get("attributes"):
        annotation["person"] = region["attributes"]

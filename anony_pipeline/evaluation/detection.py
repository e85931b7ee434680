"""Are faces and plates still found where they were? COCO mAP of a detector on the anonymized images."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

MAX_DETECTIONS = 500
"""COCO's 100 is too few for crowds: WIDERFace has images with more than 1,000 faces."""


class DetectionScores(NamedTuple):
    """Average precision and recall, NaN where there is no ground truth.

    Attributes:
        map: Mean over IoU 0.50 to 0.95 and the categories.
        map50: At IoU 0.50.
        ap50: By category id, at IoU 0.50.
        ar50: Recall by category id, at IoU 0.50.
    """

    map: float
    map50: float
    ap50: dict[int, float]
    ar50: dict[int, float]


def average_precision(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    *,
    categories: Sequence[int] = (1, 2),
    max_detections: int = MAX_DETECTIONS,
) -> DetectionScores:
    """COCO's average precision (COCOeval, bbox, all areas); crowds are ignored as COCO does.

    Pairs of image and category that the image's ``not_exhaustive_category_ids`` names count neither as hits nor as
    negatives: their annotations and detections are left out alike.

    Args:
        images: COCO images.
        annotations: COCO annotations of these images.
        detections: COCO results: ``image_id, category_id, bbox, score``.
        categories: Category ids; others are left out.
        max_detections: Detections that count in an image, by score.
    """
    excluded = {
        (image["id"], category) for image in images for category in image.get("not_exhaustive_category_ids") or ()
    }
    numbers = {image["id"] for image in images}
    truth = [_plain(a) for a in _kept(annotations, numbers, excluded) if a["category_id"] in categories]
    found = [dict(d) for d in _kept(detections, numbers, excluded) if d["category_id"] in categories]
    if not any(not annotation["iscrowd"] for annotation in truth):
        return DetectionScores(float("nan"), float("nan"), dict.fromkeys(categories, float("nan")), {})
    precision, recall = _accumulate(sorted(numbers), truth, found, categories, max_detections)
    mean50 = _mean(precision[0])
    return DetectionScores(
        _mean(precision),
        mean50,
        {category: _mean(precision[0, :, index]) for index, category in enumerate(categories)},
        {category: _mean(recall[0, index]) for index, category in enumerate(categories)},
    )


def as_results(rows: np.ndarray) -> list[dict[str, Any]]:
    """Write ``(N, 7)`` rows of image id, category id, COCO box and score as COCO results."""
    return [
        {"image_id": int(image_id), "category_id": int(category), "bbox": box, "score": score}
        for image_id, category, *box, score in rows.tolist()
    ]


def _accumulate(
    numbers: list[int],
    truth: list[dict[str, Any]],
    found: list[dict[str, Any]],
    categories: Sequence[int],
    max_detections: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``(10, 101, K)`` and recall ``(10, K)`` over IoU, recall and category; -1 where there is no truth."""
    data = {
        "images": [{"id": number} for number in numbers],
        "annotations": truth,
        "categories": [{"id": category, "name": str(category)} for category in categories],
    }
    if not found:
        present = {annotation["category_id"] for annotation in truth if not annotation["iscrowd"]}
        values = np.where([category in present for category in categories], 0.0, -1.0)
        return np.broadcast_to(values, (10, 101, len(categories))), np.broadcast_to(values, (10, len(categories)))
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        ground_truth = COCO(data)
        evaluation = COCOeval_faster(ground_truth, ground_truth.loadRes(found), "bbox", print_function=_silent)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.params.imgIds = numbers
        evaluation.params.catIds = list(categories)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1], evaluation.eval["recall"][:, :, 0, -1]


def _silent(*_: object, **__: object) -> None:
    """What the library is told to print with."""


def _kept(
    rows: Sequence[Mapping[str, Any]], numbers: Collection[int], excluded: Collection[tuple[int, int]]
) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["image_id"] in numbers and (row["image_id"], row["category_id"]) not in excluded]


def _plain(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """What COCOeval asks for, and no more."""
    width, height = annotation["bbox"][2:]
    return {
        "id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": list(annotation["bbox"]),
        "area": annotation.get("area", width * height),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")

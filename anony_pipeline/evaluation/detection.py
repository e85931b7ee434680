"""Are faces and plates still found where they were? COCO mAP of a detector on the anonymized images."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

MAX_DETECTIONS = 500
"""COCO's 100 is too few for crowds: WIDERFace has images with more than 1,000 faces."""
AT_ONCE = 20_000
"""Detections that are matched at a time."""


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
    detections: Sequence[Mapping[str, Any]] | np.ndarray,
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
        detections: COCO results: ``image_id, category_id, bbox, score``; or as rows (see `as_rows`).
        categories: Category ids; others are left out.
        max_detections: Detections that count in an image, by score.
    """
    excluded = {
        (image["id"], category) for image in images for category in image.get("not_exhaustive_category_ids") or ()
    }
    numbers = {image["id"] for image in images}
    truth = [_plain(a) for a in _kept(annotations, numbers, excluded) if a["category_id"] in categories]
    if not any(not annotation["iscrowd"] for annotation in truth):
        return DetectionScores(float("nan"), float("nan"), dict.fromkeys(categories, float("nan")), {})
    rows = detections if isinstance(detections, np.ndarray) else as_rows(detections)
    rows = rows[np.isin(rows[:, 0], list(numbers))]
    curves = []
    for category in categories:
        # One category after the other: the library's objects take a hundred times the rows' memory.
        left_out = [image for image, other in excluded if other == category]
        found = rows[(rows[:, 1] == category) & ~np.isin(rows[:, 0], left_out)]
        wanted = [annotation for annotation in truth if annotation["category_id"] == category]
        curves.append(_accumulate(sorted(numbers), wanted, found, category, max_detections))
    precision, recall = (np.stack(parts, axis=-1) for parts in zip(*curves, strict=True))
    mean50 = _mean(precision[0])
    return DetectionScores(
        _mean(precision),
        mean50,
        {category: _mean(precision[0, :, index]) for index, category in enumerate(categories)},
        {category: _mean(recall[0, index]) for index, category in enumerate(categories)},
    )


def as_rows(results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """COCO results as ``(N, 7)`` float64 of image id, category id, box and score."""
    rows = [(result["image_id"], result["category_id"], *result["bbox"], result["score"]) for result in results]
    return np.array(rows, np.float64).reshape(-1, 7)


def _accumulate(
    numbers: list[int], truth: list[dict[str, Any]], found: np.ndarray, category: int, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``(10, 101)`` and recall ``(10,)`` of one category over IoU and recall; -1 where there is no truth."""
    if not any(not annotation["iscrowd"] for annotation in truth):
        return np.full((10, 101), -1.0), np.full(10, -1.0)
    if not len(found):
        return np.zeros((10, 101)), np.zeros(10)
    seen = []
    for part in _parts(numbers, found):
        # The library's objects take a hundred times the rows' memory, what it makes of them ten times.
        evaluation = _evaluated(part, truth, found, category, max_detections)
        seen += evaluation._evalImgs_cpp
    evaluation._evalImgs_cpp = seen
    evaluation._paramsEval.imgIds = numbers
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 0], evaluation.eval["recall"][:, 0, 0, 0]


def _parts(numbers: list[int], found: np.ndarray) -> list[list[int]]:
    """The images in runs of about `AT_ONCE` detections each."""
    ids, counts = np.unique(found[:, 0], return_counts=True)
    by_image = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    before = np.cumsum([0, *(by_image.get(number, 0) for number in numbers[:-1])])
    parts: dict[int, list[int]] = {}
    for number, start in zip(numbers, before.tolist(), strict=True):
        parts.setdefault(start // AT_ONCE, []).append(number)
    return list(parts.values())


def _evaluated(
    numbers: list[int], truth: list[dict[str, Any]], found: np.ndarray, category: int, max_detections: int
) -> COCOeval_faster:
    """The matches of some images; they are not accumulated."""
    chosen = set(numbers)
    data = {
        "images": [{"id": number} for number in numbers],
        "annotations": [annotation for annotation in truth if annotation["image_id"] in chosen],
        "categories": [{"id": category, "name": str(category)}],
    }
    loaded = _loaded(found[np.isin(found[:, 0], numbers)], data)
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        evaluation = COCOeval_faster(COCO(data), loaded, "bbox", print_function=_silent, separate_eval=True)
        # All areas at one number of detections is all that is asked for: the rest takes four times the memory.
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.params.maxDets = [max_detections]
        evaluation.params.imgIds = numbers
        evaluation.params.catIds = [category]
        evaluation.evaluate()
    return evaluation


def _loaded(found: np.ndarray, data: dict[str, Any]) -> COCO:
    """Results as COCO has them, without the outlines that its own `loadRes` gives to each box."""
    loaded = COCO()
    results = [
        {
            "id": number + 1,
            "image_id": int(image_id),
            "category_id": int(category),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for number, (image_id, category, *box, score) in enumerate(found.tolist())
    ]
    loaded.dataset = {**data, "annotations": results}
    loaded.createIndex()
    return loaded


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

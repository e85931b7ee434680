import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anony_pipeline.evaluation import detection


def scene(seed=0, images=12, crowds=True):
    rng = np.random.default_rng(seed)
    records, annotations, found = [], [], []
    for number in range(1, images + 1):
        records.append({"id": number, "not_exhaustive_category_ids": []})
        for _ in range(rng.integers(0, 9)):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(6, 80, 2)]
            category = int(rng.integers(1, 3))
            crowd = int(crowds and rng.random() < 0.15)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": crowd,
                }
            )
            for _ in range(rng.integers(0, 3)):
                jitter = (np.array(box) + rng.normal(0, 3, 4)).clip(1).tolist()
                found.append(
                    {"image_id": number, "category_id": category, "bbox": jitter, "score": float(rng.random())}
                )
        found += [
            {"image_id": number, "category_id": 1, "bbox": [1.0, 1.0, 20.0, 20.0], "score": float(rng.random())}
            for _ in range(rng.integers(0, 3))
        ]
    return records, annotations, found


def reference(records, annotations, found, max_detections):
    """pycocotools itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": records, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found), "bbox")
        judge.params.maxDets = [max_detections] * 3
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    recall = judge.eval["recall"][:, :, 0, -1]
    return precision[precision > -1].mean(), precision[0][precision[0] > -1].mean(), precision[0].mean(0), recall[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("max_detections", [2, 500])
@pytest.mark.parametrize("at_once", [1, 7, 20_000])
def test_average_precision_equals_pycocotools_in_any_parts(monkeypatch, seed, max_detections, at_once):
    monkeypatch.setattr(detection, "AT_ONCE", at_once)
    records, annotations, found = scene(seed)
    scores = detection.average_precision(records, annotations, found, max_detections=max_detections)
    mean, mean50, ap50, ar50 = reference(records, annotations, found, max_detections)
    assert scores.map == pytest.approx(mean, abs=1e-6)
    assert scores.map50 == pytest.approx(mean50, abs=1e-6)
    assert [scores.ap50[1], scores.ap50[2]] == pytest.approx(ap50.tolist(), abs=1e-6)
    assert [scores.ar50[1], scores.ar50[2]] == pytest.approx(ar50.tolist(), abs=1e-6)


def test_unlabeled_kinds_of_an_image_are_neither_hits_nor_negatives():
    records, annotations, found = scene(3)
    numbers = {1, 2, 3, 4}
    marked = [{**r, "not_exhaustive_category_ids": [2] if r["id"] in numbers else []} for r in records]
    kept = lambda row: not (row["image_id"] in numbers and row["category_id"] == 2)  # noqa: E731
    expected = detection.average_precision(records, list(filter(kept, annotations)), list(filter(kept, found)))
    extra = [{"image_id": n, "category_id": 2, "bbox": [5.0, 5.0, 30.0, 10.0], "score": 0.99} for n in numbers]
    got = detection.average_precision(marked, annotations, found + extra)
    assert got.map == pytest.approx(expected.map, abs=1e-9)


def test_a_perfect_detector_reaches_one_and_a_silent_one_zero():
    records, annotations, _ = scene(4, crowds=False)
    perfect = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in annotations]
    assert detection.average_precision(records, annotations, perfect).map == pytest.approx(1)
    assert detection.average_precision(records, annotations, []).map == 0


def test_crowded_images_need_more_than_a_hundred_detections():
    boxes = [[float(x * 12), float(y * 12), 10.0, 10.0] for x in range(20) for y in range(10)]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": b, "area": 100.0, "iscrowd": 0}
        for i, b in enumerate(boxes)
    ]
    found = [{"image_id": 1, "category_id": 1, "bbox": b, "score": 0.5} for b in boxes]
    assert detection.average_precision([{"id": 1}], annotations, found).map == pytest.approx(1)
    assert detection.average_precision([{"id": 1}], annotations, found, max_detections=100).map < 0.6


def test_without_ground_truth_there_is_no_figure():
    assert np.isnan(detection.average_precision([{"id": 1}], [], []).map)

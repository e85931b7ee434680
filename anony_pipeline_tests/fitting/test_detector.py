import numpy as np
import pytest
import torch

from anony_pipeline.fitting import detector
from anony_pipeline.fitting.rendering import Scenes
from anony_pipeline.structures.regions import Kind, Region


@pytest.fixture
def scenes():
    rng = np.random.default_rng(0)
    pictures, boxes = [], []
    for _ in range(5):
        picture = rng.integers(0, 40, (120, 160, 3), dtype=np.uint8)
        x, y = rng.integers(10, 80, 2)
        picture[y : y + 30, x : x + 24] = 250
        pictures.append(picture)
        boxes.append(np.array([[x, y, x + 24, y + 30]], np.float32))
    return Scenes(pictures, boxes, [np.array([1])] * 5, [(2,)] * 5)


def test_crops_carry_their_boxes_with_them(scenes):
    crops, targets, unlabeled = detector.sample(scenes, 12, 96, seed=1, step=0)
    assert crops.shape == (12, 96, 96, 3)
    assert unlabeled == [(2,)] * 12
    seen = 0
    for crop, target in zip(crops, targets, strict=True):
        for box, vague in zip(target["boxes"].numpy(), target["iscrowd"], strict=True):
            if not vague:
                x_min, y_min, x_max, y_max = np.rint(box).astype(int)
                inner = crop[y_min + 2 : y_max - 2, x_min + 2 : x_max - 2]
                assert inner.mean() > 235
                seen += 1
    assert seen > 3


def test_the_same_step_cuts_the_same_crops(scenes):
    first, second = (detector.sample(scenes, 4, 64, seed=1, step=7) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(first[1], second[1], strict=True))


def test_average_precision_of_perfect_half_and_no_detections(scenes, monkeypatch):
    def found(score):
        def detect(_detector, pictures, threshold):
            (number,) = (n for n, picture in enumerate(scenes.images) if picture is pictures[0])
            return [[Region(Kind.FACE, tuple(scenes.boxes[number][0].tolist()), score=score(number))]]

        return detect

    monkeypatch.setattr(detector, "detect", found(lambda _n: 0.9))
    assert detector.average_precision(None, scenes) == {"ap50_face": 1.0, "ap50_license_plate": 0.0}
    monkeypatch.setattr(detector, "detect", lambda _d, _p, threshold: [[]])
    assert detector.average_precision(None, scenes)["ap50_face"] == 0.0


def test_average_precision_is_the_area_under_the_falling_envelope():
    # Precisions at the hits: 1, 2/3, 3/4 -> envelope 1, 3/4, 3/4; three of four found.
    rows = [(0.9, True), (0.8, False), (0.7, True), (0.6, True)]
    assert detector._area(rows, 4) == pytest.approx((1 + 0.75 + 0.75) / 4)

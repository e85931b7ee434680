import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from anony_pipeline.models.detector import YuNet
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import landmarks, selection
from anony_pipeline.targets.store import TargetStore
from anony_pipeline_tests.training import tiny


class FixedDetector:
    """Finds one face in the middle of every crop, and counts how often it is asked."""

    judge = JudgeCard("detector", "fixed", "test", "fixed.onnx", "f" * 64)

    def __init__(self, box=(80, 80, 240, 240)):
        self.box, self.asked = box, 0

    def find(self, image):
        assert image.shape == (320, 320, 3)
        self.asked += 1
        points = ((120, 130), (200, 130), (160, 170), (130, 210), (190, 210))
        return [Region(Kind.FACE, self.box, landmarks=points, score=0.9)]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landmarks")
    tiny.make_coco(folder, plates=False)
    made = tiny.coco.load(folder / "unified_train.json")
    bare = [{k: v for k, v in annotation.items() if k != "landmarks"} for annotation in made.annotations]
    return dataclasses.replace(made, annotations=bare)


def choose(coco):
    return selection.choose(coco, Kind.FACE, min_region_px=8, size_hw=(32, 32), context=2.0)[0]


def test_landmarks_come_back_in_pixels_of_the_image(coco, tmp_path):
    chosen = choose(coco)
    made = landmarks.add_landmarks(coco, chosen, FixedDetector(), TargetStore(tmp_path, 1))
    for before, after in zip(chosen, made, strict=True):
        points = np.array(after.region.landmarks)
        left, top, right, bottom = before.window
        np.testing.assert_allclose(points[0], (left + (right - left) * 120 / 320, top + (bottom - top) * 130 / 320))
        assert after.region.box_xyxy == before.region.box_xyxy


def test_what_was_found_is_kept_and_a_face_elsewhere_is_not_taken(coco, tmp_path):
    chosen, store = choose(coco), TargetStore(tmp_path, 1)
    elsewhere = FixedDetector(box=(0, 0, 40, 40))
    assert landmarks.add_landmarks(coco, chosen, elsewhere, store) == chosen
    assert elsewhere.asked == len(chosen)
    assert landmarks.add_landmarks(coco, chosen, elsewhere, store) == chosen
    assert elsewhere.asked == len(chosen)


def test_known_landmarks_are_left_alone(coco, tmp_path):
    points = tuple((float(n), 1.0) for n in range(5))
    known = [dataclasses.replace(c, region=dataclasses.replace(c.region, landmarks=points)) for c in choose(coco)]
    detector = FixedDetector()
    assert landmarks.add_landmarks(coco, known, detector, TargetStore(tmp_path, 1)) == known
    assert detector.asked == 0


@pytest.mark.skipif("ANONY_REAL_DATA" not in os.environ, reason="ANONY_REAL_DATA names no folder of real images")
def test_eyes_are_found_above_the_mouth_on_photographs():
    root = Path(os.environ["ANONY_REAL_DATA"])
    detector = YuNet(next((root / "models").glob("yunet*.onnx")))
    found = []
    for path in sorted((root / "faces_id").rglob("*.jpg"))[:20]:
        image = images.read(path)
        height, width = image.shape[:2]
        box = (0.28 * width, 0.25 * height, 0.72 * width, 0.78 * height)
        item = selection.Chosen({}, {}, Region(Kind.FACE, box), (0.0, 0.0, float(width), float(height)))
        points = landmarks.find_landmarks(image, item, detector)
        if points is not None:
            found.append(points)
            eyes, mouth = np.array(points[:2]), np.array(points[3:])
            assert eyes[:, 1].max() < mouth[:, 1].min()
            assert eyes[0, 0] < eyes[1, 0]
    assert len(found) >= 16

import math

import numpy as np
import torch
import torch.nn.functional as F

from anony_pipeline.fitting import base_models
from anony_pipeline.fitting.recognizer import ArcMargin, clear, verification
from anony_pipeline.fitting.rendering import Faces
from anony_pipeline.models.recognizer import ARCHITECTURES

CLEAR = {"shrink": 0.8, "yaw": -45.0, "mask": "none", "glasses": "thin", "hat": "cap", "time": "dusk"}


def faces_of(attributes, people=None):
    count = len(attributes)
    boxes = np.tile(np.float32([30, 30, 78, 90]), (count, 1))
    landmarks = np.tile(np.float32([[42, 55], [66, 55], [54, 66], [45, 76], [63, 76]]), (count, 1, 1))
    images = np.random.default_rng(0).integers(0, 255, (count, 128, 128, 3), dtype=np.uint8)
    return Faces(images, boxes, landmarks, np.arange(count) if people is None else people, attributes)


def test_the_margin_is_added_to_the_angle_of_the_right_person():
    torch.manual_seed(0)
    head = ArcMargin(5)
    embeddings, labels = torch.randn(3, 512), torch.tensor([0, 3, 4])
    angles = torch.arccos(F.normalize(embeddings) @ F.normalize(head.weight).T)
    for row, label in enumerate(labels):
        angles[row, label] += 0.4
    expected = F.cross_entropy(torch.cos(angles) * head.scale, labels)
    torch.testing.assert_close(head(embeddings, labels, 0.4), expected, rtol=1e-4, atol=1e-4)


def test_the_scale_grows_with_the_number_of_people_up_to_the_papers():
    assert ArcMargin(10).scale < ArcMargin(1000).scale <= 64
    assert math.isclose(ArcMargin(100).scale, 3 * math.sqrt(2) * math.log(99))


def test_people_far_apart_are_all_told_apart_and_noise_is_not():
    people = np.repeat(np.arange(40), 4)
    centers = F.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)))
    perfect = verification(centers[people], people)
    assert perfect == {"rank1": 1.0, "tar_at_far_1e3": 1.0}
    noise = F.normalize(torch.randn(160, 64, generator=torch.Generator().manual_seed(1)))
    chance = verification(noise, people)
    assert chance["rank1"] < 0.1
    assert chance["tar_at_far_1e3"] < 0.05


def test_nothing_to_compare_is_no_figure():
    alone = verification(F.normalize(torch.ones(1, 8)), np.array([3]))
    assert all(math.isnan(value) for value in alone.values())


def test_clear_faces_are_large_turned_little_uncovered_and_lit():
    spoiled = [
        {"shrink": 0.79}, {"yaw": 45.1}, {"mask": "cloth"}, {"glasses": "sun"}, {"hat": "hood"}, {"time": "night"}
    ]  # fmt: skip
    assert clear(faces_of([CLEAR, *({**CLEAR, **one} for one in spoiled)])).tolist() == [True, *[False] * 6]


def test_recognition_is_measured_on_all_pictures_and_on_clear_ones():
    """Who is dark is seen by anybody; unclear pictures are all alike here, so only clear ones tell people apart."""
    faces = faces_of([CLEAR, {**CLEAR, "time": "night"}] * 6, people=np.repeat([1, 2, 3], 4))
    for number, image in enumerate(faces.images):
        if number % 2 == 0:
            image[:] = np.random.default_rng(int(faces.people[number])).integers(0, 255, image.shape)
        else:
            image[:] = 128
    torch.manual_seed(0)
    figures = base_models.recognition(ARCHITECTURES["recognizer"]().eval(), faces, torch.device("cpu"))
    assert (figures["pictures"], figures["pictures_clear"]) == (12, 6)
    for by in ("points", "box"):
        assert figures[f"rank1_{by}_clear"] == figures[f"tar_at_far_1e3_{by}_clear"] == 1.0
        assert figures[f"tar_at_far_1e3_{by}"] < 0.5
    alone = base_models.recognition(ARCHITECTURES["recognizer"]().eval(), faces_of([CLEAR]), torch.device("cpu"))
    assert alone["rank1_box"] is None

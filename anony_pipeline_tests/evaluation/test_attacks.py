"""Controls of the attackers: they must see originals, break a weak blur, and fail where nothing is left."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from anony_pipeline.evaluation import attacks
from anony_pipeline.evaluation.attacks import Known
from anony_pipeline.fitting.attackers import Budget, Restorer, fit_restorer, restore
from anony_pipeline.models.recognizer import RecognizerTwin
from anony_pipeline_tests.evaluation import street

PEOPLE, PHOTOGRAPHS = 6, 6
BUDGET = Budget(steps=25, seed=0, device=torch.device("cpu"))


def faces(change):
    """Six photographs each of six people, who are coarse patterns, in other light and place each time."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (PEOPLE, 7, 7, 3)) * 180 + 30
    crops = []
    for person in range(PEOPLE):
        for _ in range(PHOTOGRAPHS):
            face = np.kron(patterns[person], np.ones((16, 16, 1))) * rng.uniform(0.8, 1.1) + rng.normal(
                0, 8, (112, 112, 3)
            )
            shifted = np.roll(face, rng.integers(-3, 4, 2), axis=(0, 1))
            crops.append(change(shifted.clip(0, 255).astype(np.uint8)))
    count = PEOPLE * PHOTOGRAPHS
    return Known(np.arange(count), crops, np.repeat(np.arange(PEOPLE), PHOTOGRAPHS), np.arange(count))


def blurred(sigma):
    return lambda crop: cv2.GaussianBlur(crop, (0, 0), sigma)


def solid(crop):
    return np.full_like(crop, 128)


def tiny():
    """A recognizer that has learned nothing yet."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 7, 8, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14 * 14, 512)]
    return RecognizerTwin(nn.Sequential(*layers))


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [(lambda crop: crop, 0.9, 1), (blurred(4), 0.8, 1), (solid, 0, 0.35)],
    ids=["originals", "a small blur", "solid"],
)
def test_the_parrot_names_people_in_originals_and_in_a_small_blur_and_not_in_solid_color(change, low, high):
    outcome = attacks.parrot(tiny(), faces(change), BUDGET)
    assert outcome.chance == pytest.approx(1 / PEOPLE)
    assert len(outcome.hits) == PEOPLE * PHOTOGRAPHS / 2
    assert low <= outcome.hits.mean() <= high


@pytest.mark.slow
def test_restoration_brings_a_small_blur_nearer_to_the_original():
    before, after = faces(lambda crop: crop).crops_rgb, faces(blurred(3)).crops_rgb
    budget = Budget(steps=60, seed=0, device=torch.device("cpu"))
    network = fit_restorer(after[::2], before[::2], budget)
    restored = restore(network, after[1::2], budget)
    distance = lambda crops: np.abs(np.array(crops, float) - np.array(before[1::2], float)).mean()  # noqa: E731
    assert distance(restored) < 0.8 * distance(after[1::2])


def test_a_restorer_begins_by_changing_nothing():
    pixels = torch.rand(2, 3, 112, 112) * 2 - 1
    assert torch.equal(Restorer()(pixels), pixels)


class Coarse(street.PatternRecognizer):
    """Knows people by the coarse pattern of the whole crop."""

    input_size = 112

    def embed(self, crops_rgb):
        small = np.array([cv2.resize(crop, (7, 7), interpolation=cv2.INTER_AREA).ravel() for crop in crops_rgb], float)
        small -= small.mean(axis=1, keepdims=True)
        return (small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def test_restored_faces_of_people_the_attacker_never_saw_are_re_identified():
    budget = Budget(steps=1, seed=0, device=torch.device("cpu"))
    originals = faces(lambda crop: crop)
    seen = attacks.restoration(faces(blurred(2)), originals, Coarse(), budget)
    blind = attacks.restoration(faces(solid), originals, Coarse(), budget)
    assert seen.hits.mean() > 0.9
    assert blind.hits.mean() < 0.4
    assert set(seen.subjects) == {row for row in range(36) if originals.persons[row] % 2}


def test_people_in_one_photograph_alone_give_no_attack():
    known = faces(solid)
    alone = Known(known.subjects[::6], known.crops_rgb[::6], known.persons[::6], known.images[::6])
    assert "two photographs" in attacks.parrot(tiny(), alone, BUDGET).reason
    few = Known(known.subjects[:6], known.crops_rgb[:6], known.persons[:6], known.images[:6])
    assert "only 1 known people" in attacks.restoration(few, few, Coarse(), BUDGET).reason
    assert "no held-out recognizer" in attacks.restoration(known, known, None, BUDGET).reason

"""Regions of a few pixels continue what surrounds them, and show nothing of what they hide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.anonymize import filling
from anony_pipeline.anonymize.anonymizer import Anonymizer
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.structures.regions import Kind, Region

SMALL = Region(Kind.FACE, (50.0, 50.0, 56.0, 57.0))


def anonymized(image, regions):
    policy = Policy(tiny="texture", min_region_px=8)
    return Anonymizer(None, Verifier(None, None, 0.4), detect=None, policy=policy).anonymize(image, regions)


def noisy(level, sigma, seed=0):
    return np.clip(np.random.default_rng(seed).normal(level, sigma, (120, 120, 3)), 0, 255).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 110)] * 2, *[st.integers(1, 9)] * 2), min_size=1, max_size=6),
    seed=st.integers(0, 999),
)
def test_what_is_under_any_mask_never_matters_and_nothing_else_changes(boxes, seed):
    masks = np.array([(x, y, min(120, x + w), min(120, y + h)) for x, y, w, h in boxes])
    image, covered = noisy(120, 20, seed), np.zeros((120, 120), bool)
    for x_min, y_min, x_max, y_max in masks:
        covered[y_min:y_max, x_min:x_max] = True
    results = []
    for hidden in (0, 255, None):
        result = image.copy()
        if hidden is not None:
            result[covered] = hidden
        for number, mask in enumerate(masks):
            filling.continue_surroundings(result, mask, masks, number)
        results.append(result)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert np.array_equal(results[0][~covered], image[~covered])


@pytest.mark.parametrize("sigma", [0, 4, 12])
def test_the_fill_has_the_level_and_the_grain_of_its_surroundings(sigma):
    _, rows = anonymized(noisy(140, sigma), [SMALL])
    x_min, y_min, x_max, y_max = rows[0].mask_xyxy
    fills = [anonymized(noisy(140, sigma, seed), [SMALL])[0][y_min:y_max, x_min:x_max] for seed in range(12)]
    assert rows[0].method == "texture"
    assert np.mean(fills) == pytest.approx(140, abs=max(1, sigma / 2))
    # The rim that is continued has grain of its own, which adds to what is drawn.
    assert 0.8 * sigma <= np.mean([fill.std() for fill in fills]) <= 1.6 * sigma + 1


def test_an_edge_goes_on_behind_it():
    image = np.full((120, 120, 3), 40, np.uint8)
    image[:, 53:] = 200
    result, rows = anonymized(image, [SMALL])
    x_min, y_min, x_max, y_max = rows[0].mask_xyxy
    inside = result[y_min:y_max, x_min:x_max].astype(int)
    assert inside[:, 0].mean() < 90
    assert inside[:, -1].mean() > 150


def test_the_same_region_gets_the_same_fill():
    first, second = (anonymized(noisy(100, 9), [SMALL])[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_where_there_is_nothing_to_continue_it_is_solid():
    crowd = [Region(Kind.FACE, (x, y, x + 7.0, y + 7.0)) for x in range(0, 120, 7) for y in range(0, 120, 7)]
    image, rows = anonymized(noisy(100, 9), crowd)
    assert {row.method for row in rows} == {"solid"}
    assert (image == Policy().solid_color).all()

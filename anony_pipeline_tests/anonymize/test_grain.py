"""What is pasted gets the noise that its surroundings have more of, and shows nothing of what other masks hide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.anonymize import filling

MASK = np.array([40, 40, 72, 76])
INSIDE = (slice(40, 76), slice(40, 72))


def noisy(sigma, seed=0):
    return np.clip(np.random.default_rng(seed).normal(128, sigma, (120, 120, 3)), 0, 255).round().astype(np.uint8)


def matched(image, holes=None):
    result = image.copy()
    filling.match_grain(result, MASK, MASK[None] if holes is None else holes, seed=1)
    return result


@pytest.mark.parametrize("sigma", [3, 8, 20])
def test_the_estimate_is_the_standard_deviation_of_white_noise_and_edges_hardly_move_it(sigma):
    image, everywhere = noisy(sigma).astype(np.float32), np.ones((120, 120), bool)
    assert filling.grain(image, everywhere) == pytest.approx(image.std(axis=(0, 1)), rel=0.05)
    image[:, 60:] += 90
    assert filling.grain(image, everywhere) == pytest.approx([sigma] * 3, rel=0.1)


@pytest.mark.parametrize("sigma", [4, 12])
def test_a_smooth_patch_gets_the_grain_of_its_surroundings(sigma):
    image = noisy(sigma)
    image[INSIDE] = 100
    result = matched(image)
    assert result[INSIDE].std(axis=(0, 1)) == pytest.approx([sigma] * 3, rel=0.12)
    assert result[INSIDE].mean() == pytest.approx(100, abs=0.5)


def test_what_it_lacks_is_added_as_variances_add():
    image = noisy(12)
    image[INSIDE] = noisy(9, seed=5)[INSIDE]
    assert matched(image)[INSIDE].std() == pytest.approx(12, rel=0.1)


def test_a_patch_with_more_grain_than_its_surroundings_stays_as_it_is():
    image = noisy(2)
    image[INSIDE] = noisy(15, seed=5)[INSIDE]
    assert np.array_equal(matched(image), image)


def test_without_noise_nothing_is_added():
    image = np.tile(np.arange(120, dtype=np.uint8)[:, None, None], (1, 120, 3))
    assert np.array_equal(matched(image), image)


def test_where_there_is_nothing_to_look_at_nothing_is_added():
    image = noisy(12)
    image[INSIDE] = 100
    assert np.array_equal(matched(image, holes=np.array([[0, 0, 120, 118]])), image)


@settings(max_examples=30, deadline=None)
@given(
    others=st.lists(st.tuples(*[st.integers(0, 110)] * 2, *[st.integers(1, 30)] * 2), max_size=4),
    seed=st.integers(0, 999),
)
def test_what_is_under_other_masks_never_matters_and_nothing_outside_changes(others, seed):
    holes = np.array([MASK, *((x, y, min(120, x + w), min(120, y + h)) for x, y, w, h in others)])
    image, hidden = noisy(10, seed), np.zeros((120, 120), bool)
    for x_min, y_min, x_max, y_max in holes[1:]:
        hidden[y_min:y_max, x_min:x_max] = True
    image[INSIDE], hidden[INSIDE] = 90, False
    black = image.copy()
    black[hidden] = 0
    results = [matched(version, holes) for version in (image, black)]
    assert np.array_equal(results[0][INSIDE], results[1][INSIDE])
    outside = np.ones((120, 120), bool)
    outside[INSIDE] = False
    assert np.array_equal(results[0][outside], image[outside])

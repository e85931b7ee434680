"""Classical redaction: inside the mask everything is gone, outside nothing has changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.ops import redact

ALL = {"solid": redact.solid, "blur": redact.blur, "pixelate": redact.pixelate, "inpaint": redact.inpaint}


def image_of(seed, height=40, width=60):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def masks(draw, height=40, width=60):
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    mask = np.zeros((height, width), np.float32)
    mask[y : y + draw(st.integers(1, height)), x : x + draw(st.integers(1, width))] = 1
    return mask


@pytest.mark.parametrize("name", list(ALL))
@settings(max_examples=25, deadline=None)
@given(mask=masks(), seed=st.integers(0, 99))
def test_nothing_outside_the_mask_changes(name, mask, seed):
    image = image_of(seed)
    before = image.copy()
    result = ALL[name](image, mask)
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(image, before)
    assert result.dtype == np.uint8


@pytest.mark.parametrize("name", list(ALL))
def test_an_empty_mask_changes_nothing(name):
    image = image_of(0)
    np.testing.assert_array_equal(ALL[name](image, np.zeros((40, 60), np.float32)), image)


def test_solid_leaves_one_color():
    mask = np.zeros((40, 60), np.float32)
    mask[5:20, 5:20] = 1
    assert np.unique(redact.solid(image_of(0), mask, (1, 2, 3))[5:20, 5:20].reshape(-1, 3), axis=0).tolist() == [
        [1, 2, 3]
    ]


@pytest.mark.parametrize("name", ["solid", "inpaint"])
@settings(max_examples=25, deadline=None)
@given(mask=masks(), seed=st.integers(0, 99))
def test_what_is_under_the_mask_has_no_influence(name, mask, seed):
    first = image_of(seed)
    second = np.where(mask[..., None] > 0, image_of(seed + 100), first)
    np.testing.assert_array_equal(ALL[name](first, mask), ALL[name](second, mask))


def test_pixelate_leaves_few_colors():
    mask = np.zeros((40, 60), np.float32)
    mask[0:40, 0:40] = 1
    inside = redact.pixelate(image_of(0), mask, blocks=5)[:, :40].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) == 25


@pytest.mark.parametrize("edge", [12, 36])
def test_blur_is_as_strong_on_large_regions_as_on_small_ones(edge):
    """A pattern that scales with the region keeps the same share of its contrast."""
    pattern = np.kron(np.indices((4, 4)).sum(0) % 2 * 255, np.ones((edge // 4, edge // 4))).astype(np.uint8)
    image = np.full((120, 120, 3), 128, np.uint8)
    image[40 : 40 + edge, 40 : 40 + edge] = pattern[..., None]
    mask = np.zeros((120, 120), np.float32)
    mask[40 : 40 + edge, 40 : 40 + edge] = 1
    assert redact.blur(image, mask)[40 : 40 + edge, 40 : 40 + edge].std() < 0.25 * pattern.std()

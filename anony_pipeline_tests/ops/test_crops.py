"""What is cut can be pasted back, and nothing outside the mask ever changes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.ops import crops


def smooth_image(height, width, seed=0):
    """A picture without detail finer than what resampling keeps."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 6)
    return (255 * (blurred - blurred.min()) / np.ptp(blurred)).astype(np.uint8)


def noisy_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def windows(draw, height=60, width=80):
    x, y = draw(st.floats(-20, width - 5)), draw(st.floats(-20, height - 5))
    edge = draw(st.floats(6, 70))
    return (x, y, x + edge * draw(st.floats(0.5, 2)), y + edge)


@st.composite
def masks(draw, height=60, width=80):
    x, y = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    mask = np.zeros((height, width), np.float32)
    mask[y : y + draw(st.integers(1, 30)), x : x + draw(st.integers(1, 30))] = draw(st.sampled_from([1.0, 0.5]))
    return mask


@settings(max_examples=60, deadline=None)
@given(window=windows(), mask=masks(), seed=st.integers(0, 99))
def test_nothing_outside_the_mask_changes(window, mask, seed):
    image = noisy_image(60, 80, seed)
    crop = noisy_image(32, 48, seed + 1)
    before = image.copy()
    result = crops.paste(image, crop, window, mask)
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(image, before)
    assert result.dtype == np.uint8
    assert result.shape == image.shape


@settings(max_examples=60, deadline=None)
@given(mask=masks(), corner=st.tuples(st.integers(0, 20), st.integers(0, 20)), scale=st.sampled_from([1, 2, 3]))
def test_cut_then_paste_gives_the_original(mask, corner, scale):
    image = smooth_image(60, 80)
    window = (corner[0], corner[1], corner[0] + 48, corner[1] + 32)
    mask[:, : corner[0]] = mask[:, corner[0] + 48 :] = 0
    mask[: corner[1]] = mask[corner[1] + 32 :] = 0
    crop = crops.cut(image, window, (32 * scale, 48 * scale))
    result = crops.paste(image, crop, window, mask)
    assert np.abs(result.astype(int) - image).max() <= (0 if scale == 1 else 3)


def test_a_window_of_whole_pixels_is_a_plain_slice():
    image = noisy_image(40, 50)
    np.testing.assert_array_equal(crops.cut(image, (10, 5, 30, 35), (30, 20)), image[5:35, 10:30])


def test_beyond_the_edge_the_border_is_repeated():
    image = noisy_image(20, 20)
    np.testing.assert_array_equal(
        crops.cut(image, (-4, -3, 24, 23), (26, 28)), np.pad(image, ((3, 3), (4, 4), (0, 0)), mode="edge")
    )


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_shrinking_by_a_whole_factor_is_the_mean_of_blocks(factor):
    image = noisy_image(30, 60)
    expected = image.reshape(30 // factor, factor, 60 // factor, factor, 3).mean(axis=(1, 3))
    found = crops.cut(image, (0, 0, 60, 30), (30 // factor, 60 // factor))
    assert np.abs(found - expected).max() <= 0.51


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = crops.cut(stripes, (0, 0, 64, 64), (16, 16))
    assert np.ptp(small) <= 2
    assert abs(float(small.mean()) - 127.5) < 2


def test_a_mask_of_one_channel_is_cut_like_an_image():
    mask = np.zeros((20, 20), np.float32)
    mask[5:10, 5:10] = 1
    np.testing.assert_array_equal(crops.cut(mask, (5, 5, 10, 10), (5, 5)), np.ones((5, 5), np.float32))


@given(
    box=st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(1, 300), st.floats(1, 300)),
    size=st.sampled_from([(64, 64), (64, 192), (512, 512)]),
    context=st.floats(1.01, 4),
)
def test_a_window_shows_its_box_in_the_middle_with_the_crops_aspect(box, size, context):
    x, y, width, height = box
    x_min, y_min, x_max, y_max = crops.window_around((x, y, x + width, y + height), size, context)
    assert x_min <= x
    assert y_min <= y
    assert x_max >= x + width
    assert y_max >= y + height
    assert (x_max - x_min) / (y_max - y_min) == pytest.approx(size[1] / size[0])
    assert (x_min + x_max, y_min + y_max) == pytest.approx((2 * x + width, 2 * y + height))
    tighter = min((x_max - x_min) / width, (y_max - y_min) / height)
    assert tighter == pytest.approx(context)


@given(window=windows(), points=st.lists(st.tuples(st.floats(-50, 90), st.floats(-50, 90)), min_size=1, max_size=5))
def test_points_go_to_the_crop_and_back(window, points):
    size = (32, 48)
    moved = crops.to_crop(np.array(points), window, size)
    matrix = crops.matrix_to_image(window, size)
    back = moved @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_an_empty_mask_changes_nothing():
    image = noisy_image(10, 10)
    result = crops.paste(image, noisy_image(5, 5, 1), (0, 0, 5, 5), np.zeros((10, 10), np.float32))
    np.testing.assert_array_equal(result, image)
    assert result is not image

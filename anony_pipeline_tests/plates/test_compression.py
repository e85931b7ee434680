"""A photograph's JPEG quality is found in its pixels, and what is put into it shows the same blocks."""

import cv2
import numpy as np
import pytest

from anony_pipeline.plates import compression, fit, render
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind, Region

WINDOW = (slice(45, 101), slice(61, 163))
PLATE = Region(Kind.PLATE, (70, 50, 150, 70))


def photograph():
    """A textured street with an old plate, never stored: 160 x 240."""
    rng = np.random.default_rng(2)
    coarse = cv2.resize(rng.uniform(20, 220, (12, 18, 3)).astype(np.float32), (240, 160), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(rng.normal(0, 25, (160, 240, 1)).astype(np.float32), (0, 0), 1.0)[..., None]
    image = np.clip(coarse + fine, 0, 255).astype(np.uint8)
    image[50:70, 70:150] = render.render(load_styles()["FR"], "AB-123-CD", (20, 80))
    return image


@pytest.mark.parametrize("quality", [35, 50, 62, 75, 80, 86])
def test_a_quality_is_found(quality):
    assert compression.quality_of(compression.stored(photograph(), quality), WINDOW) == pytest.approx(quality, abs=2)


def test_pixels_that_were_never_stored_or_resized_since_show_none():
    assert compression.quality_of(photograph(), WINDOW) is None
    resized = cv2.resize(compression.stored(photograph(), 60), (200, 133), interpolation=cv2.INTER_AREA)
    assert compression.quality_of(resized, WINDOW) is None


def test_a_flat_picture_shows_none():
    assert compression.quality_of(np.full((160, 240, 3), 90, np.uint8), WINDOW) is None


@pytest.mark.parametrize("part", [slice(0, 3), slice(45, 101), slice(150, 160), slice(0, 160)])
def test_windows_are_of_whole_blocks_and_inside_the_image(part):
    rows, columns = compression.whole_blocks((part, part), (160, 161))
    for found, most in ((rows, 160), (columns, 161)):
        assert found.start % 8 == 0
        assert found.stop % 8 == 0 or found.stop == most
        assert found.start <= part.start
        assert found.stop >= part.stop


def test_a_new_plate_is_stored_as_its_photograph_was():
    plate = render.render(load_styles()["FR"], "GH-456-JK", (60, 240))
    image = compression.stored(photograph(), 50)
    fitted = fit.fit(image, PLATE, plate)
    assert fitted.jpeg_quality == 50
    unstored = fit.fit(photograph(), PLATE, plate)
    assert unstored.jpeg_quality is None
    inside = fitted.mask > 0

    def change(picture):
        return np.abs(compression.stored(picture, 50).astype(int) - picture)[inside].mean()

    assert change(fitted.image) < 0.4 * change(unstored.image)
    np.testing.assert_array_equal(fitted.image[~inside], image[~inside])


def test_a_plate_at_the_edge_of_a_small_picture_is_replaced():
    image = compression.stored(photograph(), 60)[100:131, :53]
    fitted = fit.fit(np.ascontiguousarray(image), Region(Kind.PLATE, (30, 12, 53, 20)), photograph()[50:70, 70:150])
    assert fitted.image.shape == image.shape

import cv2
import numpy as np
import pytest

from anony_pipeline.datasets.streetscape import vehicles
from anony_pipeline.plates import serials
from anony_pipeline.plates.styles import load_styles


def crops(count=16, family="base"):
    return [vehicles.render_plate_crop(np.random.default_rng(seed), family) for seed in range(count)]


def test_a_plate_crop_says_what_is_in_it():
    for one in crops():
        assert one.style in serials.parse(one.serial, load_styles())
        height, width = one.image.shape[:2]
        assert (one.quad >= -0.01).all()
        assert (one.quad <= [width, height]).all()
        np.testing.assert_allclose(one.box_xyxy, [*one.quad.min(axis=0), *one.quad.max(axis=0)])


def test_the_corners_go_clockwise():
    for one in crops():
        x, y = one.quad.T
        assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0


def test_the_corners_lead_back_to_the_drawn_plate():
    """Warped upright by its corners, a photographed plate resembles its own drawing more than another serial's."""
    right = 0
    sharp = [one for one in crops(60) if one.height_px > 30][:10]
    for number, one in enumerate(sharp):
        target = np.array([[0, 0], [120, 0], [120, 30], [0, 30]], np.float32)
        upright = cv2.warpPerspective(one.image, cv2.getPerspectiveTransform(one.quad, target), (120, 30))
        style = load_styles()[one.style]
        other = serials.draw(style, np.random.default_rng(900 + number), avoid=[one.serial])
        scores = []
        for text in (one.serial, other):
            drawn = cv2.resize(
                (vehicles.plate_image(load_styles()[one.style], text, 0.0, 0) * 255).astype(np.uint8), (120, 30)
            )
            scores.append(np.corrcoef(upright.ravel(), drawn.ravel())[0, 1])
        right += scores[0] > scores[1]
    assert right >= 9


def test_the_demos_plates_are_of_the_demos_countries():
    assert {one.style for one in crops(family="demo")} <= set(vehicles.DEMO_STYLES)


def test_a_warped_plate_fills_its_corners():
    canvas = np.zeros((40, 60, 4), np.float32)
    quad = np.array([[10.0, 10], [50, 14], [50, 30], [10, 26]])
    vehicles.warp_plate(canvas, np.ones((20, 80, 3), np.float32), quad)
    assert canvas[..., 3].sum() == pytest.approx(cv2.contourArea(quad.astype(np.float32)), rel=0.05)
    assert canvas[20, 30, :3] == pytest.approx(1)

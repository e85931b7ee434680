import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.errors import DatasetError, MediaError
from anony_pipeline.plates import appearance, fit, quads, render, serials
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind, Region

STYLES = load_styles()


def scene(rng, style, width, *, blur=0.6, noise=1.5, light=1.0, angle=6.0):
    """A plate at a known place on a car-like ground: image, corners. The light has one strength or one a channel."""
    height, factor = width * style.size_mm[1] / style.size_mm[0], 4
    size = (round(3 * height) + 40, round(1.6 * width) + 40)
    ground = np.full((*size, 3), rng.uniform(20, 110, 3), np.float32)
    ground[round(rng.uniform(0.2, 0.8) * size[0]) :] *= rng.uniform(0.6, 1.3)
    turn = np.deg2rad(rng.uniform(-angle, angle))
    half = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
    corners = half @ np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))
    corners += np.array(size[::-1]) / 2 + rng.uniform(-2, 2, 2)
    drawn = (round(512 * style.size_mm[1] / style.size_mm[0]), 512)
    plate = render.render(style, serials.draw(style, rng), drawn).astype(np.float32) * light
    source = np.array([(0, 0), (drawn[1], 0), drawn[::-1], (0, drawn[0])], np.float32)
    matrix = cv2.getPerspectiveTransform(source - 0.5, (corners * factor - 0.5).astype(np.float32))
    fine = (size[1] * factor, size[0] * factor)
    cover = cv2.warpPerspective(np.ones(drawn, np.float32), matrix, fine)[..., None]
    above = cv2.warpPerspective(plate, matrix, fine, borderMode=cv2.BORDER_REPLICATE)
    image = cv2.resize(ground, fine) * (1 - cover) + above * cover
    image = cv2.GaussianBlur(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), (0, 0), blur)
    image += rng.normal(0, noise, (*size, 1))
    return np.clip(image, 0, 255).astype(np.uint8), corners


def box_of(corners):
    return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def new_plate(style, seed=9, size=None):
    return render.render(style, serials.draw(style, np.random.default_rng(seed)), size or (110, 520))


@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_corners_of_known_plates_are_found(width):
    rng = np.random.default_rng(width)
    errors, found = [], []
    for style in [*STYLES.values()][::4]:
        image, corners = scene(rng, style, width)
        quad = fit.find_quad(image, Region(Kind.PLATE, box_of(corners)))
        assert 0 <= quad.score <= 1
        found.append(quad.score > 0)
        errors.append(np.hypot(*(quad.corners - corners).T).mean())
    # One plate may be of its car's color: that it was not found is known.
    assert sum(found) >= len(found) - 1
    assert np.mean(np.array(errors)[found]) < max(1.5, 0.03 * width)


@pytest.mark.parametrize("width", [64, 160])
@pytest.mark.parametrize("share", [0.8, 0.9])
def test_ends_are_found_beyond_a_box_that_is_too_small(width, share):
    rng = np.random.default_rng(width)
    before, after = [], []
    for key in ("PL", "GB", "BR_MERCOSUR", "US_TX", "NL", "UA", "SE", "FI"):
        image, corners = scene(rng, STYLES[key], width, angle=2.0)
        low, high = np.array(box_of(corners)).reshape(2, 2)
        middle, half = (low + high) / 2, (high - low) / 2 * share
        box = (*(middle - half).tolist(), *(middle + half).tolist())
        found = fit.find_quad(image, Region(Kind.PLATE, box)).corners
        # The right end: a band of the car's color may hide the left one.
        before.append(corners[:, 0].max() - box[2])
        after.append(abs(corners[[1, 2], 0].mean() - found[[1, 2], 0].mean()))
    assert np.mean(np.array(after) < 0.02 * width) >= 0.7
    assert np.median(after) < 0.3 * np.median(before)


def test_no_outline_is_known_as_none():
    rng = np.random.default_rng(0)
    image = (np.full((80, 200, 3), 120.0) + rng.normal(0, 2, (80, 200, 1))).astype(np.uint8)
    found = fit.find_quad(image, Region(Kind.PLATE, (40, 30, 140, 52)))
    assert found.score == 0
    np.testing.assert_array_equal(found.corners, [(40, 30), (140, 30), (140, 52), (40, 52)])


def test_a_given_quad_is_kept():
    quad = ((40.0, 30.0), (140.0, 34.0), (139.0, 55.0), (41.0, 50.0))
    found = fit.find_quad(np.zeros((80, 200, 3), np.uint8), Region(Kind.PLATE, (40, 30, 140, 55), quad=quad))
    np.testing.assert_array_equal(found.corners, np.array(quad, np.float32))
    assert found.score == 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-20, 90),
    st.floats(-10, 60),
    st.floats(2, 90),
    st.floats(2, 50),
    st.booleans(),
)
def test_nothing_outside_the_mask_changes_and_the_mask_covers_box_and_quad(seed, x, y, width, height, given_quad):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    box = (x, y, x + width, y + height)
    quad = None
    if given_quad:
        corners = np.array([(x, y), (box[2], y), (box[2], box[3]), (x, box[3])])
        quad = tuple(map(tuple, (corners + rng.uniform(-0.1, 0.1, (4, 2)) * min(width, height)).tolist()))
    region = Region(Kind.PLATE, box, quad=quad)
    try:
        result = fit.fit(image, region, new_plate(STYLES["FR"]))
    except DatasetError as error:
        assert "outside the image" in str(error)  # noqa: PT017 - both outcomes are right, by where the box fell
        return
    assert set(np.unique(result.mask)) <= {0.0, 1.0}
    np.testing.assert_array_equal(result.image[result.mask == 0], image[result.mask == 0])
    left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    assert (result.mask[top : int(np.ceil(box[3])), left : int(np.ceil(box[2]))] == 1).all()
    inside = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), np.rint(result.quad.corners - 0.5).astype(int), 1)
    assert (result.mask[inside > 0] == 1).all()


def test_the_new_pixels_know_the_old_plate_by_its_statistics_alone(monkeypatch):
    image, corners = scene(np.random.default_rng(3), STYLES["FR"], 120)
    region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
    first = fit.fit(image, region, new_plate(STYLES["FR"]))
    scrambled = image.copy()
    plate = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), np.rint(corners - 0.5).astype(int), 1) > 0
    scrambled[plate] = np.random.default_rng(0).permutation(scrambled[plate])
    monkeypatch.setattr(appearance, "estimate", lambda *_, **__: first.look)
    second = fit.fit(scrambled, region, new_plate(STYLES["FR"]))
    np.testing.assert_array_equal(first.image, second.image)


@pytest.mark.parametrize("width", [110, 200])
def test_a_holder_stays_and_what_is_written_on_it_goes(width):
    image, corners = scene(np.random.default_rng(3), STYLES["PL"], width, angle=0.0, light=0.9)
    image = np.maximum(image, 120)
    left, top, right, bottom = (round(value) for value in box_of(corners))
    strip = slice(bottom + 1, bottom + 1 + (bottom - top) // 3)
    plate = image[top:bottom, left:right].copy()
    rim = max(2, width // 50)
    image[top - rim : strip.stop + rim, left - rim : right + rim] = 25
    image[top:bottom, left:right] = plate
    cv2.putText(image, "MEIER", (left + width // 4, strip.stop - 1), 0, width / 400, (210, 210, 210), 1 + width // 150)
    box = (left - rim, top - rim, right + rim, strip.stop + rim)
    made = fit.fit(image, Region(Kind.PLATE, box, quad=tuple(map(tuple, corners.tolist()))), new_plate(STYLES["PL"]))
    part = (slice(strip.start + 2, strip.stop - 1), slice(left, right))
    before, after = (appearance.luma(picture)[part] for picture in (image, made.image))
    assert abs(after.mean() - before.mean()) < 15
    strokes = [np.std(rows - cv2.blur(rows, (width // 6, 1))) for rows in (before, after)]
    assert strokes[1] < 0.2 * strokes[0]


@pytest.mark.parametrize("side", [0, 1, 2, 3])
def test_a_plate_at_the_photographs_edge_has_surroundings_of_the_photographs_colors(side):
    image = np.full((60, 160, 3), (90, 140, 60), np.uint8)
    box = [(0, 20, 90, 40), (30, 0, 120, 20), (70, 20, 160, 40), (30, 40, 120, 60)][side]
    left, top, right, bottom = box
    image[top:bottom, left:right] = 230
    quad = ((left + 6, top + 3), (right - 6, top + 3), (right - 6, bottom - 3), (left + 6, bottom - 3))
    image[top + 3 : bottom - 3, left + 6 : right - 6] = (200, 30, 30)
    made = fit.fit(image, Region(Kind.PLATE, box, quad=quad), new_plate(STYLES["PL"]))
    ring = made.mask > 0
    ring[top + 1 : bottom - 1, left + 4 : right - 4] = False
    # Neither black, nor the old plate's red.
    colors = made.image[ring].astype(int)
    assert colors.min(axis=0)[1] > 90
    assert (colors[:, 0] - colors[:, 1]).max() < 60


@pytest.mark.parametrize("width", [16, 32, 100, 300])
@pytest.mark.parametrize("light", [0.25, 1.0], ids=["night", "day"])
def test_the_new_plate_has_the_old_ones_levels(width, light):
    rng = np.random.default_rng(width)
    image, corners = scene(rng, STYLES["unspecified"], width, light=light)
    region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
    result = fit.fit(image, region, new_plate(STYLES["unspecified"]))
    inside = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), np.rint(corners).astype(int), 1) > 0
    inside = cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) > 0
    old, new = (np.percentile(appearance.luma(i)[inside], (15, 85)) for i in (image, result.image))
    np.testing.assert_allclose(new, old, atol=22)


def test_blur_noise_and_light_are_measured():
    rng = np.random.default_rng(4)
    looks = {}
    for name, blur, noise in (("sharp", 0.3, 0.5), ("soft", 1.6, 0.5), ("noisy", 0.6, 6.0)):
        image, corners = scene(rng, STYLES["FR"], 160, blur=blur, noise=noise)
        region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
        looks[name] = fit.fit(image, region, new_plate(STYLES["FR"])).look
    assert looks["soft"].blur_sigmas == pytest.approx((1.6, 1.6), abs=0.5)
    assert max(looks["sharp"].blur_sigmas) < 0.8
    assert looks["noisy"].noise_sigma == pytest.approx(6, rel=0.25)


@pytest.mark.parametrize("key", ["FR", "RO", "US_TX"])
def test_blur_of_a_motion_goes_along_it(key):
    image, corners = scene(np.random.default_rng(4), STYLES[key], 200, blur=0.5, noise=0.5, angle=1.0)
    region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
    moved = cv2.blur(image, (11, 1))
    along, across = fit.fit(moved, region, new_plate(STYLES[key])).look.blur_sigmas
    assert along > 1.8
    assert along > 2 * across
    still = fit.fit(image, region, new_plate(STYLES[key])).look.blur_sigmas
    assert still[0] == still[1]


@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
@pytest.mark.parametrize("pixels", [7, 11])
def test_a_plate_moves_with_what_it_is_fixed_to(pixels, axis):
    image, corners = scene(np.random.default_rng(4), STYLES["FR"], 200, blur=0.5, noise=0.5, angle=0.0)
    left, top, right, bottom = (round(value) for value in box_of(corners))
    # The edges of a bright bumper below and beside the plate, upright and level ones.
    bumper = np.full_like(image, 30)
    bumper[top - 12 : bottom + 12, left - 12 : right + 12] = 150
    bumper[top:bottom, left:right] = image[top:bottom, left:right]
    image = bumper
    region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
    all_moved = cv2.blur(image, (pixels, 1) if axis == 0 else (1, pixels))
    sigmas = fit.fit(all_moved, region, new_plate(STYLES["FR"])).look.blur_sigmas
    assert sigmas[axis] > 2 * sigmas[1 - axis]
    plate_alone = image.copy()
    plate_alone[top:bottom, left:right] = all_moved[top:bottom, left:right]
    sigmas = fit.fit(plate_alone, region, new_plate(STYLES["FR"])).look.blur_sigmas
    assert sigmas[0] == sigmas[1]


@pytest.mark.parametrize("sigma", [1.2, 2.0])
def test_the_sharpest_edge_tells_the_blur_across_it(sigma):
    step = np.zeros((60, 80), np.float32)
    step[:, 40:] = 200
    step[30:, :] += 40
    blurred = cv2.GaussianBlur(step, (0, 0), sigma, sigmaY=0.4)
    everywhere = np.ones(step.shape, bool)
    assert appearance.sharpest_edge(blurred, everywhere, 0) == pytest.approx(sigma, rel=0.25)
    assert appearance.sharpest_edge(blurred, everywhere, 1) < 1
    assert appearance.sharpest_edge(np.full((60, 80), 9, np.float32), everywhere, 0) == np.inf


def test_a_black_and_white_photograph_stays_so():
    image, corners = scene(np.random.default_rng(5), STYLES["FR"], 120)
    gray = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    plate = new_plate(STYLES["NL"])
    made = fit.fit(gray, Region(Kind.PLATE, box_of(corners)), plate)
    colored = fit.fit(image, Region(Kind.PLATE, box_of(corners)), plate)
    inside = made.mask > 0
    assert np.ptp(made.image[inside].astype(int), axis=1).mean() < 3
    assert np.ptp(colored.image[inside].astype(int), axis=1).mean() > 20


def test_a_compressed_photograph_keeps_its_brightness_at_any_size():
    for width in (16, 40, 300):
        image, corners = scene(np.random.default_rng(width), STYLES["RO"], width)
        packed = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
        result = fit.fit(packed, Region(Kind.PLATE, box_of(corners)), new_plate(STYLES["RO"]))
        inside = result.mask > 0
        assert result.look is not None
        before, after = (appearance.luma(picture)[inside].mean() for picture in (packed, result.image))
        assert abs(before - after) < 25


def test_a_plane_of_light_is_found():
    y, x = np.mgrid[-1:1:40j, -1:1:160j].astype(np.float32)
    position = np.stack([x, y], axis=-1)
    values = 150 * (1 + 0.2 * x - 0.1 * y)
    values[10:30, 20:140:9] = 20
    right, down = appearance.tilt(values, np.ones(values.shape, bool), position)
    assert right == pytest.approx(0.2, abs=0.02)
    assert down == pytest.approx(-0.1, abs=0.02)


def test_a_yellow_plate_stays_yellow_where_a_white_one_was():
    image, corners = scene(np.random.default_rng(5), STYLES["FR"], 160)
    result = fit.fit(image, Region(Kind.PLATE, box_of(corners)), new_plate(STYLES["NL"]))
    middle = result.image[result.mask > 0].reshape(-1, 3)
    bright = middle[middle.sum(axis=1) >= np.percentile(middle.sum(axis=1), 70)].mean(axis=0)
    assert bright[0] > 1.5 * bright[2]


def middle_color(image, region):
    """The color of the brighter half of a plate's middle: its ground's, where that is bright."""
    left, top, right, bottom = np.array(region.box_xyxy).astype(int)
    tall, wide = (bottom - top) // 4, (right - left) // 6
    pixels = image[top + tall : bottom - tall, left + wide : right - wide].reshape(-1, 3).astype(float)
    return pixels[pixels.sum(axis=1) >= np.median(pixels.sum(axis=1))].mean(axis=0)


@pytest.mark.parametrize("ink", ["#1c3f94", "#a01020", "#1d6b45"], ids=["blue", "red", "green"])
@pytest.mark.parametrize("width", [60, 200])
def test_the_old_characters_color_does_not_tint_the_new_ground(ink, width):
    made = []
    for color in ("#141414", ink):
        style = STYLES["PL"].model_copy(update={"colors": STYLES["PL"].colors.model_copy(update={"text": color})})
        image, corners = scene(np.random.default_rng(2), style, width)
        region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
        made.append(middle_color(fit.fit(image, region, new_plate(STYLES["PL"])).image, region))
    without_color, with_color = (color - color.mean() for color in made)
    np.testing.assert_allclose(with_color, without_color, atol=5)


@pytest.mark.parametrize("light", [(1.0, 0.8, 0.5), (0.9, 0.45, 0.4), (0.6, 0.7, 0.9)], ids=["warm", "lamp", "sky"])
@pytest.mark.parametrize(("old", "new"), [("PL", "PL"), ("BE", "PL"), ("NL", "NL"), ("NL", "PL"), ("PL", "NL")])
def test_a_new_plate_has_the_color_that_it_would_have_in_the_old_ones_light(old, new, light):
    image, corners = scene(np.random.default_rng(7), STYLES[old], 160, light=np.array(light), blur=0.3)
    truth, _ = scene(np.random.default_rng(7), STYLES[new], 160, light=np.array(light), blur=0.3)
    region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
    result = fit.fit(image, region, new_plate(STYLES[new]))
    off = np.abs(middle_color(result.image, region) - middle_color(truth, region))
    # Of a yellow ground in a colored light nothing says that it is not another paint.
    assert off.max() < (55 if {old, new} == {"PL", "NL"} else 16)


@pytest.mark.parametrize("blur", [0.6, 1.0, 1.4, 2.0, 2.5])
@pytest.mark.parametrize("width", [40, 64, 90])
def test_a_blurred_yellow_plate_stays_as_yellow(width, blur):
    image, corners = scene(np.random.default_rng(5), STYLES["NL"], width, blur=blur)
    region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
    made = middle_color(fit.fit(image, region, new_plate(STYLES["NL"])).image, region)
    old = middle_color(image, region)
    assert made[2] / made.mean() == pytest.approx(old[2] / old.mean(), abs=0.2)


@pytest.mark.parametrize("light", [1.5, 2.0, 2.6])
@pytest.mark.parametrize("width", [60, 160])
def test_light_that_eats_into_the_old_characters_eats_into_the_new_ones(light, width):
    shares = []
    for seed in range(6):
        image, corners = scene(np.random.default_rng(seed), STYLES["PL"], width, light=light, blur=1.0, angle=1.0)
        region = Region(Kind.PLATE, box_of(corners), quad=tuple(map(tuple, corners.tolist())))
        result = fit.fit(image, region, new_plate(STYLES["PL"], seed))
        left, top, right, bottom = np.array(region.box_xyxy).astype(int)
        tall, wide = (bottom - top) // 5, (right - left) // 8
        inner = (slice(top + tall, bottom - tall), slice(left + wide, right - tall))
        shares.append([(appearance.luma(it)[inner] < 150).mean() for it in (image, result.image)])
    before, after = np.mean(shares, axis=0)
    assert after == pytest.approx(before, rel=0.2, abs=0.02)


def test_a_white_plate_in_good_light_is_not_taken_for_an_overexposed_and_blurred_one():
    image, corners = scene(np.random.default_rng(2), STYLES["BR"], 200, blur=0.4, light=0.95, angle=1.0)
    old = appearance.luma(image)
    left, top, right, bottom = np.array(box_of(corners)).astype(int)
    dark, light = np.percentile(old[top:bottom, left:right], (2, 90))
    # Faded characters on a ground that is brightest in the middle, where a tenth of it reaches 251.
    fall = 1 - 0.25 * np.abs(np.linspace(-1, 1, image.shape[1]))[None, :, None]
    image = np.clip((100 + (image - dark) / (light - dark) * 165) * fall, 0, 253).astype(np.uint8)
    assert np.percentile(appearance.luma(image)[top:bottom, left:right], 90) > 250
    look = fit.fit(image, Region(Kind.PLATE, box_of(corners)), new_plate(STYLES["BR"])).look
    assert max(look.blur_sigmas) < 0.9
    assert look.light < 255


def test_the_same_input_gives_the_same_output():
    image, corners = scene(np.random.default_rng(6), STYLES["DE"], 90)
    region = Region(Kind.PLATE, box_of(corners))
    first, second = (fit.fit(image, region, new_plate(STYLES["DE"])) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)


def test_a_plate_of_two_pixels_is_filled_from_its_surroundings():
    image = np.full((40, 60, 3), 90, np.uint8)
    image[20:22, 30:32] = 255
    result = fit.fit(image, Region(Kind.PLATE, (30, 20, 32, 22)), new_plate(STYLES["FR"]))
    assert result.look is None
    assert result.score == 0
    assert result.image.max() <= 95


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region(Kind.PLATE, (300, 10, 340, 20)), "outside the image"),
        (Region(Kind.PLATE, (-50, 10, 0, 20)), "outside the image"),
        (Region(Kind.PLATE, (50, 10, 40, 20)), "inside out"),
        (Region(Kind.PLATE, (float("nan"), 10, 40, 20)), "inside out"),
        (Region(Kind.PLATE, (10, 10, 40, 20), quad=((10, 10), (40, 20), (40, 10), (10, 20))), "crosses itself"),
        (Region(Kind.PLATE, (10, 10, 40, 20), quad=((10, 10), (10, 20), (40, 20), (40, 10))), "counterclockwise"),
        (Region(Kind.PLATE, (10, 10, 40, 20), quad=((10, 10), (10, 10), (40, 20), (10, 20))), "crosses itself"),
    ],
)
def test_impossible_regions_are_refused(region, message):
    with pytest.raises(DatasetError, match=message):
        fit.fit(np.zeros((100, 200, 3), np.uint8), region, new_plate(STYLES["FR"]))


def test_what_is_no_image_is_refused():
    with pytest.raises(MediaError, match="plate_rgb"):
        fit.fit(np.zeros((50, 50, 3), np.uint8), Region(Kind.PLATE, (5, 5, 30, 12)), np.zeros((5, 5), np.uint8))


def test_convexity_agrees_with_opencv():
    rng = np.random.default_rng(8)
    for _ in range(300):
        corners = rng.uniform(0, 10, (4, 2))
        clockwise = cv2.contourArea(corners.astype(np.float32), oriented=True) > 0
        expected = cv2.isContourConvex(corners.astype(np.float32)) and clockwise
        assert quads.is_convex(corners) == expected


@pytest.mark.skipif("ANONY_REAL_DATA" not in os.environ, reason="ANONY_REAL_DATA names no folder of real images")
def test_outlines_are_found_on_photographs():
    root = Path(os.environ["ANONY_REAL_DATA"]) / "pp4av"
    scores = []
    for path in sorted((root / "images" / "eu").iterdir())[:20]:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        for row in (root / "annotations" / "eu" / f"{path.stem}.txt").read_text().splitlines():
            kind, x, y, w, h = map(float, row.split()[:5])
            if kind == 1:
                box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
                scores.append(fit.find_quad(image, Region(Kind.PLATE, box)).score)
    assert np.median(scores) > 0.6

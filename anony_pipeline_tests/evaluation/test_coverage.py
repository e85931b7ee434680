import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.evaluation import coverage

edges = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 12), st.integers(1, 12))


@given(st.lists(edges, max_size=4), st.lists(edges, max_size=4))
def test_coverage_equals_counting_pixels(regions, masks):
    size_hw = (32, 40)
    regions_xyxy = [(x, y, min(40, x + w), min(32, y + h)) for x, y, w, h in regions if y < 32]
    masks_xyxy = [(x, y, min(40, x + w), min(32, y + h)) for x, y, w, h in masks if y < 32]
    inside = lambda px, boxes: any(x0 <= px[0] < x1 and y0 <= px[1] < y1 for x0, y0, x1, y1 in boxes)  # noqa: E731
    pixels = [(x, y) for x in range(40) for y in range(32)]
    outside = [p for p in pixels if not inside(p, regions_xyxy)]
    boxes = np.array(regions_xyxy, float).reshape(-1, 4)
    got = coverage.cover(boxes, coverage.filled(masks_xyxy, size_hw), boxes)
    assert (got.outside, got.outside_covered) == (len(outside), sum(inside(p, masks_xyxy) for p in outside))
    for region, share in zip(regions_xyxy, got.shares, strict=True):
        mine = [p for p in pixels if inside(p, [region])]
        assert share == pytest.approx(sum(inside(p, masks_xyxy) for p in mine) / len(mine) if mine else 1.0)


def test_half_a_region_is_enough_to_be_covered_and_less_is_not():
    masks = np.array([[0, 0, 10, 5], [0, 0, 10, 4]], float)
    assert coverage.covering((0, 0, 10, 10), masks) == 0
    assert coverage.covering((0, 0, 10, 10), masks[1:]) is None
    assert coverage.covering((0, 0, 10, 10), np.zeros((0, 4))) is None


FACE_XYXY = np.array([[100, 70, 180, 160]], float)
EVERYTHING_XYXY = np.array([[0, 0, 320, 240]], float)


def photograph(surroundings):
    """A textured face, and around it the same, nothing, white, or a gradient that a JPEG keeps; 240 x 320 px."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(30, 220, (16, 20, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image.astype(int) + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
    whole = {
        "textured": image,
        "flat": np.full_like(image, 128),
        "white": np.full_like(image, 255),
        "gradient": np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None, None], image.shape).copy(),
    }[surroundings]
    whole[70:160, 100:180] = image[70:160, 100:180]
    return whole


def encoded(image_rgb, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image_rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def through_video(image_rgb):
    return cv2.cvtColor(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2YUV), cv2.COLOR_YUV2RGB)


def brighter(image_rgb, *levels):
    return np.clip(image_rgb.astype(int) + levels, 0, 255).astype(np.uint8)


def share(before, after, known=FACE_XYXY):
    return coverage.cover(FACE_XYXY, coverage.changed(before, after, known), known).shares[0]


@pytest.mark.parametrize("known", [FACE_XYXY, EVERYTHING_XYXY], ids=["a region", "a region that is everything"])
@pytest.mark.parametrize("surroundings", ["textured", "flat", "white", "gradient"])
@pytest.mark.parametrize(
    "treat",
    [
        lambda image: encoded(image, 80),
        lambda image: encoded(image, 92),
        lambda image: encoded(image, 98),
        through_video,
        lambda image: brighter(image, 9),
        lambda image: brighter(image, 14, -11, 20),
        lambda image: encoded(brighter(image, 12), 92),
    ],
    ids=["JPEG 80", "JPEG 92", "JPEG 98", "video", "brighter", "tinted", "brighter JPEG"],
)
def test_what_nobody_touched_is_not_taken_for_replaced_however_the_pixels_were_stored(treat, surroundings, known):
    original = encoded(photograph(surroundings), 92)
    assert share(original, treat(original), known) < 0.1


@pytest.mark.parametrize("store", [lambda image: image, lambda image: encoded(image, 90), through_video])
@pytest.mark.parametrize("surroundings", ["textured", "flat", "white", "gradient"])
def test_what_was_replaced_is_found_however_the_pixels_were_stored(store, surroundings):
    original = encoded(photograph(surroundings), 92)
    replaced = original.copy()
    replaced[66:164, 96:184] = np.random.default_rng(1).integers(0, 256, 3)
    assert share(original, store(replaced)) > 0.8
    assert share(original, store(brighter(replaced, 9))) > 0.8
    assert share(original, store(replaced), EVERYTHING_XYXY) > 0.8


def test_any_difference_counts_where_nothing_else_changed_but_a_box_that_nobody_labeled():
    original = photograph("textured")
    replaced = original.copy()
    replaced[70:160, 100:180] ^= 1
    assert share(original, replaced) == 1
    replaced[200:220, 10:25] = 0
    assert share(original, replaced) == 1
    assert share(original, replaced, EVERYTHING_XYXY) == 0, "nothing tells that all was kept"

"""A mask covers every pixel that a region touches, in the image and in every crop of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.ops import masks
from anony_pipeline.structures.regions import Kind, Region


@st.composite
def regions(draw):
    x, y = draw(st.floats(-10, 60)), draw(st.floats(-10, 40))
    width, height = draw(st.floats(0.5, 40)), draw(st.floats(0.5, 40))
    return Region(draw(st.sampled_from(list(Kind))), (x, y, x + width, y + height))


def touched(region, height=40, width=60):
    """Pixels that the region's box touches, one by one: slow and obvious."""
    x_min, y_min, x_max, y_max = region.box_xyxy
    rows, columns = np.mgrid[:height, :width]
    return (columns < x_max) & (columns + 1 > x_min) & (rows < y_max) & (rows + 1 > y_min)


@given(st.lists(regions(), max_size=4))
def test_every_pixel_that_a_box_touches_is_covered(found):
    mask = masks.region_mask(found, (40, 60))
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) <= {0, 1}
    for region in found:
        assert (mask[touched(region)] == 1).all()


@given(st.lists(regions(), max_size=4))
def test_no_more_than_the_grown_boxes_is_covered(found):
    mask = masks.region_mask(found, (40, 60), growth=1.0)
    allowed = np.zeros((40, 60), bool)
    for region in found:
        allowed |= touched(region)
    assert not mask[~allowed].any()


def test_no_region_gives_an_empty_mask():
    assert not masks.region_mask([], (5, 6)).any()
    assert masks.crop_mask([], (0, 0, 5, 5), (8, 8)).shape == (8, 8)


@given(
    found=st.lists(regions(), min_size=1, max_size=3),
    corner=st.tuples(st.integers(-20, 50), st.integers(-20, 30)),
    scale=st.sampled_from([0.5, 1, 2, 4]),
)
def test_a_crops_mask_covers_every_pixel_of_the_crop_that_a_box_touches(found, corner, scale):
    left, top = corner
    mask = masks.crop_mask(found, (left, top, left + 40, top + 24), (int(24 * scale), int(40 * scale)))
    for region in found:
        x_min, y_min, x_max, y_max = region.box_xyxy
        box = ((x_min - left) * scale, (y_min - top) * scale, (x_max - left) * scale, (y_max - top) * scale)
        assert (mask[touched(Region(region.kind, box), *mask.shape)] == 1).all()


@pytest.mark.parametrize("kind", list(Kind))
def test_a_mask_covers_more_than_the_box(kind):
    assert masks.region_mask([Region(kind, (20, 10, 40, 30))], (40, 60)).sum() > 20 * 20

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

"""Boxes: pairs of functions undo each other, and areas agree with counting pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.structures import boxes

COORDINATES = st.integers(-40, 40)


@st.composite
def box_arrays(draw, most=5):
    rows = draw(st.lists(st.tuples(COORDINATES, COORDINATES, st.integers(0, 30), st.integers(0, 30)), max_size=most))
    return boxes.as_boxes(rows)


def pixels(box_xyxy, size=130, origin=45):
    """The set of unit squares that a whole-numbered box covers: slow and obvious."""
    x_min, y_min, x_max, y_max = (int(value) + origin for value in box_xyxy)
    grid = np.zeros((size, size), bool)
    grid[y_min:y_max, x_min:x_max] = True
    return grid


@given(box_arrays())
def test_xywh_and_xyxy_undo_each_other(rows):
    np.testing.assert_array_equal(boxes.xyxy_to_xywh(boxes.xywh_to_xyxy(rows)), rows)


@given(box_arrays(), box_arrays())
def test_iou_agrees_with_counting_pixels(first, second):
    first, second = boxes.xywh_to_xyxy(first), boxes.xywh_to_xyxy(second)
    found = boxes.iou(first, second)
    assert found.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            union = (pixels(a) | pixels(b)).sum()
            expected = (pixels(a) & pixels(b)).sum() / union if union else 0
            assert found[i, j] == pytest.approx(expected, abs=1e-6)


@given(box_arrays())
def test_area_agrees_with_counting_pixels(rows):
    rows = boxes.xywh_to_xyxy(rows)
    np.testing.assert_array_equal(boxes.area(rows), [pixels(row).sum() for row in rows])


def test_a_box_that_is_turned_inside_out_has_no_area():
    assert boxes.area([[5, 5, 1, 9]]).tolist() == [0]


@given(box_arrays())
def test_clipped_boxes_lie_in_the_image_and_cover_what_they_covered_there(rows):
    rows = boxes.xywh_to_xyxy(rows)
    clipped = boxes.clip(rows, width=20, height=10)
    image = [[0, 0, 20, 10]]
    assert ((clipped >= 0) & (clipped <= [20, 10, 20, 10])).all()
    np.testing.assert_array_equal(boxes.area(clipped), boxes.intersection(rows, image)[:, 0])


@given(st.lists(st.tuples(*[st.floats(-30, 60, width=32)] * 4), max_size=6))
def test_rounding_is_always_outward_and_stays_in_the_image(rows):
    rows = boxes.as_boxes([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows])
    rounded = boxes.round_outward(rows, width=32, height=16)
    clipped = boxes.clip(rows, width=32, height=16)
    assert rounded.dtype.kind == "i"
    assert (rounded[:, :2] <= clipped[:, :2]).all()
    assert (rounded[:, 2:] >= clipped[:, 2:]).all()
    assert (rounded >= 0).all()
    assert (rounded <= [32, 16, 32, 16]).all()
    assert (np.abs(rounded - clipped) <= 1).all()


@given(box_arrays(), st.sampled_from([0.5, 1.0, 1.5, 2.0]))
def test_growing_keeps_the_center_and_scales_the_edges(rows, factor):
    rows = boxes.xywh_to_xyxy(rows)
    grown = boxes.grow(rows, factor)
    np.testing.assert_allclose(grown[:, :2] + grown[:, 2:], rows[:, :2] + rows[:, 2:], atol=1e-4)
    np.testing.assert_allclose(grown[:, 2:] - grown[:, :2], (rows[:, 2:] - rows[:, :2]) * factor, atol=1e-4)


def test_nothing_in_gives_an_empty_array_of_boxes():
    for function in (boxes.as_boxes, boxes.xywh_to_xyxy, boxes.xyxy_to_xywh):
        assert function([]).shape == (0, 4)
    assert boxes.iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert boxes.round_outward([], 5, 5).shape == (0, 4)

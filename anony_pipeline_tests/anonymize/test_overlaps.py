"""Detections of one thing become one region, and nothing that was covered is uncovered."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.anonymize import overlaps
from anony_pipeline.structures.regions import Kind, Region


@st.composite
def detections(draw):
    x, y = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    width, height = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    score = draw(st.integers(1, 100)) / 100
    return Region(
        draw(st.sampled_from(list(Kind))), (float(x), float(y), float(x + width), float(y + height)), score=score
    )


def pixels(regions):
    """The pixels that whole-numbered boxes cover, one by one."""
    covered = np.zeros((90, 90), bool)
    for region in regions:
        x_min, y_min, x_max, y_max = (int(value) for value in region.box_xyxy)
        covered[y_min:y_max, x_min:x_max] = True
    return covered


@given(st.lists(detections(), max_size=8))
def test_nothing_is_uncovered(found):
    assert not (pixels(found) & ~pixels(overlaps.merge(found))).any()


@given(st.lists(detections(), max_size=8))
def test_no_two_regions_show_the_same_thing(found):
    merged = overlaps.merge(found)
    for i, one in enumerate(merged):
        for other in merged[:i]:
            shared = (pixels([one]) & pixels([other])).sum()
            assert shared < 0.5 * min(pixels([one]).sum(), pixels([other]).sum())


@given(st.lists(detections(), max_size=6), st.randoms(use_true_random=False))
def test_the_order_in_which_they_come_does_not_matter(found, random):
    shuffled = random.sample(found, len(found))
    assert overlaps.merge(shuffled) == overlaps.merge(found)


def test_the_more_confident_one_says_what_it_is():
    face = Region(Kind.FACE, (10.0, 10.0, 40.0, 50.0), score=0.9)
    plate_on_it = Region(Kind.PLATE, (12.0, 30.0, 38.0, 55.0), score=0.4)
    assert overlaps.merge([plate_on_it, face]) == [Region(Kind.FACE, (10.0, 10.0, 40.0, 55.0), score=0.9)]


def test_neighbors_in_a_crowd_stay_two_faces():
    left = Region(Kind.FACE, (0.0, 0.0, 20.0, 30.0), score=0.9)
    right = Region(Kind.FACE, (12.0, 2.0, 32.0, 32.0), score=0.8)
    assert overlaps.merge([left, right]) == [left, right]

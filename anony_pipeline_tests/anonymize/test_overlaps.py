"""Detections of one thing become one region, and nothing that was covered is uncovered."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.anonymize import overlaps
from anony_pipeline.structures.regions import Kind, Region

REAL = os.environ.get("ANONY_REAL_DATA")


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


def test_halves_of_a_plate_become_one():
    left = Region(Kind.PLATE, (495.0, 297.0, 536.0, 305.0), score=0.46)
    right = Region(Kind.PLATE, (529.0, 296.0, 568.0, 304.0), score=0.43)
    assert overlaps.merge([right, left]) == [Region(Kind.PLATE, (495.0, 296.0, 568.0, 305.0), score=0.46)]


@pytest.mark.parametrize(
    "other",
    [
        Region(Kind.PLATE, (37.0, 14.0, 70.0, 24.0), score=0.8),  # a trailer's, below
        Region(Kind.PLATE, (40.0, 0.0, 70.0, 10.0), score=0.8),  # the next car's, which begins where this one ends
        Region(Kind.FACE, (36.0, 5.0, 56.0, 25.0), score=0.8),  # a driver's face
    ],
    ids=["below", "beside", "face"],
)
def test_what_is_beside_a_plate_stays_itself(other):
    plate = Region(Kind.PLATE, (0.0, 5.0, 40.0, 18.0), score=0.9)
    assert overlaps.merge([plate, other]) == [plate, other]


@pytest.mark.skipif(not REAL, reason="ANONY_REAL_DATA is not set: no annotations of photographs")
def test_no_two_plates_of_street_photographs_are_taken_for_one():
    count = 0
    for file in sorted(Path(REAL, "pp4av", "annotations").rglob("*.txt")):
        rows = [list(map(float, line.split())) for line in file.read_text().splitlines() if line]
        plates = [
            Region(Kind.PLATE, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), score=1.0)
            for kind, x, y, w, h in rows
            if kind == 1
        ]
        assert len(overlaps.merge(plates)) == len(plates), file.name
        count += len(plates)
    assert count > 300

"""A region says what the annotation said."""

import dataclasses

import numpy as np
import pytest

from anony_pipeline.structures.regions import CATEGORY_IDS, KINDS_BY_CATEGORY, Kind, Region, boxes_of


def test_everything_that_the_annotation_knows_is_taken_over():
    region = Region.from_coco(
        {
            "id": 7,
            "category_id": 2,
            "bbox": [10, 20, 30, 5],
            "quad": [[10, 20], [40, 20], [40, 25], [10, 25]],
            "identity": "plate-1",
            "score": 0.5,
        },
        style="FR",
    )
    assert region.kind is Kind.PLATE
    assert region.box_xyxy == (10, 20, 40, 25)
    assert region.quad == ((10, 20), (40, 20), (40, 25), (10, 25))
    assert (region.track, region.style, region.score, region.annotation_id) == ("plate-1", "FR", 0.5, 7)
    assert region.size_wh == (30, 5)


def test_what_the_annotation_does_not_know_is_none():
    region = Region.from_coco({"category_id": 1, "bbox": [0, 0, 1, 1], "quad": None, "landmarks": []})
    assert (region.quad, region.landmarks, region.track, region.style, region.annotation_id) == (None,) * 5
    assert region.score == 1


def test_kinds_and_categories_are_one_to_one():
    assert {KINDS_BY_CATEGORY[CATEGORY_IDS[kind]] for kind in Kind} == set(Kind)
    assert [kind.value for kind in Kind] == ["face", "license_plate"]


def test_a_region_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="score"):
        Region(Kind.FACE, (0, 0, 1, 1)).score = 0


def test_boxes_of_no_regions_are_an_empty_array():
    assert boxes_of([]).shape == (0, 4)
    np.testing.assert_array_equal(boxes_of([Region(Kind.FACE, (0, 1, 2, 3))]), [[0, 1, 2, 3]])


def test_a_moved_region_keeps_all_but_its_place():
    points = ((0.0, 0.0), (8.0, 0.0), (8.0, 4.0), (0.0, 4.0), (4.0, 2.0))
    region = Region(Kind.PLATE, (0, 0, 8, 4), quad=points[:4], landmarks=points, score=0.5, track="a", style="FR")
    moved = region.moved(lambda places: places * (2, 3) + (1, -1))
    assert moved.box_xyxy == (1, -1, 17, 11)
    assert moved.quad == ((1, -1), (17, -1), (17, 11), (1, 11))
    assert moved.landmarks == (*moved.quad, (9, 5))
    assert (moved.kind, moved.score, moved.track, moved.style) == (Kind.PLATE, 0.5, "a", "FR")

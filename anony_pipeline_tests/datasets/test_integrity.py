"""What must hold of a unified set is named where it doesn't."""

import numpy as np
import pytest

from anony_pipeline.datasets import integrity
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.ops import images


@pytest.fixture
def unified(tmp_path):
    """One image of 60 x 40 pixels with one box, written below the source's root."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    images.write(tmp_path / "raw" / "a.png", picture)
    return CocoSet(
        tmp_path / "unified_train.json",
        {"sources": {"s": {"root": "raw"}}},
        [{"id": 1, "file_name": "a.png", "source": "s", "width": 60, "height": 40, "plate_style": "FR"}],
        [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 10]}],
    )


def test_a_sound_set_has_no_problem(unified):
    empty = CocoSet(unified.path, unified.info, [], [])
    assert integrity.boxes_in_images(unified) == []
    assert integrity.missing_files(unified) == []
    assert integrity.leaks(unified, empty) == []
    assert integrity.unknown_styles(unified, ["FR", "unspecified"]) == []


@pytest.mark.parametrize(
    ("box", "fault"),
    [([5, 5, 0, 10], "no area"), ([50, 5, 20, 10], "10.00 px outside"), ([-1.5, 5, 20, 10], "1.50 px outside")],
)
def test_a_bad_box_is_named(unified, box, fault):
    unified.annotations[0]["bbox"] = box
    (problem,) = integrity.boxes_in_images(unified)
    assert fault in problem
    assert "annotation 1 of a.png" in problem


def test_the_rounding_of_a_file_is_no_fault(unified):
    unified.annotations[0]["bbox"] = [40.000001, 5, 20.000001, 10]
    assert integrity.boxes_in_images(unified) == []


@pytest.mark.parametrize("size", [{"height": 40}, {"width": None, "height": 40}, {"width": 60, "height": None}])
def test_without_a_size_only_the_area_is_checked(unified, size):
    del unified.images[0]["width"], unified.images[0]["height"]
    unified.images[0] |= size
    unified.annotations[0]["bbox"] = [500, 5, 20, 10]
    assert integrity.boxes_in_images(unified) == []


def test_a_missing_file_is_named(unified):
    unified.images[0]["file_name"] = "gone.png"
    assert integrity.missing_files(unified) == ["unified_train.json: gone.png of s"]


def test_an_image_in_both_splits_is_named_by_file_and_by_looks(unified):
    found = integrity.leaks(unified, unified)
    assert "a.png of s stands in both splits" in found
    assert len(found) == 2


def test_an_unknown_style_is_named_with_the_known_ones(unified):
    (problem,) = integrity.unknown_styles(unified, ["DE"])
    assert "FR, 1 images; known: DE" in problem

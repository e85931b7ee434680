"""What a split holds: counted by plate style, and shown with its boxes."""

import numpy as np
import pytest

from anony_pipeline.datasets import coco, overview
from anony_pipeline.ops import images


@pytest.fixture
def split(tmp_path):
    """Two black images: one of style FR with a face and a plate, one of no style with a crowd."""
    records, annotations = [], []
    for number, style in enumerate(("FR", None), start=1):
        images.write(tmp_path / f"{number}.png", np.zeros((100, 200, 3), np.uint8))
        records.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 100, "plate_style": style})
    for number, (image, category, crowd) in enumerate(((1, 1, 0), (1, 2, 0), (2, 1, 1)), start=1):
        box = {"bbox": [20 * number, 10, 40, 30], "area": 1200, "iscrowd": crowd, "category_id": category}
        annotations.append({"id": number, "image_id": image, **box})
    coco.save(tmp_path / "unified_train.json", {}, records, annotations)
    return coco.load(tmp_path / "unified_train.json")


def test_boxes_are_counted_by_style_and_crowds_apart(split):
    assert overview.balance_by_style(split) == {
        "FR": overview.Balance(images=1, faces=1, plates=1),
        "unspecified": overview.Balance(images=1, iscrowd=1),
    }


def test_boxes_are_drawn_where_they_lie_in_the_color_of_their_kind(split):
    first, second = overview.labeled(split, 5, width_px=100)
    assert first.shape == (50, 100, 3)
    assert tuple(first[5, 15]) == overview.BOX_COLORS["face"]
    assert tuple(first[5, 35]) == overview.BOX_COLORS["license_plate"]
    assert not first[40].any()
    assert second.any(), "a crowd holds faces too"

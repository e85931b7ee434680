"""What a split holds, in numbers and in pictures: faces and plates, by plate style."""

from dataclasses import dataclass

import cv2
import numpy as np

from anony_pipeline.datasets.coco import CocoSet, Record, regions_of
from anony_pipeline.ops import images
from anony_pipeline.plates.styles import NEUTRAL
from anony_pipeline.structures.regions import KINDS_BY_CATEGORY, Kind

BOX_COLORS = {Kind.FACE: (255, 196, 0), Kind.PLATE: (0, 200, 255)}


@dataclass(frozen=True)
class Balance:
    """Counts of one split, or of its images of one plate style.

    Attributes:
        images: Images.
        faces: Boxes of faces, without those marked `iscrowd`.
        plates: Boxes of plates, likewise.
        iscrowd: Boxes that count neither as found nor as missed.
    """

    images: int = 0
    faces: int = 0
    plates: int = 0
    iscrowd: int = 0

    def __add__(self, other: "Balance") -> "Balance":
        """The counts of both."""
        return Balance(
            self.images + other.images,
            self.faces + other.faces,
            self.plates + other.plates,
            self.iscrowd + other.iscrowd,
        )


def balance_by_style(coco: CocoSet) -> dict[str, Balance]:
    """Count by the images' plate style, `unspecified` where they have none; styles are sorted."""
    counted: dict[str, Balance] = {}
    for image in coco.images:
        boxes = coco.annotations_by_image[image["id"]]
        kinds = [KINDS_BY_CATEGORY[box["category_id"]] for box in boxes if not box.get("iscrowd")]
        style = image.get("plate_style") or NEUTRAL
        own = Balance(1, kinds.count(Kind.FACE), kinds.count(Kind.PLATE), len(boxes) - len(kinds))
        counted[style] = counted.get(style, Balance()) + own
    return dict(sorted(counted.items()))


def labeled(coco: CocoSet, count: int, width_px: int = 320) -> list[np.ndarray]:
    """Images with their boxes drawn, spread evenly over a split: faces orange, plates blue.

    Args:
        coco: The split.
        count: How many, or fewer if there are fewer.
        width_px: The pictures' width.

    Returns:
        ``(H, W, 3)`` uint8 RGB each. They hold original pixels: only those of procedural data may be shown.
    """
    chosen = [coco.images[i] for i in np.linspace(0, len(coco) - 1, min(count, len(coco))).astype(int)]
    return [_labeled(coco, image, width_px) for image in chosen]


def _labeled(coco: CocoSet, image: Record, width_px: int) -> np.ndarray:
    picture = images.read(coco.image_file(image))
    scale = width_px / picture.shape[1]
    picture = images.resize(picture, (max(1, round(picture.shape[0] * scale)), width_px))
    for region in regions_of(image, coco.annotations_by_image[image["id"]]):
        left, top, right, bottom = (round(value * scale) for value in region.box_xyxy)
        cv2.rectangle(picture, (left, top), (right, bottom), BOX_COLORS[region.kind], 1)
    return picture

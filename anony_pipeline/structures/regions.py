"""A region: one face or license plate in one image."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from anony_pipeline.structures import boxes

Points = tuple[tuple[float, float], ...]


class Kind(StrEnum):
    """What a region shows. The values are the category names of the unified COCO file."""

    FACE = "face"
    PLATE = "license_plate"


CATEGORY_IDS = {Kind.FACE: 1, Kind.PLATE: 2}
CATEGORY_NAMES = {
    **dict.fromkeys(("face", "faces", "human_face"), Kind.FACE),
    **dict.fromkeys(
        ("license_plate", "licence_plate", "license_plates", "licence_plates", "plate", "plates", "number_plate"),
        Kind.PLATE,
    ),
}
"""How others call the two categories, with spaces and hyphens as underscores."""
KINDS_BY_CATEGORY = {number: kind for kind, number in CATEGORY_IDS.items()}


def kind_of_category(name: str) -> Kind | None:
    """What a COCO file's category is, by its name; None if it is neither.

    >>> kind_of_category("License Plate"), kind_of_category("car")
    (<Kind.PLATE: 'license_plate'>, None)
    """
    return CATEGORY_NAMES.get(name.lower().strip().replace(" ", "_").replace("-", "_"))


@dataclass(frozen=True, slots=True)
class Region:
    """One face or license plate in one image.

    Attributes:
        kind: Face or plate.
        box_xyxy: ``(x_min, y_min, x_max, y_max)`` in pixels.
        quad: A plate's corners as ``((x, y), ...)`` in pixels, clockwise from its own top left; None if unknown.
        landmarks: A face's eyes, nose and mouth corners in pixels, the viewer's left first; None if unknown.
        score: The detector's confidence in ``[0, 1]``; 1 for annotated regions.
        track: Names one physical face or plate over several images, where that is known.
        style: The plate style's key, where that is known.
        annotation_id: The ``id`` of the COCO annotation that the region comes from, where there is one.
    """

    kind: Kind
    box_xyxy: tuple[float, float, float, float]
    quad: Points | None = None
    landmarks: Points | None = None
    score: float = 1.0
    track: str | None = None
    style: str | None = None
    annotation_id: int | None = None

    @property
    def size_wh(self) -> tuple[float, float]:
        """Width and height of the box in pixels."""
        x_min, y_min, x_max, y_max = self.box_xyxy
        return x_max - x_min, y_max - y_min

    def moved(self, change: Callable[[np.ndarray], np.ndarray]) -> "Region":
        """The same region in other coordinates, such as those of a crop: box, corners and landmarks.

        Args:
            change: Takes ``(N, 2)`` points ``(x, y)`` to their new places; it may shift and scale either axis.

        >>> Region(Kind.FACE, (4, 6, 8, 10)).moved(lambda points: points - (4, 6)).box_xyxy
        (0.0, 0.0, 4.0, 4.0)
        """

        def points(known: Points) -> Points:
            return tuple((float(x), float(y)) for x, y in change(np.array(known, np.float64)))

        x_min, y_min, x_max, y_max = self.box_xyxy
        (left, top), (right, bottom) = points(((x_min, y_min), (x_max, y_max)))
        return replace(
            self,
            box_xyxy=(left, top, right, bottom),
            quad=None if self.quad is None else points(self.quad),
            landmarks=None if self.landmarks is None else points(self.landmarks),
        )

    @classmethod
    def from_coco(cls, annotation: dict[str, Any], style: str | None = None) -> "Region":
        """Read a region from an annotation of the unified COCO file.

        Args:
            annotation: ``category_id`` and ``bbox``; ``quad``, ``landmarks``, ``score``, ``identity``, ``id`` if there.
            style: The plate style of the annotation's image.
        """
        points = {
            name: tuple((float(x), float(y)) for x, y in annotation[name]) if annotation.get(name) else None
            for name in ("quad", "landmarks")
        }
        return cls(
            kind=KINDS_BY_CATEGORY[annotation["category_id"]],
            box_xyxy=tuple(boxes.xywh_to_xyxy([annotation["bbox"]])[0].tolist()),
            score=float(annotation.get("score", 1.0)),
            track=annotation.get("identity"),
            style=style,
            annotation_id=annotation.get("id"),
            **points,
        )


def boxes_of(regions: "list[Region]") -> np.ndarray:
    """The regions' boxes as one ``(N, 4)`` float32 array ``(x_min, y_min, x_max, y_max)`` in pixels."""
    return boxes.as_boxes([region.box_xyxy for region in regions])

"""Which regions of a data set get a pseudo-target, image by image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import MediaError
from anony_pipeline.ops.crops import Window, window_around
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind, Region


@dataclass(frozen=True)
class Chosen:
    """One region that is trained on.

    Attributes:
        image: The image's record in the COCO file.
        annotation: The region's record.
        region: The region.
        window: Its crop's window in pixels of the image.
    """

    image: dict[str, Any]
    annotation: dict[str, Any]
    region: Region
    window: Window


def choose(
    coco: CocoSet, kind: Kind, *, min_region_px: int, size_hw: tuple[int, int], context: float
) -> tuple[list[Chosen], list[Region]]:
    """Tell the regions of one kind that are large enough from those that are left out.

    Args:
        coco: The unified set.
        kind: Face or plate.
        min_region_px: The shorter edge that a region needs.
        size_hw: Height and width of the crop.
        context: The crop's edge over the region's.

    Returns:
        The regions in the order of the file, and those that are too small or marked `iscrowd`.
    """
    images = {image["id"]: image for image in coco.images}
    chosen, left_out = [], []
    for annotation in coco.annotations:
        if annotation["category_id"] != CATEGORY_IDS[kind]:
            continue
        image = images[annotation["image_id"]]
        region = Region.from_coco(annotation, image.get("plate_style"))
        if annotation.get("iscrowd") or min(region.size_wh) < min_region_px:
            left_out.append(region)
            continue
        window = window_around(region.box_xyxy, size_hw, context)
        chosen.append(Chosen(image, annotation, region, window))
    return chosen, left_out


def by_image(chosen: Iterable[Chosen]) -> dict[int, list[Chosen]]:
    """Group regions by their image, so that each image is read once."""
    groups: dict[int, list[Chosen]] = {}
    for item in chosen:
        groups.setdefault(item.image["id"], []).append(item)
    return groups


def image_sums(coco: CocoSet, chosen: Iterable[Chosen]) -> dict[int, str]:
    """The sha256 of each chosen region's image file, by image id.

    Raises:
        MediaError: If an image can't be read: it was lost since the set was unified, or nobody looked.
    """
    wanted = {item.image["id"]: item.image for item in chosen}
    return {number: _sum_of(coco.image_file(image), coco) for number, image in wanted.items()}


def _sum_of(path: Path | UPath, coco: CocoSet) -> str:
    try:
        return manifests.sha256_of(path)
    except OSError as error:
        raise MediaError(
            "an image of the unified set can't be read",
            where=path,
            got=error.strerror or type(error).__name__,
            do=f"copy it there, or take it out of {coco.path}",
        ) from error

"""Masks: float32 arrays in ``[0, 1]``, 1 where a region is to be replaced."""

from collections.abc import Sequence

import numpy as np

from anony_pipeline.ops import crops
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Kind, Region

GROWTH = {Kind.FACE: 1.15, Kind.PLATE: 1.1}
"""A mask covers more than the box: boxes in use are detected ones, and hair lines and plate frames identify too."""


def mask_box(region: Region, size_hw: tuple[int, int], growth: float | None = None) -> tuple[int, int, int, int]:
    """The whole pixels ``(x_min, y_min, x_max, y_max)`` that are replaced for a region: its box grown, rounded outward.

    Args:
        region: In pixels of the image.
        size_hw: Height and width of the image.
        growth: The mask's edge over the region's; `GROWTH` by kind if None.

    >>> mask_box(Region(Kind.FACE, (10, 10, 20, 20)), size_hw=(40, 40))
    (9, 9, 21, 21)
    """
    grown = boxes.grow([region.box_xyxy], growth if growth is not None else GROWTH[region.kind])
    x_min, y_min, x_max, y_max = boxes.round_outward(grown, size_hw[1], size_hw[0])[0].tolist()
    return x_min, y_min, x_max, y_max


def region_mask(regions: Sequence[Region], size_hw: tuple[int, int], growth: float | None = None) -> np.ndarray:
    """Draw the hard mask of all regions in an image (see `mask_box`).

    Args:
        regions: In pixels of the image.
        size_hw: Height and width of the image.
        growth: The mask's edge over the region's; `GROWTH` by kind if None.

    Returns:
        ``(H, W)`` float32, 0 or 1. It covers every pixel that a region's box touches.
    """
    mask = np.zeros(size_hw, dtype=np.uint8)
    for region in regions:
        x_min, y_min, x_max, y_max = mask_box(region, size_hw, growth)
        mask[y_min:y_max, x_min:x_max] = 1
    return mask.astype(np.float32)


def crop_mask(
    regions: Sequence[Region], window: crops.Window, size_hw: tuple[int, int], growth: float | None = None
) -> np.ndarray:
    """Draw the mask of *every* region in a crop, so that no neighbor's face is ever seen (see `region_mask`).

    Args:
        regions: In pixels of the image that the window is cut from.
        window: The crop's window.
        size_hw: Height and width of the crop.
        growth: See `region_mask`.
    """
    corners = boxes.as_boxes([region.box_xyxy for region in regions]).reshape(-1, 2, 2)
    moved = crops.to_crop(corners, window, size_hw).reshape(-1, 4)
    return region_mask(
        [Region(r.kind, tuple(b)) for r, b in zip(regions, moved.tolist(), strict=True)], size_hw, growth
    )

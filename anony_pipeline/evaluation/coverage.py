"""Was it replaced at all? How much of each region the anonymizer's masks cover, and how much besides."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anony_pipeline.structures import boxes

HALF = 0.5


class Coverage(NamedTuple):
    """What masks cover in one image.

    Attributes:
        shares: ``(N,)`` covered share of each region's pixels.
        outside_covered: Covered pixels that belong to no region.
        outside: Pixels that belong to no region.
    """

    shares: np.ndarray
    outside_covered: int
    outside: int


def cover(
    regions_xyxy: np.ndarray,
    masks_xyxy: Sequence[tuple[int, int, int, int]],
    size_hw: tuple[int, int],
    known_xyxy: np.ndarray,
) -> Coverage:
    """Measure one image.

    Args:
        regions_xyxy: ``(N, 4)`` regions that count, in pixels.
        masks_xyxy: Boxes that were replaced, in whole pixels.
        size_hw: Height and width of the image.
        known_xyxy: ``(M, 4)`` every annotated region, crowds too: what covers these is not "outside".
    """
    height, width = size_hw
    covered = np.zeros(size_hw, bool)
    for x_min, y_min, x_max, y_max in masks_xyxy:
        covered[y_min:y_max, x_min:x_max] = True
    inside = np.zeros(size_hw, bool)
    for x_min, y_min, x_max, y_max in boxes.round_outward(known_xyxy, width, height):
        inside[y_min:y_max, x_min:x_max] = True
    shares = [
        float(covered[y_min:y_max, x_min:x_max].mean()) if x_max > x_min and y_max > y_min else 1.0
        for x_min, y_min, x_max, y_max in boxes.round_outward(regions_xyxy, width, height)
    ]
    return Coverage(np.array(shares, np.float64), int((covered & ~inside).sum()), int((~inside).sum()))


def covering(region_xyxy: tuple[float, float, float, float], candidates_xyxy: np.ndarray) -> int | None:
    """Which of the replaced boxes covers a region by half or more, the largest share first; None if none does.

    Args:
        region_xyxy: The annotated region.
        candidates_xyxy: ``(N, 4)`` replaced boxes.
    """
    area = boxes.area([region_xyxy])[0]
    if not len(candidates_xyxy) or area <= 0:
        return None
    shares = boxes.intersection([region_xyxy], candidates_xyxy)[0] / area
    best = int(shares.argmax())
    return best if shares[best] >= HALF else None

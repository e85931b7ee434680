"""Was it replaced at all? How much of each region the anonymizer's masks cover, and how much besides."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from anony_pipeline.structures import boxes

HALF = 0.5
LOSSY_TOLERANCE = 8
"""JPEG changes pixels that nobody touched."""
WHITE = 255
CLOSING_PX = 9
NEAR = 2.0
"""Masks are larger than what they hide: a region's surroundings begin at twice its width and height."""
STRAY = 0.01
"""Share of the surroundings that may differ though nothing was lost: replaced where nobody labeled a region."""
LEAST_AROUND = 0.05
"""Share of an image: fewer pixels outside of the regions tell nothing."""


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


def cover(regions_xyxy: np.ndarray, covered: np.ndarray, known_xyxy: np.ndarray) -> Coverage:
    """Measure one image.

    Args:
        regions_xyxy: ``(N, 4)`` regions that count, in pixels.
        covered: ``(H, W)`` bool, the pixels that were replaced.
        known_xyxy: ``(M, 4)`` every annotated region, crowds too: what covers these is not "outside".
    """
    height, width = covered.shape
    inside = filled(boxes.round_outward(known_xyxy, width, height), (height, width))
    shares = [
        float(covered[y_min:y_max, x_min:x_max].mean()) if x_max > x_min and y_max > y_min else 1.0
        for x_min, y_min, x_max, y_max in boxes.round_outward(regions_xyxy, width, height)
    ]
    return Coverage(np.array(shares, np.float64), int((covered & ~inside).sum()), int((~inside).sum()))


def filled(masks_xyxy: Sequence[tuple[int, int, int, int]] | np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The pixels in any of some boxes of whole pixels, ``(H, W)`` bool."""
    covered = np.zeros(size_hw, bool)
    for x_min, y_min, x_max, y_max in masks_xyxy:
        covered[y_min:y_max, x_min:x_max] = True
    return covered


def changed(before_rgb: np.ndarray, after_rgb: np.ndarray, known_xyxy: np.ndarray) -> np.ndarray:
    """The pixels that differ, and those that they surround: a blur leaves what was smooth as it was.

    Any difference counts where an image is exactly as it was around the regions. Its format does not tell: a PNG may
    have been a JPEG or a frame of a video. Else only one of `LOSSY_TOLERANCE` in the brightness of 3 x 3 px counts,
    which lossy formats keep best, beyond what all of the image became brighter or darker by.

    Args:
        before_rgb: ``(H, W, 3)`` uint8.
        after_rgb: The same.
        known_xyxy: ``(M, 4)`` every annotated region.

    Returns:
        ``(H, W)`` bool.
    """
    height, width = before_rgb.shape[:2]
    around = ~filled(boxes.round_outward(boxes.grow(known_xyxy, NEAR), width, height), (height, width))
    differs = (before_rgb != after_rgb).any(axis=2)
    if not _exact(before_rgb, differs, around):
        differs = _beyond_tolerance(before_rgb, after_rgb, around)
    closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((CLOSING_PX, CLOSING_PX), np.uint8))
    return closed.astype(bool)


def _exact(before_rgb: np.ndarray, differs: np.ndarray, around: np.ndarray) -> bool:
    """Whether pixels outside of all regions show that nothing encoded the image with a loss; without any, no."""
    # What is smooth comes out of a lossy format as it was, too.
    edges = cv2.morphologyEx(before_rgb, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    telling = around & (np.asarray(edges) > LOSSY_TOLERANCE).any(axis=2)
    return bool(telling.mean() >= LEAST_AROUND and differs[telling].mean() <= STRAY)


def _beyond_tolerance(before_rgb: np.ndarray, after_rgb: np.ndarray, around: np.ndarray) -> np.ndarray:
    # What is black or white can't say how much darker or brighter the rest became.
    inner = np.asarray(((after_rgb > 0) & (after_rgb < WHITE)).all(axis=2))
    telling = around & inner
    if telling.mean() < LEAST_AROUND:
        # Then the regions themselves say it: better that a replaced one counts as untouched than the reverse.
        telling = inner if inner.any() else np.ones_like(inner)
    shift = np.round(np.median(after_rgb[telling].astype(np.int16) - before_rgb[telling], axis=0)).astype(np.int16)
    level = np.clip(after_rgb - shift, 0, WHITE).astype(np.uint8)
    before, after = (cv2.blur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3)) for image in (before_rgb, level))
    return np.asarray(cv2.absdiff(before, after)) > LOSSY_TOLERANCE


def in_vain(replaced_xyxy: np.ndarray, known_xyxy: np.ndarray) -> np.ndarray:
    """Which replaced boxes hold no region: none by half of the region, and none over half of the box.

    Args:
        replaced_xyxy: ``(N, 4)``.
        known_xyxy: ``(M, 4)`` every annotated region.

    Returns:
        ``(N,)`` bool.
    """
    if not len(replaced_xyxy) or not len(known_xyxy):
        return np.ones(len(replaced_xyxy), bool)
    common = boxes.intersection(replaced_xyxy, known_xyxy)
    of_either = common / np.maximum(np.minimum(boxes.area(replaced_xyxy)[:, None], boxes.area(known_xyxy)[None]), 1e-9)
    return np.asarray(of_either.max(axis=1) < HALF)


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

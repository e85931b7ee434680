"""Classical redaction inside a mask: baselines that a generator has to beat, and the last resort that never fails."""

from collections.abc import Callable

import cv2
import numpy as np

Redaction = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``(image (H, W, 3) uint8, mask (H, W) float32 of one region) -> image``; where the mask is 0, nothing changes."""


def solid(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Fill the mask with one color."""
    return _inside(image, mask, np.full_like(image, color))


def blur(image: np.ndarray, mask: np.ndarray, strength: float = 0.3) -> np.ndarray:
    """Gaussian blur with a sigma of ``strength`` times the region's shorter edge: large faces blur like small ones."""
    top, bottom, left, right = _bounds(mask)
    if bottom <= top:
        return image.copy()
    result = image.copy()
    sigma = max(1.0, strength * min(bottom - top, right - left))
    margin = int(np.ceil(2 * sigma))
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    result[rows, columns] = cv2.GaussianBlur(image[rows, columns], (0, 0), sigma)
    return _inside(image, mask, result)


def pixelate(image: np.ndarray, mask: np.ndarray, blocks: int = 6) -> np.ndarray:
    """Replace the region by a mosaic with ``blocks`` blocks along its shorter edge."""
    top, bottom, left, right = _bounds(mask)
    if bottom <= top:
        return image.copy()
    height, width = bottom - top, right - left
    edge = max(1.0, min(height, width) / blocks)
    small = (max(1, round(width / edge)), max(1, round(height / edge)))
    mosaic = cv2.resize(image[top:bottom, left:right], small, interpolation=cv2.INTER_AREA)
    result = image.copy()
    result[top:bottom, left:right] = cv2.resize(mosaic, (width, height), interpolation=cv2.INTER_NEAREST)
    return _inside(image, mask, result)


def inpaint(image: np.ndarray, mask: np.ndarray, radius_px: float = 3) -> np.ndarray:
    """Fill the mask from its rim by Telea's fast marching method (An image inpainting technique based on FMM, 2004)."""
    top, bottom, left, right = _bounds(mask)
    if bottom <= top:
        return image.copy()
    margin = int(4 * radius_px)
    rows, columns = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    hole = (mask[rows, columns] > 0).astype(np.uint8)
    # OpenCV's gradients reach into the hole: what lies there is wiped first, or a trace of it would come through.
    seen = np.where(hole[..., None] > 0, np.uint8(128), image[rows, columns])
    result = image.copy()
    result[rows, columns] = cv2.inpaint(seen, hole, radius_px, cv2.INPAINT_TELEA)
    return _inside(image, mask, result)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _inside(image: np.ndarray, mask: np.ndarray, filling: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None] > 0, filling, image)

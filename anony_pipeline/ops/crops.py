"""Cut a window of any place and size out of an image, and paste it back so that nothing outside the mask changes."""

from collections.abc import Sequence

import cv2
import numpy as np

Window = tuple[float, float, float, float]
"""``(x_min, y_min, x_max, y_max)`` in pixels of the image; it may reach over the image's edge."""


def window_around(box_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int], context: float) -> Window:
    """Choose the window about a box that has the crop's aspect and shows ``context`` times the box.

    Args:
        box_xyxy: The region in pixels.
        size_hw: Height and width of the crop; only their ratio counts.
        context: The window's edge over the box's, along the tighter side.

    >>> window_around((10, 10, 20, 30), size_hw=(64, 64), context=2)
    (-5.0, 0.0, 35.0, 40.0)
    """
    x_min, y_min, x_max, y_max = box_xyxy
    aspect = size_hw[1] / size_hw[0]
    height = max(y_max - y_min, (x_max - x_min) / aspect) * context
    width = height * aspect
    center_x, center_y = (x_min + x_max) / 2, (y_min + y_max) / 2
    return (center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2)


def cut(image: np.ndarray, window: Window, size_hw: tuple[int, int]) -> np.ndarray:
    """Resample a window of an image to ``size_hw``; beyond the image's edge its border pixels are repeated.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, uint8 or float32.
        window: In pixels of the image.
        size_hw: Height and width of the crop.

    Returns:
        The crop, of the image's dtype, by area averaging when the window is larger than the crop.
    """
    height, width = size_hw
    scale_x, scale_y = (window[2] - window[0]) / width, (window[3] - window[1]) / height
    factor = max(1, round(min(scale_x, scale_y)))
    # Shrinking by an affine warp alone would alias: sample finer by a whole factor, then average.
    fine = _warp(image, window, (height * factor, width * factor))
    return fine if factor == 1 else cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _warp(image: np.ndarray, window: Window, size_hw: tuple[int, int]) -> np.ndarray:
    matrix = matrix_to_image(window, size_hw)
    # cv2 puts a pixel's center at whole numbers, we at halves.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size_hw[1], size_hw[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def matrix_to_image(window: Window, size_hw: tuple[int, int]) -> np.ndarray:
    """The ``(2, 3)`` affine matrix that takes a crop's ``(x, y)`` to the image's."""
    scale_x, scale_y = (window[2] - window[0]) / size_hw[1], (window[3] - window[1]) / size_hw[0]
    return np.array([[scale_x, 0, window[0]], [0, scale_y, window[1]]], dtype=np.float64)


def to_crop(points_xy: np.ndarray, window: Window, size_hw: tuple[int, int]) -> np.ndarray:
    """Take ``(..., 2)`` points of the image to the crop, in pixels. A box ``(N, 4)`` passes as ``(N, 2, 2)``."""
    origin = np.array(window[:2])
    scale = np.array([size_hw[1] / (window[2] - window[0]), size_hw[0] / (window[3] - window[1])])
    return (np.asarray(points_xy, dtype=np.float64) - origin) * scale


def on_image(crop: np.ndarray, window: Window, box_xyxy: Sequence[int]) -> np.ndarray:
    """Resample a crop to the image's own pixels in a box.

    Args:
        crop: Made by `cut` with this window.
        window: In pixels of the image.
        box_xyxy: ``(x_min, y_min, x_max, y_max)``, whole pixels of the image.

    Returns:
        ``(y_max - y_min, x_max - x_min)``, with the crop's channels and dtype.
    """
    x_min, y_min, x_max, y_max = box_xyxy
    (left, top), (right, bottom) = to_crop(np.array([[x_min, y_min], [x_max, y_max]]), window, crop.shape[:2])
    return cut(crop, (left, top, right, bottom), (y_max - y_min, x_max - x_min))


def paste(image: np.ndarray, crop: np.ndarray, window: Window, mask: np.ndarray) -> np.ndarray:
    """Put a crop back into a copy of its image, where the mask says so, and nowhere else.

    Args:
        image: ``(H, W, 3)`` uint8.
        crop: ``(h, w, 3)`` uint8, made by `cut` with the same window.
        window: In pixels of the image.
        mask: ``(H, W)`` float32 in ``[0, 1]``: 1 takes the crop, 0 keeps the image's pixel to the bit, between blends.

    Returns:
        A new ``(H, W, 3)`` uint8 image.
    """
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return image.copy()
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = on_image(crop, window, (left, top, right, bottom))
    result = image.copy()
    weight = mask[top:bottom, left:right, None].astype(np.float32)
    below = image[top:bottom, left:right]
    blended = np.rint(part * weight + below * (1 - weight)).astype(np.uint8)
    result[top:bottom, left:right] = np.where(weight > 0, blended, below)
    return result

"""The JPEG quality that a photograph was stored with: found in its pixels, and put on what is new in it.

A picture that is stored again with its own quality hardly changes, because its coefficients are multiples of the steps
already (Farid, Exposing Digital Forgeries From JPEG Ghosts, 2009). Decoded pixels are enough; the file is not needed.
"""

import cv2
import numpy as np

BLOCK = 8
QUALITIES = range(27, 96)
"""Of libjpeg's tables. Above, storing leaves nothing that is seen, and below, no plate can be read."""
GHOST, AWAY = 0.8, 3
"""A quality is its own if the change there is so small a part of that three steps away; otherwise it is about 1."""
LEAST_PX, MOST_PX = 64, 128
"""A smaller window has too few blocks to tell, and a larger one tells no more."""

Window = tuple[slice, slice]


def whole_blocks(window: Window, size_hw: tuple[int, int]) -> Window:
    """The least window of whole JPEG blocks of the image that holds a window and is `LEAST_PX` wide and high.

    Args:
        window: Rows and columns in the image.
        size_hw: The image's.
    """
    rows, columns = (_blocks(part, most) for part, most in zip(window, size_hw, strict=True))
    return rows, columns


def _blocks(part: slice, most: int) -> slice:
    lacking = max(0, LEAST_PX - (part.stop - part.start))
    begin = max(0, part.start - lacking // 2) // BLOCK * BLOCK
    end = -(-max(part.stop, begin + LEAST_PX) // BLOCK) * BLOCK
    return slice(begin, min(end, most))


def quality_of(image_rgb: np.ndarray, window: Window) -> int | None:
    """The JPEG quality of an image, ``(H, W, 3)`` uint8, as a window of it shows in its luma.

    Returns:
        On libjpeg's scale; None if it was not stored as JPEG, was resized or shifted since, or so well that nothing is
        seen of it.
    """
    part = image_rgb[whole_blocks(window, image_rgb.shape[:2])]
    gray = cv2.cvtColor(np.ascontiguousarray(part[:MOST_PX, :MOST_PX]), cv2.COLOR_RGB2GRAY)
    if np.var(gray - cv2.blur(gray.astype(np.float32), (BLOCK, BLOCK))) < 1:
        return None  # a flat surface looks the same at any quality
    changes = np.array([_change(gray, quality) for quality in QUALITIES])
    own, beside = changes[AWAY:-AWAY], np.minimum(changes[: -2 * AWAY], changes[2 * AWAY :])
    dips = np.flatnonzero(own < GHOST * beside)
    if not len(dips):
        return None
    # Steps of which the own ones are multiples give a dip as well, at a higher quality: the lowest dip counts.
    end = next((i for i, gap in enumerate(np.diff(dips), 1) if gap > 1), len(dips))
    return QUALITIES[AWAY + int(min(dips[:end], key=lambda dip: own[dip]))]


def stored(image_rgb: np.ndarray, quality: int) -> np.ndarray:
    """What is left of ``(H, W, 3)`` uint8 pixels after they were stored as JPEG."""
    bgr = cv2.cvtColor(np.ascontiguousarray(image_rgb), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def _change(gray: np.ndarray, quality: int) -> float:
    data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    after = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    return float(np.mean(cv2.absdiff(after, gray).astype(np.float32) ** 2))

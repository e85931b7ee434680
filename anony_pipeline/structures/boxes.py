"""Boxes as ``(N, 4)`` float32 arrays ``(x_min, y_min, x_max, y_max)`` in pixels.

A coordinate is a position on the continuous image plane: the image of width ``W`` spans ``[0, W]``, and the pixel of
column ``c`` spans ``[c, c + 1]``. A width is therefore ``x_max - x_min``, without the "+ 1" of some protocols.
"""

import numpy as np
from numpy.typing import ArrayLike

Boxes = np.ndarray


def as_boxes(values: ArrayLike) -> Boxes:
    """Make an ``(N, 4)`` float32 array of anything box-like; an empty input gives ``(0, 4)``."""
    return np.asarray(values, dtype=np.float32).reshape(-1, 4)


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> Boxes:
    """Turn ``(x_min, y_min, width, height)`` rows into ``(x_min, y_min, x_max, y_max)`` rows, both ``(N, 4)`` px.

    >>> xywh_to_xyxy([[10, 20, 5, 6]]).tolist()
    [[10.0, 20.0, 15.0, 26.0]]
    """
    boxes = as_boxes(boxes_xywh)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> Boxes:
    """Turn ``(x_min, y_min, x_max, y_max)`` rows into ``(x_min, y_min, width, height)`` rows: undoes `xywh_to_xyxy`."""
    boxes = as_boxes(boxes_xyxy)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip(boxes_xyxy: ArrayLike, width: float, height: float) -> Boxes:
    """Cut boxes to the image ``[0, width] x [0, height]``; a box outside it ends with no area.

    >>> clip([[-5, 2, 50, 9]], width=20, height=8).tolist()
    [[0.0, 2.0, 20.0, 8.0]]
    """
    return np.clip(as_boxes(boxes_xyxy), 0, np.array([width, height, width, height], dtype=np.float32))


def area(boxes_xyxy: ArrayLike) -> np.ndarray:
    """Areas in square pixels, ``(N,)``; a box that is turned inside out has none."""
    boxes = as_boxes(boxes_xyxy)
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def intersection(first_xyxy: ArrayLike, second_xyxy: ArrayLike) -> np.ndarray:
    """Shared area of each pair, ``(N, M)`` in square pixels."""
    first, second = as_boxes(first_xyxy), as_boxes(second_xyxy)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2)


def iou(first_xyxy: ArrayLike, second_xyxy: ArrayLike) -> np.ndarray:
    """Intersection over union of each pair, ``(N, M)`` in ``[0, 1]``; 0 where both are empty.

    >>> round(float(iou([[0, 0, 2, 2]], [[1, 0, 3, 2]])[0, 0]), 3)
    0.333
    """
    shared = intersection(first_xyxy, second_xyxy)
    union = area(first_xyxy)[:, None] + area(second_xyxy)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def round_outward(boxes_xyxy: ArrayLike, width: int, height: int) -> np.ndarray:
    """Whole-pixel boxes, ``(N, 4)`` int, that cover the given ones and stay in the image.

    Always outward: a half-covered pixel of a face is still a pixel of a face.

    >>> round_outward([[1.2, 1.9, 3.1, 4.0]], width=10, height=10).tolist()
    [[1, 1, 4, 4]]
    """
    boxes = clip(boxes_xyxy, width, height)
    return np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1).astype(int)


def grow(boxes_xyxy: ArrayLike, factor: float) -> Boxes:
    """Scale boxes about their centers, ``(N, 4)``.

    >>> grow([[0, 0, 10, 20]], factor=1.2).tolist()
    [[-1.0, -2.0, 11.0, 22.0]]
    """
    boxes = as_boxes(boxes_xyxy)
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    return np.concatenate([center - half, center + half], axis=1).astype(np.float32)

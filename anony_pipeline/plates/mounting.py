"""What a plate is mounted on, painted anew between the new plate and the edge of the hole.

Inpainting alone would carry the car's paint up to the plate: a holder, its rim and its shadow would vanish. They run
along the plate's sides, so their colors are averaged along these sides, until nothing that was written there is left.
"""

import cv2
import numpy as np

ALONG = 1.0
"""Standard deviation of the averaging above and below a plate, along it, over its height: more than a character."""
UPRIGHT = (0.2, 0.5)
"""Beside it: along x, where a character that an outline left out would stay a stroke, and along y."""
REACHES = (96, 48, 24, 12, 6, 3, 1)
"""In px, over which what is known about a hole is carried into it: the least one that gets there."""


def painted(part: np.ndarray, hole: np.ndarray, corners: np.ndarray, rim_px: float) -> np.ndarray:
    """Paint the surroundings of a plate into a hole.

    Args:
        part: ``(h, w, 3)`` uint8 RGB, a photograph about a plate.
        hole: ``(h, w)`` bool, what is painted.
        corners: ``(4, 2)`` of the plate, clockwise from its top left, in pixels. Nothing in it is looked at.
        rim_px: Nor is what lies so near to it.

    Returns:
        ``(h, w, 3)`` float32, the photograph outside of the hole. Inside the plate it has no meaning.
    """
    sides = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    wide, tall = (max(2, round(float(sides[start::2].mean()))) for start in (0, 1))
    margin = round(0.5 * tall + 8)
    size = (wide + 2 * margin, tall + 2 * margin)
    square = np.array([(0, 0), (wide, 0), (wide, tall), (0, tall)], np.float32) + margin - 0.5
    matrix = cv2.getPerspectiveTransform((corners - 0.5).astype(np.float32), square)
    flat = cv2.warpPerspective(part.astype(np.float32), matrix, size, borderMode=cv2.BORDER_REPLICATE)
    known = cv2.warpPerspective(np.ones(part.shape[:2], np.float32), matrix, size)
    away_x, away_y = (np.abs(np.arange(n) + 0.5 - n / 2) - (n / 2 - margin) for n in size)
    known[np.ix_(away_y < rim_px, away_x < rim_px)] = 0
    guide = _mixed(flat, known, away_x, away_y, rim_px, tall)
    back = cv2.warpPerspective(
        guide, matrix, part.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    # So that no step is seen at the hole's edge.
    result = back + _carried(part - back, ~hole)
    return np.where(hole[..., None], result, part).astype(np.float32)


def _mixed(
    flat: np.ndarray, known: np.ndarray, away_x: np.ndarray, away_y: np.ndarray, rim_px: float, tall: int
) -> np.ndarray:
    """Averages along the plate's sides, above and below it, beside it, and at its corners of both, ``(H, W, 3)``."""
    level = _averaged(flat, known, (ALONG * tall, 0.0))
    upright = _averaged(flat, known, (UPRIGHT[0] * tall, UPRIGHT[1] * tall))
    # Nearer to the plate nothing is known: what lies just beyond goes on up to it.
    rows, columns = (_beyond(away, rim_px) for away in (away_y, away_x))
    level, upright = level[rows], upright[:, columns]
    x, y = np.maximum(away_x, 1e-3)[None, :], np.maximum(away_y, 1e-3)[:, None]
    share = (y / (x + y))[..., None]
    mixed: np.ndarray = share * level + (1 - share) * upright
    return mixed


def _beyond(away: np.ndarray, rim_px: float) -> np.ndarray:
    """Each place's own index, or of the nearest place at ``rim_px`` from the plate or farther."""
    allowed = np.flatnonzero(away >= rim_px)
    places = np.arange(len(away))
    nearest: np.ndarray = allowed[np.abs(places[:, None] - allowed[None, :]).argmin(axis=1)]
    return nearest


def _averaged(flat: np.ndarray, known: np.ndarray, sigmas: tuple[float, float]) -> np.ndarray:
    along, across = (cv2.getGaussianKernel(2 * int(2.5 * sigma) + 1, max(sigma, 0.1)) for sigma in sigmas)
    total = cv2.sepFilter2D(flat * known[..., None], cv2.CV_32F, along, across, borderType=cv2.BORDER_CONSTANT)
    weight = cv2.sepFilter2D(known, cv2.CV_32F, along, across, borderType=cv2.BORDER_CONSTANT)
    # At the photograph's edge one side of a plate may be out of it.
    anywhere = (flat * known[..., None]).sum(axis=(0, 1)) / max(float(known.sum()), 1.0)
    seen = np.clip(weight / 0.02, 0, 1)[..., None]
    averaged: np.ndarray = seen * total / np.maximum(weight, 1e-4)[..., None] + (1 - seen) * anywhere
    return averaged


def _carried(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Carry ``(h, w, 3)`` smoothly from where it is known to where it is not."""
    shown = np.concatenate([values, np.ones((*known.shape, 1))], axis=2).astype(np.float32) * known[..., None]
    result = np.zeros(values.shape, np.float32)
    for reach in REACHES:
        square = (2 * reach + 1, 2 * reach + 1)
        spread = cv2.blur(
            cv2.blur(shown, square, borderType=cv2.BORDER_CONSTANT), square, borderType=cv2.BORDER_CONSTANT
        )
        weight = spread[..., 3:]
        share = np.clip(weight / 0.1, 0, 1)
        result = result * (1 - share) + spread[..., :3] / np.maximum(weight, 1e-6) * share
    return result

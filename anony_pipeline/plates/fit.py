"""Put a drawn plate in a photographed one's place: find the outline, warp, match the look, leave no old pixel."""

from dataclasses import dataclass
from zlib import crc32

import cv2
import numpy as np

from anony_pipeline.errors import MediaError
from anony_pipeline.plates import appearance, compression, mounting, render
from anony_pipeline.plates.appearance import Appearance
from anony_pipeline.plates.quads import Quad, find_quad
from anony_pipeline.plates.styles import PlateStyle
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Region

__all__ = ["FittedPlate", "Quad", "find_quad", "fit"]

MIN_WIDTH_PX, MIN_HEIGHT_PX = 6, 3
"""A smaller plate is filled from its surroundings: no character could be seen on it."""
INPAINT_RADIUS_PX = 3
DRAWN_PX = 320
"""The warp is made at least so wide, then averaged down."""
CORNER_RADIUS = 0.07
"""Of a plate's corners, over its height."""


@dataclass(frozen=True, slots=True)
class FittedPlate:
    """A photograph in which a plate was replaced.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` float32, 1 where the image is new, 0 where it is the photograph to the bit. It covers the
            region's box and the plate's outline with a rim.
        quad: Where the plate was put.
        look: What was measured; None where the plate was too small to be drawn.
        jpeg_quality: That of the photograph, which the new pixels have been given too; None if it shows none.
    """

    image: np.ndarray
    mask: np.ndarray
    quad: Quad
    look: Appearance | None
    jpeg_quality: int | None = None

    @property
    def score(self) -> float:
        """The outline's score, see `Quad`."""
        return self.quad.score


def fit(image_rgb: np.ndarray, region: Region, plate_rgb: np.ndarray) -> FittedPlate:
    """Replace a plate.

    Everything inside the mask is made anew: first what is about the plate (`mounting`), then the new plate is laid on
    it. Of the old plate only levels, cast, tilt of the light and sharpness enter. The same input gives the same output.

    Args:
        image_rgb: ``(H, W, 3)`` uint8.
        region: The plate; without a quad its outline is looked for.
        plate_rgb: ``(h, w, 3)`` uint8, the new plate seen from straight ahead, of any size; twice the width in the
            image or more keeps it sharp (`drawing_size`).

    Returns:
        The image, the mask and what was found. A plate under 6 x 3 px is filled from its surroundings.

    Raises:
        DatasetError: If the box lies outside the image or the quad crosses itself (see `find_quad`).
        MediaError: If an image is no ``(H, W, 3)`` uint8 array.
    """
    for name, array in (("image_rgb", image_rgb), ("plate_rgb", plate_rgb)):
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
            raise MediaError(
                "not an RGB image", where=name, got=f"{array.shape} {array.dtype}", allowed="(H, W, 3) uint8"
            )
    quad = find_quad(image_rgb, region)
    place = _Place.of(image_rgb, region, quad)
    rows, columns = place.window
    part = np.ascontiguousarray(image_rgb[rows, columns])
    filled = _surroundings(part, place, quad)
    look = None
    if _is_drawable(quad):
        plate, look = _matched_plate(part, place, plate_rgb)
        filled = plate[..., :3] + filled * (1 - plate[..., 3:])
    grain = appearance.noise(appearance.luma(part), ~place.hole) if look is None else look.noise_sigma
    filled += _grain(filled.shape, grain, seed=crc32(plate_rgb.tobytes()))
    result = image_rgb.copy()
    new = np.clip(np.rint(filled), 0, 255).astype(np.uint8)
    result[rows, columns] = np.where(place.hole[..., None], new, part)
    mask = np.zeros(image_rgb.shape[:2], np.float32)
    mask[rows, columns] = place.hole
    quality = compression.quality_of(image_rgb, place.window)
    if quality is not None:
        blocks = compression.whole_blocks(place.window, image_rgb.shape[:2])
        result[blocks] = np.where(
            mask[blocks][..., None] > 0, compression.stored(result[blocks], quality), result[blocks]
        )
    return FittedPlate(result, mask, quad, look, quality)


def drawing_size(style: PlateStyle, region: Region) -> tuple[int, int]:
    """Height and width in px at which a plate is best drawn for `fit`: twice as wide as there, in its own aspect."""
    width = int(np.clip(2 * region.size_wh[0], 128, 1024))
    return max(render.MIN_SIDE_PX, round(width * style.size_mm[1] / style.size_mm[0])), width


@dataclass(frozen=True, slots=True)
class _Place:
    """A window of the image about a plate.

    Attributes:
        window: Rows and columns of the image.
        corners: ``(4, 2)`` of the plate, in pixels of the window.
        hole: ``(h, w)`` bool, what is made anew.
        inside: ``(h, w)`` bool, pixels well inside the plate.
        position: ``(h, w, 2)``, -1 to 1 over the plate from left to right and from top to bottom.
        height_px: The plate's shorter upright side.
        rim_px: What the camera's blur spread of the old plate beyond its edge, at most.
    """

    window: tuple[slice, slice]
    corners: np.ndarray
    hole: np.ndarray
    inside: np.ndarray
    position: np.ndarray
    height_px: float
    rim_px: float

    @classmethod
    def of(cls, image: np.ndarray, region: Region, quad: Quad) -> "_Place":
        height, width = image.shape[:2]
        low, high = quad.corners.min(axis=0), quad.corners.max(axis=0)
        box = np.array(region.box_xyxy, dtype=np.float64)
        both = np.concatenate([np.minimum(box[:2], low), np.maximum(box[2:], high)])
        tall = float(
            min(np.hypot(*(quad.corners[3] - quad.corners[0])), np.hypot(*(quad.corners[2] - quad.corners[1])))
        )
        # What a camera's blur spreads beyond the plate's edge has to go as well.
        rim = float(np.clip(0.06 * tall, 1.0, 6.0))
        margin = max(8.0, 0.5 * tall)
        outer = both + np.array((-margin, -margin, margin, margin))
        x_min, y_min, x_max, y_max = boxes.round_outward(outer, width, height)[0]
        shape = (y_max - y_min, x_max - x_min)
        corners = quad.corners.astype(np.float64) - (x_min, y_min)
        hole = _coverage(corners, shape) > 0
        left, top, right, bottom = boxes.round_outward(box, width, height)[0] - np.array((x_min, y_min, x_min, y_min))
        hole[top:bottom, left:right] = True
        reach = int(np.ceil(rim))
        hole = cv2.dilate(hole.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
        position = _positions(corners, shape)
        inside = (np.abs(position) < (0.86, 0.72)).all(axis=2)
        return cls((slice(y_min, y_max), slice(x_min, x_max)), corners, hole, inside, position, tall, rim)


def _surroundings(part: np.ndarray, place: _Place, quad: Quad) -> np.ndarray:
    """The photograph without the plate, ``(h, w, 3)`` float32: with its holder, where the outline tells them apart."""
    if quad.score > 0 and _is_drawable(quad):
        return mounting.painted(part, place.hole, place.corners, place.rim_px)
    return cv2.inpaint(part, place.hole.astype(np.uint8), INPAINT_RADIUS_PX, cv2.INPAINT_TELEA).astype(np.float32)


def _is_drawable(quad: Quad) -> bool:
    sides = np.hypot(*(np.roll(quad.corners, -1, axis=0) - quad.corners).T)
    return bool(max(sides[0], sides[2]) >= MIN_WIDTH_PX and max(sides[1], sides[3]) >= MIN_HEIGHT_PX)


def _matched_plate(part: np.ndarray, place: _Place, plate_rgb: np.ndarray) -> tuple[np.ndarray, Appearance]:
    """The new plate at its place and with its look, ``(h, w, 4)`` float32: color times coverage, and coverage."""
    drawn = _warped(plate_rgb, place.corners, part.shape[:2])
    coverage = drawn[..., 3:]
    flat = drawn[..., :3] / np.maximum(coverage, 1e-3)
    look = appearance.estimate(
        part, flat, inside=place.inside, around=~place.hole, position=place.position, height_px=place.height_px
    )
    blurred = appearance.gaussian(drawn, look.blur_sigmas)
    coverage = blurred[..., 3:]
    lit = appearance.apply_light(blurred[..., :3] / np.maximum(coverage, 1e-3), look, place.inside, place.position)
    return np.concatenate([np.clip(lit, 0, 255) * coverage, coverage], axis=2), look


def _warped(plate: np.ndarray, corners: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Warp a plate to its corners with antialiasing, ``(h, w, 4)`` float32: color times coverage, and coverage."""
    wide = max(float(np.hypot(*(corners[1] - corners[0]))), float(np.hypot(*(corners[2] - corners[3]))), 1.0)
    factor = int(np.clip(np.ceil(DRAWN_PX / wide), 2, 8))
    # The source is first brought to about the warp's own resolution: a warp alone would skip its pixels.
    if plate.shape[1] > 1.5 * wide * factor:
        width = max(2, round(wide * factor))
        size = (width, max(2, round(plate.shape[0] * width / plate.shape[1])))
        plate = cv2.resize(plate, size, interpolation=cv2.INTER_AREA)
    height, width = plate.shape[:2]
    source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    matrix = _between_centers(cv2.getPerspectiveTransform(source, (corners * factor).astype(np.float32)))
    fine = (size_hw[1] * factor, size_hw[0] * factor)
    colors = cv2.warpPerspective(plate, matrix, fine, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shape = _rounded_shape((height, width))
    coverage = cv2.warpPerspective(shape, matrix, fine, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    layer = np.concatenate([colors.astype(np.float32), np.ones((*fine[::-1], 1), np.float32)], axis=2)
    return cv2.resize(layer * coverage[..., None], size_hw[::-1], interpolation=cv2.INTER_AREA)


def _rounded_shape(size_hw: tuple[int, int]) -> np.ndarray:
    """A plate's silhouette, ``(h, w)`` float32."""
    height, width = size_hw
    radius = CORNER_RADIUS * height
    x = np.abs(np.arange(width) + 0.5 - width / 2) - (width / 2 - radius)
    y = np.abs(np.arange(height) + 0.5 - height / 2) - (height / 2 - radius)
    beyond = np.hypot(np.maximum(x, 0)[None, :], np.maximum(y, 0)[:, None])
    return np.clip(radius - beyond + 0.5, 0, 1).astype(np.float32)


def _between_centers(matrix: np.ndarray) -> np.ndarray:
    """Turn a homography of positions into one of cv2's pixels, whose centers are at whole numbers, not at halves."""
    there = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
    return there @ matrix @ np.linalg.inv(there)


def _coverage(corners: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """``(h, w)`` float32, 1 for each pixel that the quad touches."""
    canvas = np.zeros(size_hw, np.uint8)
    points = np.rint((corners - 0.5) * 16).astype(np.int32)
    cv2.fillConvexPoly(canvas, points, 1, lineType=cv2.LINE_8, shift=4)
    return canvas.astype(np.float32)


def _positions(corners: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    target = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    x, y = np.meshgrid(np.arange(size_hw[1]) + 0.5, np.arange(size_hw[0]) + 0.5)
    points = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T
    # Beyond the horizon of a steep view the sign turns; such points are far outside.
    depth = np.where(np.abs(points[..., 2:]) < 1e-6, 1e-6, points[..., 2:])
    return np.where(depth > 0, points[..., :2] / depth, 9.0).clip(-9, 9).astype(np.float32)


def _grain(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    """Noise as a camera leaves it: mostly in the luma, a little of it in the colors."""
    rng = np.random.default_rng(seed)
    gray = rng.normal(0, sigma, (*shape[:2], 1))
    return (gray + rng.normal(0, 0.3 * sigma, shape)).astype(np.float32)

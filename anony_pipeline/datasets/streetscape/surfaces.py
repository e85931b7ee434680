"""Shaded surfaces: grids of points in space, lit, and drawn as dense points with a depth order.

Space is right-handed with the viewer on the positive z axis: x to the viewer's right, y up, z toward the viewer. The
unit is half the height of a head (about 11 cm). Colors are linear, not gamma-encoded, so that light adds up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

SHADOW_CELLS = 72
SHADOW_REACH = 2.6
LOWEST = -3.0
DEPTH_RANGE = 24.0
# A point is drawn as 2 x 2 fine pixels: wider spacing leaves holes, which `_splat` closes up to one pixel.
SPACING_PX = 1.65
# Below so many points, thinning a grid costs more than drawing it.
FEW_POINTS = 2000


@dataclass(frozen=True, eq=False)
class Surface:
    """A grid of points with a color each.

    Attributes:
        points: ``(3, R, C)`` float32; (row direction) x (column direction) points outward.
        albedo: ``(3, R, C)`` float32, linear, in ``[0, 1]``.
        gloss: ``(R, C)`` float32 or one number: the strength of the highlight.
        occlusion: ``(R, C)`` float32 in ``[0, 1]`` or one number: how much of the sky is seen from there.
        drawn: ``(R, C)`` bool: which points exist; None if all do.
        soft: Light bleeds around the terminator, as in skin.
        two_sided: Also drawn where it faces away.
    """

    points: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray | float = 0.0
    occlusion: np.ndarray | float = 1.0
    drawn: np.ndarray | None = None
    soft: bool = False
    two_sided: bool = False


@dataclass(frozen=True)
class Light:
    """One distant light, a sky above and a ground below.

    Attributes:
        direction: Unit vector toward the light.
        sun_rgb: The light's linear color times its strength.
        sky_rgb: Ambient light from above.
        ground_rgb: Ambient light from below.
    """

    direction: tuple[float, float, float]
    sun_rgb: tuple[float, float, float]
    sky_rgb: tuple[float, float, float]
    ground_rgb: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """Where on the canvas space appears.

    Attributes:
        size_hw: The canvas in pixels.
        scale: Pixels to a unit at z = 0.
        center_xy: Where the origin appears, in pixels.
        distance: From the viewer to the origin in units; small ones distort.
        supersample: Finer by this factor while drawing, then averaged; need not be whole.
    """

    size_hw: tuple[int, int]
    scale: float
    center_xy: tuple[float, float]
    distance: float = 12.0
    supersample: float = 2.0

    def project(self, points: np.ndarray) -> np.ndarray:
        """Take ``(3, ...)`` points to ``(2, ...)`` pixels of the canvas."""
        factor = self.scale * self.distance / np.maximum(self.distance - points[2], 1e-3)
        return np.stack([self.center_xy[0] + points[0] * factor, self.center_xy[1] - points[1] * factor])


@dataclass(frozen=True, eq=False)
class Raster:
    """A drawing: ``rgb`` ``(H, W, 3)`` linear float32, not multiplied by ``alpha`` ``(H, W)`` in ``[0, 1]``."""

    rgb: np.ndarray
    alpha: np.ndarray


def rotated(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Apply a ``(3, 3)`` rotation to ``(3, ...)`` points.

    Written out, because a matrix product's rounding depends on how many threads the library takes.
    """
    x, y, z = points
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in rotation.astype(np.float32)])


def normals_of(points: np.ndarray) -> np.ndarray:
    """Outward unit normals ``(3, R, C)`` of a grid of points, by central differences."""
    down, across = np.empty_like(points), np.empty_like(points)
    down[:, 1:-1] = points[:, 2:] - points[:, :-2]
    down[:, 0], down[:, -1] = points[:, 1] - points[:, 0], points[:, -1] - points[:, -2]
    across[:, :, 1:-1] = points[:, :, 2:] - points[:, :, :-2]
    across[:, :, 0], across[:, :, -1] = points[:, :, 1] - points[:, :, 0], points[:, :, -1] - points[:, :, -2]
    normals = np.stack(
        [
            down[1] * across[2] - down[2] * across[1],
            down[2] * across[0] - down[0] * across[2],
            down[0] * across[1] - down[1] * across[0],
        ]
    )
    normals /= np.sqrt((normals * normals).sum(axis=0)) + 1e-9
    return normals


def render(surfaces: Sequence[Surface], view: View, light: Light) -> Raster:
    """Light the surfaces and draw them onto an empty canvas.

    Args:
        surfaces: In the viewer's space (already rotated).
        view: The canvas.
        light: Where light comes from.

    Returns:
        The drawing, antialiased.
    """
    shadow_map = _shadow_map(surfaces, light)
    surfaces = [surface for surface in surfaces if _reaches_canvas(surface, view)]
    surfaces = [_fit_density(_without_far_side(surface, view), view) for surface in surfaces]
    if not surfaces:
        return Raster(np.zeros((*view.size_hw, 3), np.float32), np.zeros(view.size_hw, np.float32))
    clouds = [_cloud(surface, view, light, shadow_map) for surface in surfaces]
    pixels = np.concatenate([cloud[0] for cloud in clouds], axis=1)
    depth = np.concatenate([cloud[1] for cloud in clouds])
    colors = np.concatenate([cloud[2] for cloud in clouds], axis=1)
    return _splat(pixels, depth, colors, view)


def _reaches_canvas(surface: Surface, view: View) -> bool:
    x, y = view.project(surface.points[:, ::4, ::4])
    height, width = view.size_hw
    return bool(x.max() > 0 and x.min() < width and y.max() > 0 and y.min() < height)


def _fit_density(surface: Surface, view: View) -> Surface:
    """Resample a grid so that neighbours lie about `SPACING_PX` apart on the canvas, along rows and columns alike."""
    points, pixels = surface.points, view.scale * view.supersample / SPACING_PX
    rows, columns = points[:, 1:, ::3] - points[:, :-1, ::3], points[:, ::3, 1:] - points[:, ::3, :-1]
    # A mean of fourth powers leans to the longer edges, which would leave holes.
    lengths_y = ((rows * rows).sum(axis=0) ** 2).mean(axis=1) ** 0.25 * (1.1 * pixels)
    lengths_x = ((columns * columns).sum(axis=0) ** 2).mean(axis=0) ** 0.25 * (1.1 * pixels)
    if points[0].size < FEW_POINTS and max(lengths_y.max(), lengths_x.max()) < 1:
        return surface
    places_y, places_x = _even_places(lengths_y), _even_places(lengths_x)
    xs, ys = np.meshgrid(places_x, places_y)
    kernel = tuple(
        max(1, round(old / len(new))) for old, new in zip(points.shape[:0:-1], (places_x, places_y), strict=True)
    )

    def resampled(values: np.ndarray) -> np.ndarray:
        planes = list(values.reshape(-1, *points.shape[1:]))
        if kernel != (1, 1):
            # Averaging first keeps fine texture from aliasing on small heads.
            planes = [cv2.blur(plane, kernel) for plane in planes]
        resized = np.stack([cv2.remap(plane, xs, ys, cv2.INTER_LINEAR) for plane in planes])
        return resized.reshape(*values.shape[:-2], *xs.shape)

    def resampled_map(values: np.ndarray | float) -> np.ndarray | float:
        return resampled(values) if isinstance(values, np.ndarray) else values

    return replace(
        surface,
        points=resampled(points),
        albedo=resampled(surface.albedo),
        gloss=resampled_map(surface.gloss),
        occlusion=resampled_map(surface.occlusion),
        drawn=None if surface.drawn is None else resampled(surface.drawn.astype(np.float32)) > 0.5,
    )


def _without_far_side(surface: Surface, view: View) -> Surface:
    """Drop the columns of a grid of which no point faces the viewer, where those are its first or last."""
    if surface.two_sided or surface.points[0].size < FEW_POINTS:
        return surface
    step = 4
    coarse = surface.points[:, ::step, ::step]
    normals = normals_of(coarse)
    facing = normals[2] * (view.distance - coarse[2]) - normals[0] * coarse[0] - normals[1] * coarse[1]
    seen = np.nonzero((facing > -0.1 * view.distance).any(axis=0))[0]
    if len(seen) == 0:
        return surface
    kept = slice(max(0, int(seen[0] - 1) * step), min(surface.points.shape[2], int(seen[-1] + 1) * step + 1))
    cut: dict[str, Any] = {n: value[..., kept] for n, value in vars(surface).items() if isinstance(value, np.ndarray)}
    return replace(surface, **cut)


def _even_places(lengths: np.ndarray) -> np.ndarray:
    """Fractional indices at which a polyline of segments of these lengths is to be sampled in steps of one."""
    along = np.concatenate([[0.0], np.cumsum(np.maximum(lengths, 1e-4))])
    count = int(np.clip(np.ceil(along[-1]), 4, 900))
    return np.interp(np.linspace(0, along[-1], count), along, np.arange(len(along))).astype(np.float32)


def _light_frame(light: Light) -> np.ndarray:
    """Rows: two axes across the light, and the direction to it."""
    toward = np.asarray(light.direction, np.float32)
    up = np.array([0, 0, 1] if abs(toward[1]) > 0.9 else [0, 1, 0], np.float32)
    across = np.cross(up, toward)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(toward, across), toward])


def _cells(points: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places on the shadow map, ``(2, ...)`` in cells, and heights toward the light."""
    seen = rotated(points, frame)
    return seen[:2] * np.float32(SHADOW_CELLS / 2 / SHADOW_REACH) + np.float32(SHADOW_CELLS / 2), seen[2]


def _shadow_map(surfaces: Sequence[Surface], light: Light) -> tuple[np.ndarray, np.ndarray]:
    """The height of the highest point toward the light in each cell, and the frame in which cells are counted."""
    frame = _light_frame(light)
    heights = np.full(SHADOW_CELLS * SHADOW_CELLS, LOWEST, np.float32)
    for surface in surfaces:
        if surface.points[1, 0, 0] < -1.5 * SHADOW_REACH:
            continue
        step = max(1, round(np.sqrt(surface.points[0].size / 7000)))
        points = surface.points[:, ::step, ::step]
        points = points.reshape(3, -1) if surface.drawn is None else points[:, surface.drawn[::step, ::step]]
        places, height = _cells(points, frame)
        columns = np.clip(places, 0, SHADOW_CELLS - 1).astype(np.int32)
        order = np.argsort(_sort_key(height), kind="stable")
        top = np.full_like(heights, LOWEST)
        top[(columns[1] * SHADOW_CELLS + columns[0])[order]] = height[order]
        np.maximum(heights, top, out=heights)
    grid = np.maximum(heights, LOWEST).reshape(SHADOW_CELLS, SHADOW_CELLS)
    # Cells at the rim collect everything beyond them; nothing there may cast a shadow.
    grid[0], grid[-1], grid[:, 0], grid[:, -1] = LOWEST, LOWEST, LOWEST, LOWEST
    return cv2.blur(grid, (3, 3)), frame


def _cloud(
    surface: Surface, view: View, light: Light, shadow_map: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lit points of a surface that face the viewer: pixels ``(2, N)``, depth ``(N,)`` and colors ``(3, N)``."""
    points = surface.points
    normals = normals_of(points)
    toward = view.distance - points[2]
    facing = normals[2] * toward - normals[0] * points[0] - normals[1] * points[1]
    if surface.two_sided:
        normals = normals * np.where(facing < 0, -1, 1).astype(np.float32)
        seen = np.ones(facing.shape, bool)
    else:
        seen = facing > -0.02 * view.distance
    if surface.drawn is not None:
        seen &= surface.drawn
    lit = _lit_share(points, shadow_map)
    chosen = np.nonzero(seen.ravel())[0]

    def pick(grid: np.ndarray | float) -> np.ndarray | float:
        return grid.reshape(-1)[chosen] if isinstance(grid, np.ndarray) else grid

    colors = _shade(
        normals.reshape(3, -1)[:, chosen],
        surface.albedo.reshape(3, -1)[:, chosen],
        (pick(surface.gloss), pick(surface.occlusion), pick(lit)),
        light,
        surface.soft,
    )
    place = points.reshape(3, -1)[:, chosen]
    return view.project(place) * view.supersample, place[2], colors


def _lit_share(points: np.ndarray, shadow_map: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    heights, frame = shadow_map
    places, height = _cells(points, frame)
    above = cv2.remap(heights, places[0] - 0.5, places[1] - 0.5, cv2.INTER_LINEAR, borderValue=LOWEST) - height
    # A surface lies a little below its own entry in the coarse map: only what is clearly above casts a shadow.
    return 1 - np.clip((above - 0.07) / 0.16, 0, 1)


def _shade(
    normals: np.ndarray,
    albedo: np.ndarray,
    maps: tuple[np.ndarray | float, np.ndarray | float, np.ndarray | float],
    light: Light,
    soft: bool,
) -> np.ndarray:
    """Diffuse, ambient and Blinn-Phong specular light on ``(3, N)`` normals and albedo."""
    gloss, occlusion, lit = maps
    toward = light.direction
    cosine = normals[0] * toward[0] + normals[1] * toward[1] + normals[2] * toward[2]
    diffuse = np.maximum(cosine, 0) * lit
    up = (normals[1] * 0.5 + 0.5) * occlusion
    down = (0.5 - normals[1] * 0.5) * occlusion
    half = np.add(toward, (0, 0, 1))
    half /= np.linalg.norm(half)
    shine = np.maximum(normals[0] * half[0] + normals[1] * half[1] + normals[2] * half[2], 0)
    shine = shine * shine
    shine = shine * shine
    shine = shine * shine
    shine = (shine * shine * 0.7 + shine * 0.12) * gloss * (lit * 0.8 + 0.2)
    colors = np.empty_like(albedo)
    for channel in range(3):
        # Blood scatters red light around the terminator (wrapped diffuse light, in the red channel most).
        wrap = (0.28, 0.1, 0.06)[channel] if soft else 0.0
        direct = np.maximum(cosine * (1 - wrap) + wrap, 0) * lit if wrap else diffuse
        received = direct * light.sun_rgb[channel] + up * light.sky_rgb[channel] + down * light.ground_rgb[channel]
        colors[channel] = albedo[channel] * received + shine * light.sun_rgb[channel]
    return colors


def _sort_key(depth: np.ndarray) -> np.ndarray:
    """Depths as 16-bit numbers: they let NumPy's stable sort be a radix sort."""
    return np.clip((depth + DEPTH_RANGE / 2) * (65535 / DEPTH_RANGE), 0, 65535).astype(np.uint16)


def _splat(pixels: np.ndarray, depth: np.ndarray, colors: np.ndarray, view: View) -> Raster:
    """Draw points as 2 x 2 blocks, far ones first, so that the nearest stays."""
    fine = view.supersample
    height, width = (int(np.ceil(size * fine)) for size in view.size_hw)
    corner = np.floor(pixels - 0.5).astype(np.int32)
    inside = (corner[0] >= 0) & (corner[0] < width - 1) & (corner[1] >= 0) & (corner[1] < height - 1)
    corner, depth = corner[:, inside], depth[inside]
    order = np.argsort(_sort_key(depth), kind="stable")
    start = corner[1][order] * width + corner[0][order]
    places = (start[:, None] + np.array([0, 1, width, width + 1], np.int32)).ravel()
    owner = np.full(height * width, -1, np.int32)
    # NumPy keeps the last of several values assigned to one place.
    owner[places] = np.repeat(np.nonzero(inside)[0][order].astype(np.int32), 4)
    owner = _closed(owner.reshape(height, width)).ravel()
    drawn = owner >= 0
    flat = np.zeros((height * width, 4), np.float32)
    flat[drawn, :3] = colors[:, owner[drawn]].T
    # Blocks reach half a fine pixel beyond the outline: the outermost pixels count half.
    inner = cv2.erode(drawn.reshape(height, width).astype(np.uint8), np.ones((3, 3), np.uint8)).ravel()
    flat[drawn, 3] = np.where(inner[drawn], np.float32(1), np.float32(0.5))
    flat[drawn, :3] *= flat[drawn, 3:]
    canvas = flat.reshape(height, width, 4)
    if fine > 1:
        canvas = _averaged(canvas, view)
    alpha = canvas[..., 3]
    return Raster(canvas[..., :3] / np.maximum(alpha, 1e-6)[..., None], alpha)


def _averaged(canvas: np.ndarray, view: View) -> np.ndarray:
    """Average fine pixels to the canvas's."""
    height, width = view.size_hw
    if float(view.supersample).is_integer():
        return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    # An odd rest at the far edges would stretch the picture: sample at the exact factor instead.
    fine = np.float32(view.supersample)
    soft = cv2.blur(canvas, (2, 2), anchor=(0, 0))
    xs, ys = np.meshgrid(
        (np.arange(width, dtype=np.float32) + 0.5) * fine - 1, (np.arange(height, dtype=np.float32) + 0.5) * fine - 1
    )
    return cv2.remap(soft, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _closed(owner: np.ndarray) -> np.ndarray:
    """Give pixels that are empty but surrounded to a neighbour."""
    square = np.ones((5, 5), np.uint8)
    drawn = (owner >= 0).astype(np.uint8)
    holes = (cv2.morphologyEx(drawn, cv2.MORPH_CLOSE, square) > drawn).nonzero()
    if len(holes[0]):
        # float32 holds whole numbers up to 16 million exactly.
        owner[holes] = cv2.dilate(owner.astype(np.float32), square)[holes].astype(np.int32)
    return owner

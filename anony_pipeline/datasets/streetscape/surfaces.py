"""Shaded surfaces: grids of points in space, lit, and drawn as dense points with a depth order.

Space is right-handed with the viewer on the positive z axis: x to the viewer's right, y up, z toward the viewer. The
unit is half the height of a head (about 11 cm). Colors are linear, not gamma-encoded, so that light adds up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import cv2
import numpy as np

T = TypeVar("T")
U = TypeVar("U")
SHADOW_CELLS = 72
SHADOW_REACH = 2.6
# So many points of a surface cast its shadow.
SHADOW_POINTS = 7000
LOWEST = -3.0
DEPTH_RANGE = 24.0
# A point is drawn as 2 x 2 fine pixels: wider spacing leaves holes, which `_splat` closes.
SPACING_PX = 1.65
# Below so many points, thinning a grid costs more than drawing it.
FEW_POINTS = 2000
# Rows of a grid that are sampled alike.
BAND_ROWS = 60
# Every which row and column tells what is in sight.
COARSE = 4


@dataclass(frozen=True, eq=False)
class Surface:
    """A grid of points with a color each.

    Attributes:
        points: ``(3, R, C)`` float32; (row direction) x (column direction) points outward.
        albedo: ``(3, R, C)`` float32, linear, in ``[0, 1]``; ``(3, 1, 1)`` if it is the same everywhere.
        gloss: ``(R, C)`` float32 or one number: the strength of the highlight.
        occlusion: ``(R, C)`` float32 in ``[0, 1]`` or one number: how much of the sky is seen from there.
        drawn: ``(R, C)`` bool: which points exist; None if all do.
        soft: Light bleeds around the terminator, as in skin.
        two_sided: Also drawn where it faces away.
        turn: ``(3, 3)`` rotation of the surface's space into the viewer's.
        lengths: What `lengths_of` says of points that are about these; asked when drawn if None.
    """

    points: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray | float = 0.0
    occlusion: np.ndarray | float = 1.0
    drawn: np.ndarray | None = None
    soft: bool = False
    two_sided: bool = False
    turn: np.ndarray = field(default_factory=lambda: np.eye(3, dtype=np.float32))
    lengths: tuple[np.ndarray, np.ndarray] | None = None


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
        supersample: Finer by this factor while drawing, then averaged; need not be whole; see `fineness`.
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
    """A drawing: ``rgb`` ``(H, W, 3)`` linear float32, multiplied by ``alpha`` ``(H, W)`` in ``[0, 1]``."""

    rgb: np.ndarray
    alpha: np.ndarray

    def over(self, behind: np.ndarray) -> np.ndarray:
        """The drawing on top of an opaque ``(H, W, 3)`` picture."""
        return cv2.multiply(behind, cv2.merge([1 - self.alpha] * 3)) + self.rgb


def fineness(scale: float) -> float:
    """By which factor to draw finer: large things need less; ``scale`` is in pixels to a unit."""
    return 2.0 if scale < 24 else 1.5


def rotated(points: Sequence[np.ndarray] | np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Apply a ``(3, 3)`` rotation to ``(3, ...)`` float32 points.

    Written out, because a matrix product's rounding depends on how many threads the library takes.
    """
    x, y, z = points
    turned, part = np.empty((3, *x.shape), np.float32), np.empty(x.shape, np.float32)
    for axis, (a, b, c) in enumerate(rotation.astype(np.float32)):
        np.multiply(x, a, out=turned[axis])
        turned[axis] += np.multiply(y, b, out=part)
        turned[axis] += np.multiply(z, c, out=part)
    return turned


def normals_of(points: np.ndarray) -> np.ndarray:
    """Outward unit normals ``(3, R, C)`` of a grid of points, by central differences."""
    down, across = np.empty_like(points), np.empty_like(points)
    down[:, 1:-1] = points[:, 2:] - points[:, :-2]
    down[:, 0], down[:, -1] = points[:, 1] - points[:, 0], points[:, -1] - points[:, -2]
    across[:, :, 1:-1] = points[:, :, 2:] - points[:, :, :-2]
    across[:, :, 0], across[:, :, -1] = points[:, :, 1] - points[:, :, 0], points[:, :, -1] - points[:, :, -2]
    return _unit(cross(down, across))


def cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cross product of ``(3, ...)`` vectors; NumPy's own takes several times as long."""
    return np.stack(
        [
            first[1] * second[2] - first[2] * second[1],
            first[2] * second[0] - first[0] * second[2],
            first[0] * second[1] - first[1] * second[0],
        ]
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    """``(3, ...)`` vectors brought to unit length, in place."""
    x, y, z = vectors
    vectors /= np.sqrt(x * x + y * y + z * z) + np.float32(1e-9)
    return vectors


def render(surfaces: Sequence[Surface], view: View, light: Light) -> Raster:
    """Light the surfaces and draw them onto an empty canvas.

    Points are drawn first, each by its number; color and light are found only for those that stay in sight.

    Args:
        surfaces: What is drawn, each in its own space.
        view: The canvas.
        light: Where light comes from.

    Returns:
        The drawing, antialiased.
    """
    cloud = _cloud_of(surfaces, view)
    owner = _splat(cloud, view)
    row = np.zeros(len(cloud.drawn) + 1, np.int32)
    row[owner] = 1
    # The last number is nobody's.
    row[-1] = 0
    chosen = np.flatnonzero(row).astype(np.int32)
    row[chosen] = np.arange(1, len(chosen) + 1, dtype=np.int32)
    rgba = np.zeros((2, len(chosen) + 1, 4), np.float32)
    if len(chosen):
        rgba[0, 1:, :3] = _lit(cloud, chosen, view, light, _shadow_map(surfaces, light)).T
    rgba[0, 1:, 3] = 1
    # Blocks reach half a fine pixel beyond the outline: the outermost pixels count half.
    rgba[1] = rgba[0] * np.float32(0.5)
    row = row.take(owner)
    inside = cv2.erode((row > 0).view(np.uint8), np.ones((3, 3), np.uint8))
    row += (inside == 0) * np.int32(len(chosen) + 1)
    return _averaged(rgba.reshape(-1, 4).take(row, axis=0), view)


@dataclass(frozen=True, eq=False)
class _Grid:
    """A part of a surface, sampled as densely as the canvas needs it.

    Attributes:
        surface: The whole surface, as it was given.
        places_yx: ``(R,)`` and ``(C,)``: at which fractional rows and columns of the surface.
        kernel_wh: Over how many columns and rows of the surface a sample is the mean.
        span: The numbers of its ``R x C`` points in the cloud.
    """

    surface: Surface
    places_yx: tuple[np.ndarray, np.ndarray]
    kernel_wh: tuple[int, int]
    span: slice

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.places_yx[0]), len(self.places_yx[1])

    def maps(self) -> np.ndarray:
        """``(2, R, C)``: the column and row of each point."""
        maps = np.empty((2, *self.shape), np.float32)
        maps[0], maps[1] = self.places_yx[1], self.places_yx[0][:, None]
        return maps


@dataclass(frozen=True, eq=False)
class _Cloud:
    """The points of all grids, one after the other.

    Attributes:
        grids: Where they come from.
        points: ``(3, N)`` in the viewer's space.
        pixels: ``(2, N)`` on the fine canvas.
        drawn: ``(N,)`` bool: exists and faces the viewer.
    """

    grids: list[_Grid]
    points: np.ndarray
    pixels: np.ndarray
    drawn: np.ndarray


def _cloud_of(surfaces: Sequence[Surface], view: View) -> _Cloud:
    """Sample what can be seen of surfaces so that neighbors lie about `SPACING_PX` apart on the fine canvas."""
    grids: list[_Grid] = []
    for surface, parts in zip(surfaces, _parts_in_sight(surfaces, view), strict=True):
        grids += _grids_of(surface, parts, view, grids[-1].span.stop if grids else 0)
    count = grids[-1].span.stop if grids else 0
    found, drawn = np.empty((count, 1, 4), np.float32), np.ones(count, bool)
    for surface, own in _runs(grids, lambda grid: grid.surface):
        # Four planes at once are sampled as fast as one.
        exists = surface.points[0] if surface.drawn is None else surface.drawn.astype(np.float32)
        planes = _smoothed(cv2.merge([*surface.points, exists]), own[0].kernel_wh)
        for grid in own:
            xs, ys = grid.maps()
            cv2.remap(planes, xs, ys, cv2.INTER_LINEAR, dst=found[grid.span].reshape(*grid.shape, 4))
            if surface.drawn is not None:
                drawn[grid.span] = found[grid.span, 0, 3] > 0.5
    axes = [axis.reshape(-1) for axis in cv2.split(found)[:3]] if count else [np.empty(0, np.float32)] * 3
    points = np.empty((3, count), np.float32)
    for turn, own in _runs(grids, lambda grid: grid.surface.turn):
        mine = slice(own[0].span.start, own[-1].span.stop)
        points[:, mine] = rotated([axis[mine] for axis in axes], turn)
    pixels = _fine_pixels(points, view)
    for grid in grids:
        if not grid.surface.two_sided:
            drawn[grid.span] &= _facing_points(pixels[:, grid.span].reshape(2, *grid.shape)).reshape(-1)
    return _Cloud(grids, points, pixels, drawn)


def _runs(things: Sequence[T], of: Callable[[T], U]) -> list[tuple[U, list[T]]]:
    """Neighbors that share one and the same object."""
    return [(of(own[0]), own) for own in (list(run) for _, run in groupby(things, lambda one: id(of(one))))]


def _grids_of(surface: Surface, parts: Sequence[tuple[slice, slice]], view: View, first: int) -> list[_Grid]:
    """The grids of a surface's parts, with points numbered from ``first``."""
    if not parts:
        return []
    places = _places(surface, parts, view.scale * view.supersample / SPACING_PX)
    # Averaging before sampling more coarsely keeps fine texture from aliasing on small heads.
    high, wide = (
        max(1, round(sum(part[axis].stop - part[axis].start for part in parts) / sum(len(one[axis]) for one in places)))
        for axis in (0, 1)
    )
    grids = []
    for ys, xs in places:
        grids.append(_Grid(surface, (ys, xs), (wide, high), slice(first, first + len(ys) * len(xs))))
        first = grids[-1].span.stop
    return grids


def _parts_in_sight(surfaces: Sequence[Surface], view: View) -> list[list[tuple[slice, slice]]]:
    """Of each surface the rows and columns that hold points on the canvas that face the viewer.

    In bands of rows: each has its own columns, and needs its own density.
    """
    coarse = [one.points[:, ::COARSE, ::COARSE] for one in surfaces]
    ends = np.cumsum([one[0].size for one in coarse]).tolist()
    spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    points = np.concatenate([one.reshape(3, -1) for one in coarse], axis=1)
    for turn, own in _runs(list(zip(surfaces, spans, strict=True)), lambda one: one[0].turn):
        mine = slice(own[0][1].start, own[-1][1].stop)
        points[:, mine] = rotated(points[:, mine], turn)
    pixels = _fine_pixels(points, view)
    return [
        _parts_of(surface, pixels[:, span].reshape(2, *one.shape[1:]), view)
        for surface, span, one in zip(surfaces, spans, coarse, strict=True)
    ]


def _parts_of(surface: Surface, pixels: np.ndarray, view: View) -> list[tuple[slice, slice]]:
    """The parts in sight of one surface, of which every `COARSE`-th row and column is known on the fine canvas."""
    (rows, columns), (height, width) = surface.points.shape[1:], _fine_size(view)
    x, y = pixels
    if rows * columns < FEW_POINTS:
        outside = x.max() < 0 or x.min() > width or y.max() < 0 or y.min() > height
        return [] if outside else [(slice(0, rows), slice(0, columns))]
    inside = (x > 0) & (x < width) & (y > 0) & (y < height)
    seen = inside[1:, 1:] | inside[:-1, :-1]
    if not surface.two_sided:
        seen &= _facing_quads(pixels)
    seen = cv2.dilate(seen.view(np.uint8), np.ones((3, 3), np.uint8))
    parts = []
    for first in range(0, len(seen), BAND_ROWS // COARSE):
        band = seen[first : first + BAND_ROWS // COARSE]
        down, across = np.flatnonzero(band.any(axis=1)) + first, np.flatnonzero(band.any(axis=0))
        if len(down):
            parts.append((_grown(down, len(seen), rows), _grown(across, seen.shape[1], columns)))
    return parts


def _grown(squares: np.ndarray, of: int, points: int) -> slice:
    """The rows or columns of points that border on coarse squares, of which there are ``of``."""
    last = int(squares[-1]) + 1
    return slice(int(squares[0]) * COARSE, points if last == of else last * COARSE + 1)


def _fine_size(view: View) -> tuple[int, int]:
    """Height and width of the fine canvas."""
    height, width = (int(np.ceil(size * view.supersample)) for size in view.size_hw)
    return height, width


def _fine_pixels(points: np.ndarray, view: View) -> np.ndarray:
    """Where ``(3, R, C)`` points lie on the fine canvas, ``(2, R, C)``, counted from the middle of its first pixel."""
    pixels = view.project(points)
    pixels *= np.float32(view.supersample)
    pixels -= np.float32(0.5)
    return pixels


def _facing_quads(pixels: np.ndarray) -> np.ndarray:
    """Which squares of neighbors turn their outside to the viewer, ``(R - 1, C - 1)`` bool, by their diagonals."""
    down_x, down_y = pixels[:, 1:, 1:] - pixels[:, :-1, :-1]
    up_x, up_y = pixels[:, :-1, 1:] - pixels[:, 1:, :-1]
    return up_x * down_y > up_y * down_x


def _facing_points(pixels: np.ndarray) -> np.ndarray:
    """Which points belong to a square that faces the viewer, ``(R, C)`` bool."""
    corners = np.zeros(pixels.shape[1:], np.uint8)
    corners[:-1, :-1] = _facing_quads(pixels)
    return cv2.dilate(corners, np.ones((2, 2), np.uint8), anchor=(1, 1)).view(bool)


def lengths_of(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fourth powers of the distances between neighbors in a grid.

    Args:
        points: ``(3, R, C)``.

    Returns:
        ``(R - 1, C / 3)`` from row to row, in every third column, and ``(R / 3, C - 1)`` from column to column.
    """
    rows, columns = points[:, 1:, ::3] - points[:, :-1, ::3], points[:, ::3, 1:] - points[:, ::3, :-1]
    return (rows * rows).sum(axis=0) ** 2, (columns * columns).sum(axis=0) ** 2


def _places(
    surface: Surface, parts: Sequence[tuple[slice, slice]], scale: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """At which fractional rows and columns each part of a grid is to be sampled, at ``scale`` samples to a unit."""
    down, across = surface.lengths or lengths_of(surface.points)
    top, bottom = parts[0][0].start, parts[-1][0].stop
    left, right = min(part[1].start for part in parts), max(part[1].stop for part in parts)
    # A mean of fourth powers leans to the longer edges, which would leave holes.
    lengths_y = down[top : bottom - 1, left // 3 : -(-right // 3)].mean(axis=1) ** 0.25 * (1.1 * scale)
    lengths_x = [
        across[rows.start // 3 : -(-rows.stop // 3), columns.start : columns.stop - 1].mean(axis=0) ** 0.25
        * (1.1 * scale)
        for rows, columns in parts
    ]
    if surface.points[0].size < FEW_POINTS and max(lengths_y.max(), lengths_x[0].max()) < 1:
        # So few are drawn as they are.
        return [(np.arange(bottom, dtype=np.float32), np.arange(right, dtype=np.float32))]
    ys = _even_places(lengths_y) + np.float32(top)
    ends = np.searchsorted(ys, [rows.start for rows, _ in parts] + [bottom])
    return [
        # One row more, as the next part begins with it; two at least, as one alone has no direction.
        (ys[min(start, len(ys) - 2) : max(end + 1, start + 2)], _even_places(lengths) + np.float32(columns.start))
        for start, end, lengths, (_, columns) in zip(ends, ends[1:], lengths_x, parts, strict=False)
    ]


def _even_places(lengths: np.ndarray) -> np.ndarray:
    """Fractional indices at which a polyline of segments of these lengths is to be sampled in steps of one."""
    along = np.zeros(len(lengths) + 1)
    np.cumsum(np.maximum(lengths, 1e-4), out=along[1:])
    count = min(max(math.ceil(along[-1]), 4), 900)
    steps = np.arange(count) * (along[-1] / (count - 1))
    return np.interp(steps, along, np.arange(len(along))).astype(np.float32)


def _smoothed(values: np.ndarray, kernel_wh: tuple[int, int]) -> np.ndarray:
    return values if kernel_wh == (1, 1) else cv2.blur(values, kernel_wh)


def _maps(xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Maps to `_sampled` of ``(N,)`` points: ``(2, R, C)``, the last row filled up with zeros."""
    # OpenCV takes no map of more than 32,767 columns.
    wide = min(len(xs), 4096)
    maps = np.zeros((2, -(-len(xs) // wide), wide), np.float32)
    maps.reshape(2, -1)[:, : len(xs)] = xs, ys
    return maps


def _sampled(image: np.ndarray, maps: np.ndarray, count: int, *, outside: float = 0.0) -> np.ndarray:
    """Interpolate an image at the first ``count`` points of maps."""
    return cv2.remap(image, maps[0], maps[1], cv2.INTER_LINEAR, borderValue=outside).reshape(-1)[:count]


def _light_frame(light: Light) -> np.ndarray:
    """Rows: two axes across the light, and the direction to it."""
    toward = np.asarray(light.direction, np.float32)
    up = np.array([0, 0, 1] if abs(toward[1]) > 0.9 else [0, 1, 0], np.float32)
    across = _unit(cross(up, toward))
    return np.stack([across, cross(toward, across), toward])


def _cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places on the shadow map, ``(2, N)`` in cells, and heights toward the light, of points in the light's frame."""
    places = points[:2] * np.float32(SHADOW_CELLS / 2 / SHADOW_REACH)
    places += np.float32(SHADOW_CELLS / 2)
    return places, points[2]


def _shadow_map(surfaces: Sequence[Surface], light: Light) -> tuple[np.ndarray, np.ndarray]:
    """The height of the highest point toward the light in each cell, and the frame in which cells are counted."""
    frame, found = _light_frame(light), []
    near = [surface for surface in surfaces if surface.points[1, 0, 0] > -1.5 * SHADOW_REACH]
    for turn, own in _runs(near, lambda surface: surface.turn):
        points = np.concatenate([_some_points(surface) for surface in own], axis=1)
        found.append(rotated(points, rotated(turn, frame)))
    places, height = _cells(np.concatenate(found, axis=1))
    columns, rows = np.minimum(np.maximum(places, 0), SHADOW_CELLS - 1).astype(np.int32)
    heights = np.full((SHADOW_CELLS, SHADOW_CELLS), LOWEST, np.float32)
    np.maximum.at(heights.reshape(-1), rows * SHADOW_CELLS + columns, height)
    # Cells at the rim collect everything beyond them; nothing there may cast a shadow.
    heights[0], heights[-1], heights[:, 0], heights[:, -1] = LOWEST, LOWEST, LOWEST, LOWEST
    return cv2.blur(heights, (3, 3)), frame


def _some_points(surface: Surface) -> np.ndarray:
    """About `SHADOW_POINTS` of a surface's points, ``(3, N)``."""
    step = max(1, round(math.sqrt(surface.points[0].size / SHADOW_POINTS)))
    points = surface.points[:, ::step, ::step]
    return points.reshape(3, -1) if surface.drawn is None else points[:, surface.drawn[::step, ::step]]


def _lit(
    cloud: _Cloud, chosen: np.ndarray, view: View, light: Light, shadow_map: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The lit colors ``(3, N)`` of chosen points, by their numbers ``(N,)`` in ascending order."""
    grids = cloud.grids
    ends = np.searchsorted(chosen, [grid.span.stop for grid in grids])
    facts = [(grid.span.start, *grid.shape, grid.surface.two_sided, grid.surface.soft) for grid in grids]
    of_grid = np.repeat(np.arange(len(grids)), np.diff(ends, prepend=0))
    first, height, width, two_sided, soft = np.array(facts, np.int32).T.copy().take(of_grid, axis=1)
    rows, columns = np.divmod(chosen - first, width)
    points = cloud.points.take(chosen, axis=1)
    # Normals by central differences.
    down = cloud.points.take(chosen + width * (rows < height - 1), axis=1)
    down -= cloud.points.take(chosen - width * (rows > 0), axis=1)
    across = cloud.points.take(chosen + (columns < width - 1), axis=1)
    across -= cloud.points.take(chosen - (columns > 0), axis=1)
    normals = _unit(cross(down, across))
    away = normals[2] * (view.distance - points[2]) < normals[0] * points[0] + normals[1] * points[1]
    normals *= np.where(away & (two_sided > 0), np.float32(-1), np.float32(1))
    values = np.empty((5, len(chosen)), np.float32)
    bounds = dict(zip(map(id, grids), zip([0, *ends.tolist()], ends.tolist(), strict=False), strict=True))
    for surface, own in _runs(grids, lambda grid: grid.surface):
        mine = slice(bounds[id(own[0])][0], bounds[id(own[-1])][1])
        if mine.start == mine.stop:
            continue
        ys, xs = (
            np.concatenate([grid.places_yx[axis].take(index[slice(*bounds[id(grid)])]) for grid in own])
            for axis, index in enumerate((rows, columns))
        )
        maps = _maps(xs, ys)
        for found, given in zip(values, (*surface.albedo, surface.gloss, surface.occlusion), strict=True):
            if isinstance(given, np.ndarray) and given.size > 1:
                found[mine] = _sampled(_smoothed(given, own[0].kernel_wh), maps, len(xs))
            else:
                found[mine] = given
    gloss, occlusion = values[3:]
    return _shade(normals, values[:3], (gloss, occlusion, _lit_share(points, shadow_map)), light, soft)


def _lit_share(points: np.ndarray, shadow_map: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    heights, frame = shadow_map
    places, height = _cells(rotated(points, frame))
    places -= np.float32(0.5)
    above = _sampled(heights, _maps(*places), len(height), outside=LOWEST) - height
    # A surface lies a little below its own entry in the coarse map: only what is clearly above casts a shadow.
    return 1 - np.clip((above - 0.07) / 0.16, 0, 1)


def _shade(
    normals: np.ndarray,
    albedo: np.ndarray,
    maps: tuple[np.ndarray, np.ndarray, np.ndarray],
    light: Light,
    soft: np.ndarray,
) -> np.ndarray:
    """Diffuse, ambient and Blinn-Phong specular light on ``(3, N)`` normals and albedo; all else is ``(N,)``."""
    gloss, occlusion, lit = maps
    toward = light.direction
    cosine = normals[0] * toward[0] + normals[1] * toward[1] + normals[2] * toward[2]
    up = (normals[1] * 0.5 + 0.5) * occlusion
    down = occlusion - up
    half = np.add(toward, (0, 0, 1))
    half = (half / np.linalg.norm(half)).tolist()
    shine = np.maximum(normals[0] * half[0] + normals[1] * half[1] + normals[2] * half[2], 0)
    shine *= shine
    shine *= shine
    shine *= shine
    shine = (shine * shine * 0.7 + shine * 0.12) * gloss * (lit * 0.8 + 0.2)
    colors = np.empty_like(albedo)
    for channel, spread in enumerate((0.28, 0.1, 0.06)):
        # Blood scatters red light around the terminator (wrapped diffuse light, in the red channel most).
        direct = np.maximum(cosine + soft * spread * (1 - cosine), 0) * lit
        received = direct * light.sun_rgb[channel] + up * light.sky_rgb[channel] + down * light.ground_rgb[channel]
        colors[channel] = albedo[channel] * received + shine * light.sun_rgb[channel]
    return colors


def _splat(cloud: _Cloud, view: View) -> np.ndarray:
    """Draw points as 2 x 2 blocks, the nearest before the others.

    Returns:
        ``(H, W)`` int32 of the fine canvas: the number of the point that is seen; one more than the last where there
        is none.
    """
    height, width = _fine_size(view)
    x, y = cloud.pixels
    chosen = np.flatnonzero(cloud.drawn & (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1))
    corner = y.take(chosen).astype(np.int32) * width + x.take(chosen).astype(np.int32)
    # Depths as 16-bit numbers let NumPy's stable sort be a radix sort.
    depth = np.clip((cloud.points[2].take(chosen) + DEPTH_RANGE / 2) * (65535 / DEPTH_RANGE), 0, 65535).astype(
        np.uint16
    )
    order = np.argsort(depth, kind="stable")
    # NumPy keeps the last of several values assigned to one place; float32 holds whole numbers up to 16 million.
    corners = np.zeros((height, width), np.float32)
    corners.reshape(-1)[corner.take(order)] = np.arange(1, len(order) + 1)
    nearest = cv2.dilate(corners, np.ones((2, 2), np.uint8), anchor=(1, 1))
    # Pixels that are empty but surrounded belong to a neighbor.
    square = np.ones((5, 5), np.uint8)
    filled = (nearest > 0).view(np.uint8)
    holes = cv2.morphologyEx(filled, cv2.MORPH_CLOSE, square) - filled
    if holes.any():
        cv2.copyTo(cv2.dilate(nearest, square), holes, nearest)
    numbers = np.empty(len(order) + 1, np.int32)
    numbers[0], numbers[1:] = len(cloud.drawn), chosen.take(order)
    return numbers.take(nearest.astype(np.int32))


def _averaged(canvas: np.ndarray, view: View) -> Raster:
    """Average the fine ``(H, W, 4)`` canvas to the canvas's pixels."""
    height, width = view.size_hw
    if float(view.supersample).is_integer():
        canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    else:
        # An odd rest at the far edges would stretch the picture: sample at the exact factor instead.
        fine = view.supersample
        exact = np.array([[fine, 0, fine / 2 - 1], [0, fine, fine / 2 - 1]], np.float32)
        canvas = cv2.warpAffine(
            cv2.blur(canvas, (2, 2), anchor=(0, 0)),
            exact,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return Raster(cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB), cv2.extractChannel(canvas, 3))

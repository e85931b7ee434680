"""Find the four corners of a plate inside and around its box."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from anony_pipeline.errors import DatasetError
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Region

WORK_HEIGHT_PX = 48
"""The box is searched at this height, so that all lengths below are the same for small and large plates."""
MAX_ZOOM = 4.0
MARGIN = 0.35
"""Surroundings that are looked at on each side, over the box's height."""
REACH = 0.16
"""How far a side is looked for on either side of where the box says, over the box's height: less than from a plate's
edge to its characters' far ends or to the inner edge of a European band."""
MAX_DROP = 0.55
"""How far one end of the plate may lie lower than the other, over the box's height."""
END_REACH = 1.0
"""How far outside of where a plate's end was found first it may be after all, over the plate's height."""
OUTSIDE, INSIDE = (0.04, 0.15), (0.03, 0.14)
"""The stretches on both sides of a long edge that are compared, over the plate's height."""
END_EDGE = 0.8
"""What an edge across the whole height counts for, against a stretch of long edges as long as the plate is high."""
END_MOVED = 0.5
"""And what an end's way from where it was found first counts against it, over the plate's height."""
END_SEEN = 0.7
"""On this share of its height at least an end that was moved is seen: a car's own edges go on without one."""
LONG_EDGE = 4
"""A plate's usual step to its surroundings must be so many weak edges high before its ends are told by it."""
SEEN_PX = 0.01
"""A box that reaches less into the image is outside of it."""
MIN_SCORE = 0.35
"""Below this score the box is used instead."""


@dataclass(frozen=True, slots=True)
class Quad:
    """The outline of a plate.

    Attributes:
        corners: ``(4, 2)`` float32 ``(x, y)`` in pixels of the image, clockwise from the plate's own top left.
        score: Share of the outline on which an edge was seen, in ``[0, 1]``; 1 for given quads; 0 where the plate's box
            stands in for the quad, because no outline was found.
    """

    corners: np.ndarray
    score: float


def find_quad(image: np.ndarray, region: Region) -> Quad:
    """Find a plate's outline: four straight edges near the sides of its box.

    The sides of a box touch the plate's corners, so a plate whose right end lies ``d`` lower than its left end has its
    top edge from the box's top left corner to ``d`` below the top right one. For each of several ``d`` the four edges
    are looked for; the best set is kept.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        region: A plate. Where it has a quad, that one is checked and returned with score 1.

    Returns:
        The outline; the box with score 0 where no outline is to be seen.

    Raises:
        DatasetError: If the region's box lies outside the image or is turned inside out, or its quad is not convex.
    """
    check_region(image, region)
    if region.quad is not None:
        return Quad(np.array(region.quad, dtype=np.float32), 1.0)
    box = np.array(region.box_xyxy, dtype=np.float64)
    fallback = Quad(_box_corners(box, 0.0).astype(np.float32), 0.0)
    width, height = box[2] - box[0], box[3] - box[1]
    if height < 5 or width < 10:
        return fallback
    search = _Search.of(image, box)
    outlines = [_refine(search, drop) for drop in _promising_drops(search)]
    best = max((outline for outline in outlines if outline is not None), key=lambda o: o.strength, default=None)
    if best is None or best.score < MIN_SCORE:
        return fallback
    found = _with_ends(search, best.corners) / search.zoom + search.origin
    return Quad(found.astype(np.float32), min(1.0, best.score))


def check_region(image: np.ndarray, region: Region) -> None:
    """Refuse what is no place in the image (see `find_quad`)."""
    height, width = image.shape[:2]
    x_min, y_min, x_max, y_max = region.box_xyxy
    where = "a plate" if region.annotation_id is None else f"annotation {region.annotation_id}"
    if not np.isfinite(region.box_xyxy).all() or x_min >= x_max or y_min >= y_max:
        raise DatasetError(
            "the plate's box is turned inside out, or not of finite numbers",
            where=where,
            got=region.box_xyxy,
            allowed="x_min < x_max, y_min < y_max",
            do="mend the annotation",
        )
    if min(x_max, y_max, width - x_min, height - y_min) < SEEN_PX:
        raise DatasetError(
            "the plate's box lies outside the image",
            where=where,
            got=region.box_xyxy,
            allowed=f"some of it within {width} x {height} px",
            do="mend the annotation",
        )
    if region.quad is not None and not is_convex(np.array(region.quad, dtype=np.float64)):
        raise DatasetError(
            "the plate's quad crosses itself, is dented or runs counterclockwise",
            where=where,
            got=region.quad,
            allowed="four corners, clockwise from the plate's top left",
            do="mend the annotation, or leave the quad out",
        )


def is_convex(corners: np.ndarray) -> bool:
    """Whether ``(4, 2)`` corners run clockwise (y down) about a convex area.

    >>> is_convex(np.array([(0, 0), (4, 0), (4, 2), (0, 2)]))
    True
    >>> is_convex(np.array([(0, 0), (4, 2), (4, 0), (0, 2)]))
    False
    """
    if corners.shape != (4, 2) or not np.isfinite(corners).all():
        return False
    sides = np.roll(corners, -1, axis=0) - corners
    following = np.roll(sides, -1, axis=0)
    return bool((sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] > 1e-6).all())


@dataclass(frozen=True, slots=True)
class _Search:
    """The zoomed surroundings of a box: colors and luma, the box in them, and the way back to the image."""

    colors: np.ndarray
    luma: np.ndarray
    box: np.ndarray
    zoom: float
    origin: np.ndarray
    weak_edge: float

    @property
    def height(self) -> float:
        return float(self.box[3] - self.box[1])

    @classmethod
    def of(cls, image: np.ndarray, box: np.ndarray) -> "_Search":
        margin = max(4.0, MARGIN * (box[3] - box[1]))
        beyond = margin + END_REACH * (box[3] - box[1])
        outer = box + np.array((-beyond, -margin, beyond, margin))
        x_min, y_min, x_max, y_max = boxes.round_outward(outer, image.shape[1], image.shape[0])[0]
        colors: np.ndarray = image[y_min:y_max, x_min:x_max].astype(np.float32)
        zoom = min(MAX_ZOOM, WORK_HEIGHT_PX / (box[3] - box[1]))
        size = (max(2, round(colors.shape[1] * zoom)), max(2, round(colors.shape[0] * zoom)))
        colors = cv2.resize(colors, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)
        colors = cv2.GaussianBlur(colors, (0, 0), 1.0)
        luma: np.ndarray = cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY)
        origin = np.array((x_min, y_min), dtype=np.float64)
        # A step that is spread over the pixel grid's zoom has a smaller slope; what counts as an edge must follow.
        first, last = np.rint((box[[0, 2]] + (-margin, margin) - x_min) * zoom).astype(int)
        contrast = float(np.subtract(*np.percentile(luma[:, max(first, 0) : last], (95, 5))))
        return cls(colors, luma, (box - np.tile(origin, 2)) * zoom, zoom, origin, max(0.6, 0.025 * contrast))


@dataclass(frozen=True, slots=True)
class _Outline:
    """Four sides that were found: their corners, how steep the edge is on them, and on how much of them it is seen."""

    corners: np.ndarray
    strength: float
    score: float


@dataclass(frozen=True, slots=True)
class _Side:
    """A straight edge: its ends, how steep it is on average, and on what share of it an edge is seen."""

    start: np.ndarray
    end: np.ndarray
    strength: float
    share: float


def _box_corners(box: np.ndarray, drop: float) -> np.ndarray:
    """The quad that fills a box and whose right end lies ``drop`` lower than its left end."""
    x_min, y_min, x_max, y_max = box
    down, up = max(drop, 0.0), max(-drop, 0.0)
    return np.array([(x_min, y_min + up), (x_max, y_min + down), (x_max, y_max - up), (x_min, y_max - down)])


def _promising_drops(search: _Search, keep: int = 4) -> list[float]:
    drops = np.linspace(-MAX_DROP, MAX_DROP, 23)
    support = []
    for drop in drops:
        corners = _box_corners(search.box, drop * search.height)
        sides = [_profile(search, corners[i], corners[i + 1], REACH / 2) for i in (0, 2)]
        # The best parallel line of each long side, of either polarity.
        support.append(sum(float(np.abs(np.median(side, axis=0)).max()) for side in sides))
    return [0.0, *drops[np.argsort(support)[::-1][:keep]]]


def _profile(search: _Search, start: np.ndarray, end: np.ndarray, reach: float) -> np.ndarray:
    """Slopes of the luma across a side, ``(samples, offsets)``, positive where it gets darker going outward.

    Offsets run from inside to outside in steps of half a pixel. Samples beyond the picture have no slope.
    """
    along = end - start
    length = float(np.hypot(*along))
    outward = np.array((along[1], -along[0])) / max(length, 1e-6)
    reach_px = reach * search.height
    offsets = np.arange(-reach_px - 1, reach_px + 1.01, 0.5)
    shares = np.linspace(0.03, 0.97, int(np.clip(length / 2, 12, 48)))
    points = start + shares[:, None, None] * along + offsets[None, :, None] * outward
    maps = (points - 0.5).astype(np.float32)
    values = cv2.remap(search.luma, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # Per pixel, over two half-pixel steps on either side.
    return (values[:, :-4] - values[:, 4:]) / 2


def _refine(search: _Search, drop: float) -> _Outline | None:
    """Move each side of a quad to the strongest straight edge within reach; None if no sound quad comes of it."""
    corners = _box_corners(search.box, drop * search.height)
    sides = [_best_side(search, corners[i], corners[(i + 1) % 4]) for i in range(4)]
    found = [_crossing(sides[i - 1], sides[i]) for i in range(4)]
    if any(point is None for point in found):
        return None
    refined = np.array(found)
    if not is_convex(refined) or np.abs(refined - corners).max() > 2.5 * REACH * search.height:
        return None
    # A box may be loose, but an outline far from it is some other edge.
    near = _box_iou(refined, search.box) ** 2
    shares = sorted(side.share for side in sides)
    # One side may be lost against a car of the plate's color; two may not.
    score = near * (0.7 * float(np.mean(shares)) + 0.3 * shares[1])
    lengths = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    # The rims of a row of characters make slanting outlines, too: level ones are likelier.
    strength = (
        near * (1 - 0.7 * abs(drop)) * float(np.average([side.strength for side in sides], weights=np.sqrt(lengths)))
    )
    return _Outline(refined, strength, score)


def _with_ends(search: _Search, corners: np.ndarray) -> np.ndarray:
    """Move a quad's short sides outward to where its long edges end, ``(4, 2)``.

    Where a box is a fifth too small, the ends lie farther from its sides than those are looked for, and strokes of the
    characters are nearer. But a plate's long edges go on up to its ends, and no farther. Inward nothing is moved: on a
    car of the band's color a European plate seems to begin after its band.
    """
    tall = float(np.mean(np.hypot(*(corners[[3, 2]] - corners[[0, 1]]).T)))
    wide = float(np.mean(np.hypot(*(corners[[1, 2]] - corners[[0, 3]]).T)))
    # In steps of about half a pixel, of which one lies on each end as it was found.
    steps = max(2, round(2 * wide))
    beyond = round(END_REACH * tall / wide * steps)
    along = np.arange(-beyond, steps + beyond + 1) / steps
    down = np.linspace(-OUTSIDE[1], 1 + OUTSIDE[1], 48)
    points = [corners[a] + along[:, None] * (corners[b] - corners[a]) for a, b in ((0, 1), (3, 2))]
    maps = (points[0] + down[:, None, None] * (points[1] - points[0]) - 0.5).astype(np.float32)
    values = cv2.remap(search.colors, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    own = (along >= 0) & (along <= 1)
    seen = _long_edges(values, down, own, search.weak_edge)
    if seen is None:
        return corners
    slope = np.gradient(values[(down > 0.1) & (down < 0.9)].mean(axis=2), axis=1) * 2
    across = np.maximum((slope > search.weak_edge).mean(axis=0), (slope < -search.weak_edge).mean(axis=0))
    height, width = search.luma.shape
    known = ((maps >= 0) & (maps <= (width - 1, height - 1))).all(axis=(0, 2)) | own
    ending = known & ((across >= END_SEEN) | own)
    gain = 2 * np.cumsum((seen - 0.5) * wide / tall / steps)
    left, right = (
        float(along[np.argmax(np.where(ending & (away >= 0), worth - END_MOVED * away * wide / tall, -np.inf))])
        for away, worth in ((-along, END_EDGE * across - gain), (along - 1, END_EDGE * across + gain))
    )
    ends = np.array((left, right, right, left))[:, None]
    starts, stops = corners[[0, 0, 3, 3]], corners[[1, 1, 2, 2]]
    moved: np.ndarray = starts + ends * (stops - starts)
    return moved


def _long_edges(values: np.ndarray, down: np.ndarray, own: np.ndarray, weak_edge: float) -> np.ndarray | None:
    """How well the long edges are seen along a plate, ``(columns,)`` in [0, 1]; None if they are hardly seen at all.

    The channel tells in which they are seen best: a blue band on a dark holder has the others in common with it.
    """
    seen = []
    for depth in (down, 1 - down):
        inside = values[(depth >= INSIDE[0]) & (depth <= INSIDE[1])].mean(axis=0)
        outside = values[(depth <= -OUTSIDE[0]) & (depth >= -OUTSIDE[1])].mean(axis=0)
        contrast = inside - outside
        usual = np.median(contrast[own], axis=0)
        if np.abs(usual).max() < LONG_EDGE * weak_edge:
            return None
        strong = np.abs(usual) >= 0.5 * np.abs(usual).max()
        seen.append(np.clip(contrast[:, strong] / usual[strong], 0, 1).max(axis=1))
    whole: np.ndarray = np.mean(seen, axis=0)
    return whole


def _best_side(search: _Search, start: np.ndarray, end: np.ndarray) -> _Side:
    """The straight edge near a side of a quad."""
    slopes = _profile(search, start, end, REACH)
    samples, places = slopes.shape
    first, last, index = _lines(samples, places)
    # A plate is mostly brighter than what it is screwed to, and characters are darker than their plate: the edge toward
    # the dark is the better guess. Bounding each sample keeps a few glaring ones from outvoting the rest.
    bound = 6 * search.weak_edge
    falling = np.clip(slopes, -search.weak_edge, bound).ravel()[index].mean(axis=1)
    rising = 0.6 * np.clip(-slopes, -search.weak_edge, bound).ravel()[index].mean(axis=1)
    middle = (places - 1) / 2
    away = (np.abs(first - middle) + np.abs(last - middle)) / (2 * middle)
    quality = np.maximum(falling, rising) * (1 - 0.5 * away)
    best = int(np.argmax(quality))
    sign = 1 if falling[best] >= rising[best] else -1
    share = float((sign * slopes.ravel()[index[best]] > search.weak_edge).mean())
    along = end - start
    outward = np.array((along[1], -along[0])) / max(float(np.hypot(*along)), 1e-6)
    ends = [(float(place) - middle) * 0.5 for place in (first[best], last[best])]
    return _Side(start + ends[0] * outward, end + ends[1] * outward, float(quality[best]), share)


@functools.lru_cache(maxsize=64)
def _lines(samples: int, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All straight lines through a profile: their first and last place, and what they cross, as places in it flattened.

    Returns:
        ``(places**2,)`` twice, and ``(places**2, samples)``.
    """
    first, last = (grid.ravel() for grid in np.meshgrid(np.arange(places), np.arange(places), indexing="ij"))
    shares = np.linspace(0.03, 0.97, samples)
    index = np.rint(first[:, None] * (1 - shares) + last[:, None] * shares).astype(np.intp)
    return first, last, index + np.arange(samples) * places


def _crossing(first: _Side, second: _Side) -> tuple[float, float] | None:
    """Where two lines meet; None if they hardly do."""
    u, v = first.end - first.start, second.end - second.start
    across = u[0] * v[1] - u[1] * v[0]
    if abs(across) < 0.2 * float(np.hypot(*u) * np.hypot(*v)):
        return None
    gap = second.start - first.start
    point = first.start + (gap[0] * v[1] - gap[1] * v[0]) / across * u
    return float(point[0]), float(point[1])


def _box_iou(corners: np.ndarray, box: np.ndarray) -> float:
    own = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return float(boxes.iou([own], [box])[0, 0])

"""What people put on: glasses, hats and masks, fitted to a head; and clothes with the body in them."""

import bisect
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from anony_pipeline.datasets.streetscape.anatomy import COLUMNS, ROWS, Marks, template
from anony_pipeline.datasets.streetscape.skin import noise, smoothstep
from anony_pipeline.datasets.streetscape.surfaces import Surface, cross, lengths_of

T = TypeVar("T")
GLASSES = ("none", "thin", "thick", "sun")
HATS = ("none", "cap", "beanie", "brimmed", "hood")
MASKS = ("none", "medical", "cloth")
# How far down hats reach, in units above the eyes.
HAT_RIMS = {"cap": 0.42, "beanie": 0.34, "brimmed": 0.45}


@dataclass(frozen=True)
class Wear:
    """What a person wears in one photograph; none of it says who it is.

    Attributes:
        glasses: One of `GLASSES`.
        hat: One of `HATS`.
        mask: One of `MASKS`.
        hat_rgb: Linear color of hat or hood.
        frame_rgb: Linear color of the glasses' frame.
        mask_rgb: Linear color of the mask.
        clothes_rgb: Linear color of the upper body's clothes.
        trousers_rgb: Linear color below.
        pattern: ``plain``, ``stripes`` or ``checks``.
    """

    glasses: str = "none"
    hat: str = "none"
    mask: str = "none"
    hat_rgb: tuple[float, float, float] = (0.05, 0.06, 0.1)
    frame_rgb: tuple[float, float, float] = (0.02, 0.02, 0.02)
    mask_rgb: tuple[float, float, float] = (0.45, 0.62, 0.72)
    clothes_rgb: tuple[float, float, float] = (0.1, 0.12, 0.2)
    trousers_rgb: tuple[float, float, float] = (0.05, 0.06, 0.09)
    pattern: str = "plain"

    @property
    def covers(self) -> bool:
        """Whether anything is worn on the head."""
        return (self.glasses, self.hat, self.mask) != ("none", "none", "none")


def sample_wear(rng: np.random.Generator, *, covered: float = 1.0) -> Wear:
    """Draw what somebody wears.

    Args:
        rng: The source of chance.
        covered: How often glasses, hats and masks are worn, over the usual.
    """

    def choose(options: tuple[str, ...], shares: tuple[float, ...]) -> str:
        worn = [share * covered for share in shares]
        return _choose(rng, options, (1 - sum(worn), *worn))

    return Wear(
        glasses=choose(GLASSES, (0.10, 0.08, 0.05)),
        hat=choose(HATS, (0.07, 0.05, 0.03, 0.03)),
        mask=choose(MASKS, (0.03, 0.015)),
        hat_rgb=_cloth_color(rng),
        frame_rgb=tuple(((0.02, 0.06, 0.25)[int(rng.integers(3))] * rng.uniform(0.5, 1.5, 3)).tolist()),
        mask_rgb=((0.45, 0.62, 0.72), (0.75, 0.75, 0.73), (0.03, 0.03, 0.035))[int(rng.integers(3))],
        clothes_rgb=_cloth_color(rng),
        trousers_rgb=_cloth_color(rng, 0.4),
        pattern=("plain", "plain", "plain", "stripes", "checks")[int(rng.integers(5))],
    )


def _choose(rng: np.random.Generator, options: Sequence[T], shares: Sequence[float]) -> T:
    """Draw as `Generator.choice` does, without its checks, which take many times as long."""
    return options[min(bisect.bisect_right(list(itertools.accumulate(shares)), rng.random()), len(options) - 1)]


def _cloth_color(rng: np.random.Generator, brightness: float = 1.0) -> tuple[float, float, float]:
    value = _choose(rng, (0.02, 0.06, 0.18, 0.45, 0.7), (0.28, 0.24, 0.22, 0.16, 0.10)) * brightness
    tint = rng.uniform(0.25, 1.0, 3) if rng.random() < 0.5 else np.full(3, 0.95) + rng.uniform(-0.05, 0.05, 3)
    return tuple((value * tint / tint.max()).tolist())


def worn_surfaces(wear: Wear, points: np.ndarray, marks: Marks, rng: np.random.Generator) -> list[Surface]:
    """The worn things' surfaces, in the head's space.

    Args:
        wear: What is worn.
        points: ``(3, ROWS, COLUMNS)``: the head without hair, as its expression shapes it.
        marks: Where the features are.
        rng: For the cloth's unevenness.
    """
    surfaces = []
    if wear.glasses != "none":
        surfaces += _glasses(wear, points, marks)
    if wear.hat != "none":
        surfaces += _hat(wear, points, rng)
    if wear.mask != "none":
        surfaces.append(_mask(wear, points, marks, rng))
    return surfaces


def _tubes(paths: Sequence[tuple[np.ndarray, float, float]], color: np.ndarray) -> Surface:
    """Thin tubes about paths ``(3, N)`` that lie mostly across the view, each with its radius and gloss, as one."""
    counts = [path.shape[1] for path, _, _ in paths]
    path = np.concatenate([path for path, _, _ in paths], axis=1).astype(np.float32)
    radius = np.repeat(np.array([one for _, one, _ in paths], np.float32), counts)
    gloss = np.repeat(np.array([one for _, _, one in paths], np.float32), counts)
    last = np.cumsum(counts) - 1
    first = last - counts + 1
    after, before = np.arange(1, len(radius) + 1), np.arange(-1, len(radius) - 1)
    after[last], before[first] = last, first
    tangent = path[:, after] - path[:, before]
    across = np.stack([tangent[1], -tangent[0], np.zeros_like(tangent[0])])
    across /= np.sqrt(across[0] ** 2 + across[1] ** 2) + np.float32(1e-6)
    normal = cross(across, tangent)
    normal /= np.sqrt((tangent * tangent).sum(axis=0)) + np.float32(1e-9)
    angle = np.linspace(0, 2 * np.pi, 8, dtype=np.float32)[:, None]
    points = path[:, None] + radius * (np.cos(angle) * across[:, None] + np.sin(angle) * normal[:, None])
    down, along = lengths_of(points)
    # Nothing is drawn from one tube's end to the next one's beginning.
    along[:, last[:-1]] = 0
    return Surface(
        points, _uniform(color), np.broadcast_to(gloss, points.shape[1:]).copy(), two_sided=True, lengths=(down, along)
    )


def _glasses(wear: Wear, points: np.ndarray, marks: Marks) -> list[Surface]:
    grid = template()
    x, y, z = (axis[grid.face_rows, grid.face_columns] for axis in points)
    near = (np.abs(y - marks.eye_y) < 0.14) & (np.abs(np.abs(x) - marks.eye_x) < 0.15)
    depth = float(z[near].max()) + 0.035
    angle = np.linspace(0, 2 * np.pi, 72)
    half_wide, half_high = marks.eye_x * 0.80, 0.135 if wear.glasses != "thick" else 0.15
    squareness = {"thin": 0.85, "thick": 0.62, "sun": 0.7}[wear.glasses]
    ring_x = half_wide * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** squareness
    ring_y = half_high * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** squareness + marks.eye_y - 0.01
    radius = {"thin": 0.010, "thick": 0.024, "sun": 0.020}[wear.glasses]
    color = np.array(wear.frame_rgb)
    surfaces, paths = [], []
    for side in (-1, 1):
        rim_x = side * marks.eye_x * 1.02 + ring_x
        # The frame bends back toward the temples.
        rim = np.stack([rim_x, ring_y, depth - 0.32 * rim_x**2])
        paths.append((rim, radius, 0.35))
        if wear.glasses == "sun":
            share = np.linspace(1, 0.02, 12)[:, None]
            lens_x = side * marks.eye_x * 1.02 + ring_x * share
            lens = np.stack(
                [lens_x, marks.eye_y - 0.01 + (ring_y - marks.eye_y + 0.01) * share, depth - 0.32 * lens_x**2]
            )
            surfaces.append(Surface(lens.astype(np.float32), _uniform(np.full(3, 0.012)), 0.9, two_sided=True))
        hinge = side * (marks.eye_x * 1.02 + half_wide)
        temple = np.stack(
            [
                np.linspace(hinge, side * 0.75, 24),
                np.full(24, marks.eye_y + 0.04),
                np.linspace(depth - 0.32 * hinge**2, -0.1, 24),
            ]
        )
        paths.append((temple, radius * 1.1, 0.3))
    bridge_x = np.linspace(-1, 1, 16) * (marks.eye_x * 1.02 - half_wide)
    bridge = np.stack([bridge_x, marks.eye_y + 0.035 - 2 * bridge_x**2, np.full(16, depth + 0.02)])
    return [_tubes([*paths, (bridge, radius, 0.35)], color), *surfaces]


def _hat(wear: Wear, points: np.ndarray, rng: np.random.Generator) -> list[Surface]:
    color = np.array(wear.hat_rgb)[:, None, None]
    y = np.cos(template().polar)
    if wear.hat == "hood":
        return [_hood(points, color, rng)]
    low = HAT_RIMS[wear.hat]
    rows = int(np.searchsorted(-y, -low))
    shell = points[:, : rows + 1].copy()
    shell[0] *= 1.13
    shell[2] = shell[2] * 1.10 + 0.005
    shell[1] = low + (shell[1] - low) * (1.16 if wear.hat == "beanie" else 1.12) + 0.015
    folds = 0.03 * noise(rng, (10, 12))[: rows + 1]
    if wear.hat == "beanie":
        folds = folds + 0.012 * np.sin(template().azimuth * 60)[None]
    shade = color * np.clip(1 + 2.0 * folds, 0.3, 2)
    surfaces = [Surface(shell, shade.astype(np.float32), 0.02, two_sided=True)]
    rim = shell[:, -1]
    if wear.hat == "cap":
        surfaces.append(_brim(rim, color, 0.46, front_only=True))
    if wear.hat == "brimmed":
        surfaces.append(_brim(rim, color * 0.9, 0.42, front_only=False))
    return surfaces


def _brim(rim: np.ndarray, color: np.ndarray, width: float, *, front_only: bool) -> Surface:
    azimuth = template().azimuth
    reach = np.linspace(0, width, 26, dtype=np.float32)[:, None]
    shape = np.maximum(np.cos(azimuth), 0) ** 0.8 if front_only else np.ones_like(azimuth)
    out = np.stack([np.sin(azimuth) * (0.25 if front_only else 1.0), np.cos(azimuth)])[:, None] * reach * shape
    drop = -0.30 * reach * shape if front_only else -0.10 * reach + 0 * shape
    points = np.stack([rim[0] + out[0], rim[1] + drop, rim[2] + out[1]]).astype(np.float32)
    drawn = np.broadcast_to(shape > 0.12, points.shape[1:])
    return Surface(points, _uniform(color), 0.03, drawn=drawn, two_sided=True)


def _hood(points: np.ndarray, color: np.ndarray, rng: np.random.Generator) -> Surface:
    shell = points.copy()
    shell[0] *= 1.20
    shell[1] = shell[1] * 1.12 + 0.02
    shell[2] = shell[2] * 1.16 - 0.08
    folds = 0.04 * noise(rng, (9, 10))
    shell += folds * points
    grid = template()
    y = np.cos(grid.polar)[:, None]
    drawn = (np.abs(grid.azimuth)[None] > 1.12 + 0.1 * y) | (y > 0.78)
    albedo = color * np.clip(1 + 3 * folds, 0.4, 1.8)
    return Surface(shell, albedo.astype(np.float32), 0.02, drawn=drawn, two_sided=True)


def _mask(wear: Wear, points: np.ndarray, marks: Marks, rng: np.random.Generator) -> Surface:
    grid = template()
    face = points[:, grid.face_rows, grid.face_columns].copy()
    x, y = face[0], face[1]
    top = marks.nose_tip_y + 0.14 - 0.28 * np.abs(x)
    drawn = (y < top) & (np.abs(x) < 0.62 + 0.1 * (y + 0.6))
    # Cloth spans the hollows: take the farthest depth of the neighborhood.
    depth = face[2]
    for shift in (4, 8, 14):
        depth = np.maximum(depth, 0.5 * (np.roll(depth, shift, 0) + np.roll(depth, -shift, 0)))
        depth = np.maximum(depth, 0.5 * (np.roll(depth, shift, 1) + np.roll(depth, -shift, 1)))
    face[2] = depth + 0.05
    pleats = (
        0.012 * np.sin(y * 38)
        if wear.mask == "medical"
        else 0.012 * noise(rng, (ROWS // 6, COLUMNS // 6))[: y.shape[0], : y.shape[1]]
    )
    face[2] += pleats
    albedo = np.array(wear.mask_rgb)[:, None, None] * np.ones_like(face) * (1 + 3 * pleats)
    return Surface(face, albedo.astype(np.float32), 0.01, drawn=drawn & (smoothstep(0, 1, drawn * 1.0) > 0))


def body_surfaces(
    wear: Wear, skin_rgb: np.ndarray, build: float, rng: np.random.Generator, *, whole: bool
) -> list[Surface]:
    """Neck, trunk and arms, and the legs if the ``whole`` body is wanted; the head's center is the origin.

    Args:
        wear: The clothes.
        skin_rgb: ``(3,)`` linear.
        build: Standard score of the body's breadth.
        rng: For folds, and for how arms and legs are held.
        whole: Down to the shoes, 14 units below; else to the chest.
    """
    skin = np.asarray(skin_rgb)
    neck = _neck(tuple(skin.tolist()))
    wide = 1.55 * (1 + 0.07 * build)
    surfaces = [neck, _trunk(wear, wide, build, rng, whole=whole)]
    if not whole:
        return surfaces
    clothes, trousers = np.array(wear.clothes_rgb), np.array(wear.trousers_rgb)
    swing, step = rng.normal(0, 0.35), rng.normal(0, 0.5)
    for side in (-1, 1):
        shoulder, hip = (side * (wide - 0.22), -2.05, -0.25), (side * 0.5, -6.6, -0.25)
        elbow = (side * (wide + 0.15), -4.1, -0.35 + 0.4 * side * swing)
        hand = (side * (wide + 0.05), -5.9, 0.1 + 0.9 * side * swing)
        knee, foot = (side * 0.55, -9.6, 0.0 - side * step), (side * 0.6, -12.9, -0.3 - 1.6 * side * step)
        surfaces.append(_limb((shoulder, elbow, hand), (0.42, 0.34, 0.25), clothes, rng=rng))
        surfaces.append(
            _limb(
                (hand, (hand[0], hand[1] - 0.35, hand[2]), (hand[0], hand[1] - 0.75, hand[2])),
                (0.2, 0.22, 0.1),
                skin,
                soft=True,
            )
        )
        surfaces.append(_limb((hip, knee, foot), (0.72, 0.50, 0.33), trousers, rng=rng))
        toe = (foot[0] + 0.1 * side, foot[1] - 0.25, foot[2] + 0.65)
        surfaces.append(
            _limb(
                ((foot[0], foot[1] + 0.1, foot[2]), (foot[0], foot[1] - 0.2, foot[2] + 0.25), toe),
                (0.32, 0.33, 0.2),
                np.full(3, 0.03),
            )
        )
    return surfaces


@functools.lru_cache(maxsize=96)
def _neck(skin_rgb: tuple[float, float, float]) -> Surface:
    color = np.array(skin_rgb) * 0.95
    neck = _limb(((0, -0.62, -0.22), (0, -1.05, -0.26), (0, -1.55, -0.30)), (0.37, 0.37, 0.48), color, soft=True)
    return replace(neck, lengths=lengths_of(neck.points))


def _limb(
    joints: tuple[tuple[float, float, float], ...], radii: tuple[float, float, float], color: np.ndarray, *,
    soft: bool = False, rng: np.random.Generator | None = None,
) -> Surface:  # fmt: skip
    """A tapered tube bent through three joints, from the first downward."""
    rows, columns = 40, 28
    along = np.linspace(0, 1, rows)[:, None]
    first, second, third = (np.array(joint)[:, None, None] for joint in joints)
    center = (1 - along) ** 2 * first + 2 * along * (1 - along) * (2 * second - (first + third) / 2) + along**2 * third
    radius = np.interp(along, [0, 0.5, 1], radii)
    around = np.linspace(-np.pi, np.pi, columns)[None]
    folds = 0.05 * noise(rng, (9, 6), (rows, columns)) if rng is not None else 0.0
    radius = radius * (1 + folds)
    points = center + np.stack([radius * np.sin(around), 0 * radius + 0 * around, radius * np.cos(around)])
    return Surface(points.astype(np.float32), _uniform(color), 0.02, soft=soft)


def _uniform(color: np.ndarray) -> np.ndarray:
    """The albedo of a surface of one color."""
    return color.astype(np.float32).reshape(3, 1, 1)


def _trunk(wear: Wear, wide: float, build: float, rng: np.random.Generator, *, whole: bool) -> Surface:
    across, y, ahead = _trunk_form(wide, build, whole=whole)
    shape = across.shape
    folds = 0.022 * noise(rng, (12, 9), shape) + 0.012 * noise(rng, (28, 18), shape)
    points = np.stack([across * (1 + folds), y, ahead * (1 + 2 * folds) - 0.28])
    color = np.empty_like(points)
    color[:] = np.array(wear.clothes_rgb)[:, None, None]
    if wear.pattern == "stripes":
        color *= np.where(np.sin(y * 7) > 0.2, np.float32(1), np.float32(0.4))
    if wear.pattern == "checks":
        color *= np.where(np.sin(y * 6) * np.sin(points[0] * 6) > 0, np.float32(1), np.float32(0.55))
    return Surface(points, color, 0.015)


@functools.lru_cache(maxsize=96)
def _trunk_form(wide: float, build: float, *, whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A trunk without folds: across, up and ahead of its middle, ``(R, C)`` float32 each."""
    rows, columns = 90, 110
    bottom = -7.0 if whole else -3.4
    # A rounded shoulder first: rows crowd where the trunk's width changes.
    along = np.linspace(0, 1, rows)[:, None] ** 1.6
    y = -1.28 + (bottom + 1.28) * along
    knots = [-7.0, -6.2, -5.0, -3.6, -2.5, -2.05, -1.75, -1.5, -1.28]
    belly = 0.10 * build
    width = np.interp(
        y, knots, [1.12, 1.16, 1.0 + belly, wide * 0.84, wide * 0.95, wide * 0.96, wide * 0.80, wide * 0.5, 0.44]
    )
    deep = np.interp(y, knots, [0.70, 0.74, 0.66 + 2 * belly, 0.80, 0.78, 0.66, 0.58, 0.52, 0.44])
    around = np.linspace(-np.pi, np.pi, columns)[None]
    sine, cosine = np.sin(around), np.cos(around)
    parts = (
        width * np.sign(sine) * np.abs(sine) ** 0.85,
        np.broadcast_to(y, (rows, columns)),
        deep * np.sign(cosine) * np.abs(cosine) ** 0.85,
    )
    across, up, ahead = (part.astype(np.float32) for part in parts)
    return across, up, ahead

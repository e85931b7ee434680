"""What covers a head: skin with its spots, brows, beard and hair."""

import functools
from dataclasses import dataclass, replace

import cv2
import numpy as np

from anony_pipeline.datasets.streetscape.anatomy import COLUMNS, ROWS, Skull, bump, skull_of, template
from anony_pipeline.datasets.streetscape.identity import Person
from anony_pipeline.datasets.streetscape.surfaces import Surface, lengths_of
from anony_pipeline.runtime.seeding import numpy_generator

# Where hair begins: height over the angle from the front, on average.
_LINE_ANGLES = np.array([0, 0.5, 0.8, 1.05, 1.22, 1.36, 1.62, 1.95, 2.4, np.pi])
_LINE_HEIGHTS = np.array([0.60, 0.59, 0.50, 0.26, 0.02, -0.10, 0.10, -0.28, -0.50, -0.55])
_THICKNESS = {
    "bald": 0.004, "buzz": 0.02, "short": 0.075, "parted": 0.12, "quiff": 0.10, "afro": 0.40, "curly": 0.19,
    "bob": 0.13, "long": 0.11, "wavy": 0.15, "bun": 0.055, "receding": 0.06,
}  # fmt: skip
_CURTAIN_BOTTOM = {"bob": -0.72, "long": -1.75, "wavy": -1.6}


@dataclass(frozen=True, eq=False)
class Cover:
    """A person's head with skin and hair, at rest.

    Attributes:
        points: ``(3, ROWS, COLUMNS)``: the skull, raised by hair and beard.
        albedo: ``(3, ROWS, COLUMNS)`` linear, eyes and lips not yet painted.
        gloss: ``(ROWS, COLUMNS)``.
        occlusion: ``(ROWS, COLUMNS)``.
        more: Hair that hangs, buns and ears: surfaces of their own.
        lengths: `lengths_of` the points.
    """

    points: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray
    occlusion: np.ndarray
    more: tuple[Surface, ...]
    lengths: tuple[np.ndarray, np.ndarray]


def noise(
    rng: np.random.Generator, cells_hw: tuple[int, int], size_hw: tuple[int, int] = (ROWS, COLUMNS)
) -> np.ndarray:
    """Smooth noise of unit variance or a little less: a coarse random grid, enlarged."""
    coarse = rng.standard_normal(cells_hw, dtype=np.float32)
    return cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_CUBIC)


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    share = np.minimum(np.maximum((value - low) / (high - low), 0), 1)
    return share * share * (3 - 2 * share)


@functools.lru_cache(maxsize=96)
def cover_of(person: Person) -> Cover:
    """Cover a person's head."""
    skull = skull_of(person)
    rng = numpy_generator(person.seed, "skin")
    points, relief = skull.points.copy(), skull.relief
    albedo = _skin(person, skull, rng)
    hollow = np.maximum(cv2.blur(relief, (21, 21)) - relief, 0) + np.maximum(cv2.blur(relief, (9, 9)) - relief, 0)
    occlusion = 1 - np.clip(hollow * 9, 0, 0.62)
    gloss = np.full((ROWS, COLUMNS), 0.10 * (1 + 0.3 * person.score("gloss")), np.float32)
    _beard(person, skull, (points, albedo, gloss), rng)
    _brows(person, skull, (points, albedo), rng)
    hair = _hair(person, (points, albedo, gloss), rng)
    occlusion = occlusion * (1 - 0.35 * np.clip(cv2.blur(hair, (9, 9)) * (1 - hair) * 2, 0, 1))
    ears = () if person.hair_style in _CURTAIN_BOTTOM else _ears(person)
    more = tuple(replace(one, lengths=lengths_of(one.points)) for one in (*ears, *_hanging_hair(person, rng)))
    return Cover(points, albedo.astype(np.float32), gloss, occlusion.astype(np.float32), more, lengths_of(points))


def _skin(person: Person, skull: Skull, rng: np.random.Generator) -> np.ndarray:
    x, y, z = skull.points
    side, marks = np.abs(x), skull.marks
    albedo = person.skin_rgb[:, None, None] * np.ones((3, ROWS, COLUMNS), np.float32)
    tone = 1 + 0.045 * noise(rng, (9, 10)) + 0.04 * noise(rng, (34, 38)) + 0.03 * noise(rng, (ROWS // 2, COLUMNS // 2))
    albedo *= tone
    front = z > 0
    red = bump(side, y, (0.36, -0.26), (0.15, 0.12)) + bump(x, y, (0, marks.nose_tip_y), (0.09, 0.07))
    red = red * front * (0.13 + 0.07 * person.score("redness") + 0.05 * noise(rng, (14, 16)))
    albedo *= 1 + red * np.array([0.35, -0.9, -0.8])[:, None, None]
    tired = bump(side, y, (marks.eye_x - 0.02, marks.eye_y - 0.075), (0.11, 0.045)) * front
    tired += 0.8 * bump(side, y, (marks.eye_x, marks.eye_y + 0.06), (0.12, 0.04)) * front
    albedo *= 1 - tired * (0.16 + 0.2 * np.clip((person.age - 25) / 60, 0, 1)) * np.array([0.7, 1, 0.9])[:, None, None]
    nostrils = bump(side, y, (marks.nose_half_width * 0.52, marks.nose_tip_y - 0.078), (0.028, 0.016)) * front
    albedo *= 1 - 0.85 * np.minimum(nostrils, 1)
    return albedo * _spots(person, x, y, front, rng)


def _spots(person: Person, x: np.ndarray, y: np.ndarray, front: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Freckles, moles and age spots as a factor on the skin's color, ``(3, ROWS, COLUMNS)``."""
    dark = np.zeros(x.shape, np.float32)
    if person.freckles:
        field = noise(rng, (ROWS * 2 // 3, COLUMNS * 2 // 3))
        where = bump(np.abs(x), y, (0.2, -0.15), (0.3, 0.2)) * front
        dark += 0.38 * smoothstep(1.35 - 0.5 * person.freckles, 1.9, field) * where
    if person.age > 50:
        dark += 0.22 * smoothstep(1.5, 2.2, noise(rng, (26, 30))) * np.clip((person.age - 50) / 25, 0, 1)
    for place_x, place_y, radius in person.moles:
        dark += 0.75 * bump(x, y, (place_x, place_y), (radius * 0.7, radius * 0.7)) * front
    return 1 - np.clip(dark, 0, 0.8) * np.array([0.75, 0.95, 1.0], np.float32)[:, None, None]


def _brows(person: Person, skull: Skull, parts: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> None:
    points, albedo = parts
    score, marks, grid = person.score, skull.marks, template()
    face = (grid.face_rows, grid.face_columns)
    x, y = skull.points[0][face], skull.points[1][face]
    place = (np.abs(x) - 0.10) / (0.33 * (1 + 0.07 * score("brow_length")))
    arch = 0.035 + 0.022 * score("brow_arch")
    line = marks.eye_y + 0.135 + 0.014 * score("brow_height") + 0.035 * score("brow_tilt") * (place - 0.4)
    line = line + arch * np.sin(np.pi * np.clip(place, 0, 1) ** 1.25) - 0.02 * place
    half = 0.030 * (1 + 0.34 * score("brow_thickness")) * (1.05 - 0.55 * np.clip(place, 0, 1))
    mask = 1 - smoothstep(0.55, 1.3, np.abs(y - line) / np.maximum(half, 0.006))
    mask = mask * smoothstep(-0.06, 0.1, place) * (1 - smoothstep(0.86, 1.08, place))
    strands = np.clip(0.75 + 0.4 * noise(rng, (ROWS // 4, COLUMNS))[face], 0, 1)
    cover = mask * strands * np.clip(0.85 + 0.12 * score("brow_shade"), 0.4, 1)
    color = np.minimum(person.hair_rgb * 0.75, person.skin_rgb * 0.6)
    albedo[:, face[0], face[1]] += (color[:, None, None] - albedo[:, face[0], face[1]]) * cover
    points[2][face] += 0.012 * cover


def _beard(
    person: Person, skull: Skull, parts: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> None:
    if person.beard == "none":
        return
    points, albedo, gloss = parts
    x, y, z = skull.points
    mask = _beard_mask(person.beard, skull, x, y) * (z > -0.15)
    mask = np.clip(mask * (1 + 0.25 * noise(rng, (20, 24))), 0, 1)
    grain = noise(rng, (ROWS, COLUMNS) if person.beard == "stubble" else (ROWS // 3, COLUMNS))
    density = {"stubble": 0.42}.get(person.beard, 0.92)
    cover = np.clip(mask * density * (0.85 + 0.3 * grain), 0, 1)
    color = person.hair_rgb * (1.0 if person.beard != "stubble" else 0.7)
    albedo += (color[:, None, None] * np.clip(1 + 0.3 * grain, 0.3, 2) - albedo) * cover
    gloss *= 1 - 0.7 * cover
    length = {"stubble": 0.0, "moustache": 0.035, "goatee": 0.05, "full": 0.07, "long": 0.13}[person.beard]
    outward = points / np.sqrt((points * points).sum(axis=0) + 1e-6)
    grow = mask * length * (1 + 0.25 * grain)
    points += outward * grow
    if person.beard == "long":
        points[1] -= 0.45 * mask * smoothstep(-0.7, -1.0, y)


def _beard_mask(beard: str, skull: Skull, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    marks, side = skull.marks, np.abs(x)
    lip = 0.03 + marks.lip_upper
    over = bump(x, y, (0, marks.mouth_y + lip + 0.035), (marks.mouth_half_width * 0.72, 0.028)) * 1.6
    chin = smoothstep(0.0, 0.05, marks.mouth_y - 0.10 - y) * (1 - smoothstep(0.16, 0.26, side))
    ring = bump(side, y, (marks.mouth_half_width + 0.03, marks.mouth_y - 0.03), (0.035, 0.11))
    if beard == "moustache":
        return np.clip(over, 0, 1)
    if beard == "goatee":
        return np.clip(over + chin + ring, 0, 1)
    # Cheeks: below a line from the mouth's corner up to the ear.
    line = marks.mouth_y + 0.02 + np.clip(side - 0.24, 0, 0.5) * 1.15
    cheeks = smoothstep(0.0, 0.08, line - y) * smoothstep(0.2, 0.3, side + smoothstep(0.06, 0.16, marks.mouth_y - y))
    lips = bump(x, y, (0, marks.mouth_y - 0.02), (marks.mouth_half_width, 0.075))
    return np.clip(np.clip(over, 0, 1) + cheeks + chin + ring - 1.3 * lips, 0, 1)


def _hair_mask(person: Person, rng: np.random.Generator) -> np.ndarray:
    """How much hair grows at each point of the head, ``(ROWS, COLUMNS)`` in ``[0, 1]``."""
    grid = template()
    angle, y = np.abs(grid.azimuth)[None], np.cos(grid.polar)[:, None]
    heights = _LINE_HEIGHTS.copy()
    heights[:3] += 0.035 * person.score("hair_line") + 0.04
    if person.hair_style == "receding":
        heights[:4] += (0.14, 0.36, 0.36, 0.16)
    line = np.interp(angle[0], _LINE_ANGLES, heights)[None]
    line = line + 0.012 * noise(rng, (1, 64), (1, COLUMNS)) + 0.01 * noise(rng, (ROWS // 4, COLUMNS // 2))
    mask = smoothstep(-0.015, 0.035, y - line)
    if person.hair_style == "bald":
        mask = mask * (1 - smoothstep(0.28, 0.46, y)) * (angle > 1.1) * (0.55 if person.part_side > 0 else 0.1)
    return np.broadcast_to(mask, (ROWS, COLUMNS)).astype(np.float32)


def _hair(person: Person, parts: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    points, albedo, gloss = parts
    style, grid = person.hair_style, template()
    mask = _hair_mask(person, rng)
    curls = style in ("afro", "curly")
    cells = (ROWS // 3, COLUMNS // 3) if curls else (7, COLUMNS)
    strands = noise(rng, cells)
    if style in ("short", "quiff", "buzz"):
        strands = 0.6 * strands + 0.7 * noise(rng, (ROWS // 2, COLUMNS // 2))
    thick = _THICKNESS[style] * (1 + 0.22 * person.score("hair_volume"))
    thickness = (
        thick * np.maximum(cv2.blur(mask, (13, 13)), 0) ** 1.5 * mask * (1 + (0.10 if curls else 0.07) * strands)
    )
    y, azimuth = np.cos(grid.polar)[:, None], grid.azimuth[None]
    if style == "quiff":
        # Nothing at the crown itself, where all directions meet.
        crest = smoothstep(0.4, 0.75, y) * smoothstep(1.0, 0.88, y)
        thickness += mask * 0.20 * np.exp(-(azimuth**2) / 0.5) * crest
    if style == "parted":
        place = azimuth - 0.45 * person.part_side
        thickness *= 1 - 0.75 * np.exp(-(place**2) / 0.004) * (y > 0.3)
        thickness *= 1 + 0.4 * np.tanh(-place * person.part_side * 3) * smoothstep(0.3, 0.7, y + 0 * azimuth)
    if style in _CURTAIN_BOTTOM:
        # Lower down, the hanging hair takes over.
        thickness *= 0.25 + 0.75 * smoothstep(0.1, 0.75, y)
    if style in ("short", "quiff", "parted", "receding"):
        thickness *= 0.45 + 0.55 * smoothstep(-0.2, 0.45, y + 0 * azimuth)
    outward = points / np.sqrt((points * points).sum(axis=0) + 1e-6)
    points += outward * thickness.astype(np.float32)
    color = person.hair_rgb[:, None, None] * np.clip(1 + 0.38 * strands + 0.12 * noise(rng, (12, 14)), 0.25, 2.2)
    cover = mask * (0.75 if style == "buzz" else 1.0)
    albedo += (color - albedo) * cover
    gloss += (0.06 - gloss) * cover
    return mask


def _ears(person: Person) -> tuple[Surface, ...]:
    """Two shells with a hollow, set on the sides of the head."""
    score = person.score
    around, across = (
        np.linspace(0, 2 * np.pi, 44, dtype=np.float32)[None],
        np.linspace(1, 0, 14, dtype=np.float32)[:, None],
    )
    size = 0.205 * (1 + 0.13 * score("ear_size"))
    # Egg-shaped outline; a rim, a hollow inside it, and the lobe below.
    length = across * size * (1 + 0.12 * np.sin(around))
    forward, up = 0.60 * length * np.cos(around), length * np.sin(around) - 0.12
    rise = (
        0.05 * np.exp(-(((across - 0.82) / 0.16) ** 2)) - 0.05 * np.exp(-(((across - 0.35) / 0.22) ** 2)) + 0.0 * around
    )
    tilt = np.radians(24 + 8 * score("ear_angle"))
    skin = person.skin_rgb * (1.05, 0.88, 0.86)
    shade = 1 - 0.45 * np.exp(-(((across - 0.4) / 0.25) ** 2)) + 0 * around
    width = 0.675 + 0.016 * score("skull_width") + 0.02 * score("cheekbone")
    surfaces = []
    for side in (-1, 1):
        out = width + np.sin(tilt) * (0.10 - forward) + np.cos(tilt) * rise
        back = np.cos(tilt) * forward - 0.12 + np.sin(tilt) * rise
        points = np.stack([side * out, up + 0 * out, back]).astype(np.float32)
        # Mirroring turns the grid inside out; the column order turns it back.
        points = points if side > 0 else points[:, :, ::-1]
        ears = skin[:, None, None] * (shade if side > 0 else shade[:, ::-1])
        surfaces.append(Surface(points, ears.astype(np.float32), 0.08, soft=True, two_sided=True))
    return tuple(surfaces)


def _hanging_hair(person: Person, rng: np.random.Generator) -> tuple[Surface, ...]:
    style = person.hair_style
    if style == "bun":
        return (_bun(person, rng),)
    if style not in _CURTAIN_BOTTOM:
        return ()
    rows, columns = 96, 128
    bottom = _CURTAIN_BOTTOM[style] + 0.14 * person.score("hair_length")
    y = np.linspace(0.86, bottom, rows, dtype=np.float32)[:, None]
    opening = 1.02 + 0.10 * person.score("hair_line") + 0.25 * smoothstep(0.35, 0.86, y)
    azimuth = opening + (2 * np.pi - 2 * opening) * np.linspace(0, 1, columns, dtype=np.float32)[None]
    fall = np.clip((0.1 - y) / 1.7, 0, 1)
    wave = 0.06 * np.sin(y * 9 + 3 * azimuth) * smoothstep(0.3, -0.6, y) if style == "wavy" else 0.0 * y
    thick = 0.09 * (1 + 0.25 * person.score("hair_volume"))
    around = np.sqrt(np.clip(1 - np.clip(y, 0, 1) ** 2 * 0.9, 0.2, 1))
    strands = noise(rng, (6, 100), (rows, columns))
    width = (0.735 + 0.02 * person.score("skull_width") + thick - 0.10 * fall) * around + wave + 0.012 * strands
    back = (0.98 + thick - 0.35 * fall) * around + wave + 0.012 * strands
    cosine, sine = np.cos(azimuth), np.sin(azimuth)
    depth = np.where(cosine > 0, 0.72 * around, back) * cosine
    points = np.stack([width * sine, y + 0 * width, depth]).astype(np.float32)
    color = person.hair_rgb[:, None, None] * np.clip(
        1 + 0.4 * strands + 0.1 * noise(rng, (8, 9), (rows, columns)), 0.2, 2.2
    )
    drawn = np.broadcast_to(y > bottom + 0.10 * np.abs(noise(rng, (1, 40), (1, columns))), (rows, columns))
    return (Surface(points, color.astype(np.float32), 0.07, drawn=drawn, two_sided=True),)


def _bun(person: Person, rng: np.random.Generator) -> Surface:
    polar = np.linspace(0, np.pi, 40, dtype=np.float32)[:, None]
    azimuth = np.linspace(-np.pi, np.pi, 60, dtype=np.float32)[None]
    strands = noise(rng, (4, 60), (40, 60))
    radius = 0.27 * (1 + 0.12 * person.score("hair_volume")) * (1 + 0.04 * strands)
    lift = 0.95 + 0.1 * person.score("hair_length")
    points = np.stack(
        [radius * np.sin(polar) * np.sin(azimuth), lift + radius * np.cos(polar) + 0 * azimuth,
         -0.42 + radius * np.sin(polar) * np.cos(azimuth)]
    )  # fmt: skip
    color = person.hair_rgb[:, None, None] * np.clip(1 + 0.4 * strands, 0.3, 2)
    return Surface(points.astype(np.float32), color.astype(np.float32), 0.06)

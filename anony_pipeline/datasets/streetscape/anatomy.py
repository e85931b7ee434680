"""The shape of a head: a lofted skull with nose, sockets, cheeks and chin raised on it.

The head is one grid. Rows run from the crown (y = 1) to below the chin (y = -1), columns around it from the back over
the viewer's left to the front and on. The proportions are the drawing school's: eyes halfway, the nose's base at -0.4,
the mouth at -0.58.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from anony_pipeline.datasets.streetscape.identity import Person

ROWS, COLUMNS = 176, 192
_KNOTS_Y = np.array([1, 0.93, 0.75, 0.45, 0.15, -0.1, -0.35, -0.6, -0.8, -0.93, -1.0])
_WIDTH = np.array([0, 0.34, 0.585, 0.695, 0.705, 0.69, 0.63, 0.545, 0.425, 0.27, 0])
_FRONT = np.array([-0.05, 0.36, 0.63, 0.775, 0.785, 0.735, 0.745, 0.745, 0.735, 0.64, 0.40])
_BACK = np.array([-0.05, -0.47, -0.80, -0.96, -0.97, -0.90, -0.72, -0.44, -0.08, 0.22, 0.40])
_CENTER = np.array([-0.05, -0.05, -0.05, -0.03, 0.0, 0.0, 0.03, 0.12, 0.27, 0.37, 0.40])


@dataclass(frozen=True, eq=False)
class Template:
    """What all heads share: the angles of the grid, and the part of it that bears the face."""

    polar: np.ndarray
    azimuth: np.ndarray
    basis: np.ndarray
    face_rows: slice
    face_columns: slice


@dataclass(frozen=True, eq=False)
class Skull:
    """The bare head of one person, at rest.

    Attributes:
        points: ``(3, ROWS, COLUMNS)`` float32.
        relief: ``(ROWS, COLUMNS)``: what the features raise above the skull; its hollows are darker.
        marks: Where eyes, nose and mouth are, in units.
    """

    points: np.ndarray
    relief: np.ndarray
    marks: "Marks"


@dataclass(frozen=True)
class Marks:
    """Places and sizes of the features in the face's plane, in units of half a head."""

    eye_x: float
    eye_y: float
    eye_half_width: float
    eye_half_height: float
    eye_tilt: float
    nose_tip_y: float
    nose_half_width: float
    mouth_y: float
    mouth_half_width: float
    lip_upper: float
    lip_lower: float


@functools.cache
def template() -> Template:
    """The grid, dense where the face is."""
    polar = _spread(0.0, np.pi, ROWS, lambda a: 1 + 1.5 * ((a > 1.2) & (a < 2.75)))
    azimuth = _spread(-np.pi, np.pi, COLUMNS, lambda a: 1 + 1.9 * (np.abs(a) < 1.05) + 0.6 * (np.abs(a) < 0.5))
    basis = CubicSpline(np.arccos(_KNOTS_Y), np.eye(len(_KNOTS_Y)), bc_type="natural")(polar)
    y = np.cos(polar)
    rows = np.nonzero((y < 0.66) & (y > -0.995))[0]
    columns = np.nonzero(np.abs(azimuth) < 1.45)[0]
    return Template(
        polar.astype(np.float32),
        azimuth.astype(np.float32),
        basis.astype(np.float32),
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )


def _spread(low: float, high: float, count: int, density: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    fine = np.linspace(low, high, 4001)
    mass = np.concatenate([[0], np.cumsum(density((fine[1:] + fine[:-1]) / 2))])
    return np.interp(np.linspace(0, mass[-1], count), mass, fine)


def bump(x: np.ndarray, y: np.ndarray, center: tuple[float, float], spread: tuple[float, float]) -> np.ndarray:
    """A Gaussian hill of height 1."""
    return np.exp(-0.5 * (((x - center[0]) / spread[0]) ** 2 + ((y - center[1]) / spread[1]) ** 2))


def marks_of(person: Person) -> Marks:
    """Where the person's features are."""
    score = person.score
    nose_tip_y = -0.30 - 0.035 * score("nose_length")
    return Marks(
        eye_x=0.285 + 0.019 * score("eye_spacing") + 0.006 * score("skull_width"),
        eye_y=0.0 + 0.022 * score("eye_height"),
        eye_half_width=0.135 * (1 + 0.08 * score("eye_size")),
        eye_half_height=0.052 * (1 + 0.15 * score("eye_open") + 0.06 * score("eye_size")),
        eye_tilt=0.10 * score("eye_tilt") + 0.05,
        nose_tip_y=nose_tip_y,
        nose_half_width=0.115 * (1 + 0.14 * score("nose_width")),
        mouth_y=-0.575 - 0.028 * score("mouth_height") + 0.4 * (nose_tip_y + 0.30),
        mouth_half_width=0.235 * (1 + 0.10 * score("mouth_width")),
        lip_upper=0.050 * (1 + 0.28 * score("lip_upper")),
        lip_lower=0.062 * (1 + 0.26 * score("lip_lower")),
    )


@functools.lru_cache(maxsize=96)
def skull_of(person: Person) -> Skull:
    """Build a person's head."""
    grid = template()
    points = _loft(person, grid)
    marks = marks_of(person)
    face = (slice(None), grid.face_rows, grid.face_columns)
    relief = np.zeros(points.shape[1:], np.float32)
    x, y = points[face][0], points[face][1]
    relief[face[1:]] = _features(person, marks, x, y)
    points[2] += relief
    return Skull(points, relief, marks)


def _loft(person: Person, grid: Template) -> np.ndarray:
    score = person.score
    width, front, back = _WIDTH.copy(), _FRONT.copy(), _BACK.copy()
    width[1:4] *= 1 + 0.035 * score("skull_width")
    width[2:5] += 0.016 * score("temple")
    width[4:6] += 0.020 * score("cheekbone") + 0.016 * score("skull_width")
    width[6] += 0.022 * score("cheek_fullness") + 0.014 * score("jaw_width")
    width[7] += 0.034 * score("jaw_width") + 0.014 * score("cheek_fullness")
    width[8] += 0.026 * score("chin_width") + 0.022 * score("jaw_width")
    width[9] += 0.022 * score("chin_width")
    front[2:4] += 0.026 * score("forehead")
    front[7:10] += 0.020 * score("chin_forward")
    back[1:6] *= 1 + 0.05 * score("skull_depth")
    back[6:8] -= 0.05 * score("jaw_angle")
    w, f, b, c = (grid.basis @ knots for knots in (width, front, back, _CENTER))
    w, f, b = np.maximum(w, 0), np.maximum(f, c), np.minimum(b, c)
    y = np.cos(grid.polar)
    y = y * np.where(y > 0, 1 + 0.035 * score("skull_height"), 1 + 0.045 * score("chin_length"))
    sine, cosine = np.sin(grid.azimuth), np.cos(grid.azimuth)
    # The face is flatter than an ellipse, the back of the head is not.
    depth = np.where(cosine > 0, np.abs(cosine) ** 0.86, cosine)
    z = c[:, None] + np.where(depth > 0, (f - c)[:, None], (c - b)[:, None]) * depth
    x = w[:, None] * np.sign(sine) * np.abs(sine) ** 0.95
    return np.stack([x, np.broadcast_to(y[:, None], z.shape), z]).astype(np.float32)


def _features(person: Person, marks: Marks, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    score = person.score
    lean = x - 0.012 * score("asymmetry") * np.exp(-((y + 0.3) ** 2) / 0.1)
    side = np.abs(x)
    height = _nose(person, marks, lean, y)
    depth = 1 + 0.28 * score("eye_depth")
    height -= 0.062 * depth * bump(side, y, (marks.eye_x, marks.eye_y + 0.04), (0.15, 0.075))
    height -= 0.045 * depth * bump(side, y, (0.13, marks.eye_y + 0.01), (0.045, 0.06))
    height += 0.050 * bump(side, y, (marks.eye_x, marks.eye_y), (0.095, 0.062))
    height += 0.030 * (1 + 0.5 * score("brow_ridge")) * bump(side, y, (0.24, marks.eye_y + 0.16), (0.17, 0.05))
    height += 0.042 * (1 + 0.5 * score("cheekbone")) * bump(side, y, (0.40, -0.20), (0.14, 0.12))
    height -= 0.030 * (1 - 0.5 * score("cheek_fullness")) * bump(side, y, (0.42, -0.55), (0.11, 0.16))
    height += (
        0.055 * (1 + 0.4 * score("chin_forward")) * bump(x, y, (0, -0.87), (0.13 + 0.02 * score("chin_width"), 0.08))
    )
    height -= 0.035 * bump(x, y, (0, marks.mouth_y - 0.15), (0.14, 0.04))
    height += 0.062 * bump(x, y, (0, marks.mouth_y), (0.22, 0.14))
    height -= 0.012 * (1 + 0.5 * score("philtrum")) * bump(x, y, (0, marks.mouth_y + 0.11), (0.022, 0.05))
    return height + _age_lines(person, marks, side, y)


def _nose(person: Person, marks: Marks, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    score = person.score
    root, tip = marks.eye_y + 0.08, marks.nose_tip_y
    along = np.clip((root - y) / (root - tip), 0, 1)
    height = 0.195 * (1 + 0.15 * score("nose_height"))
    start = np.clip(0.17 + 0.09 * score("nose_bridge"), 0.02, 0.5)
    rise = height * (start * np.minimum(along * 4, 1) + (1 - start) * along ** (1.15 + 0.15 * score("nose_tilt")))
    rise += 0.028 * score("nose_hook") * np.sin(np.pi * along)
    spread = (0.040 + 0.034 * along) * (1 + 0.10 * score("nose_width") + 0.08 * score("nose_bridge"))
    below = np.exp(-(np.maximum(tip - y, 0) ** 2) / (2 * (0.042 + 0.008 * score("nose_tilt")) ** 2))
    ridge = rise * np.exp(-0.5 * (x / spread) ** 2) * below * (y < root + 0.02)
    ball = 0.036 * (1 + 0.3 * score("nose_tip")) * bump(x, y, (0, tip), (0.062 * (1 + 0.12 * score("nose_tip")), 0.05))
    wings = bump(np.abs(x), y, (marks.nose_half_width * 0.86, tip - 0.028), (0.040, 0.046))
    return ridge + ball + 0.078 * (1 + 0.16 * score("nose_nostril")) * wings


def _age_lines(person: Person, marks: Marks, side: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Folds and wrinkles, deeper with age."""
    age = np.clip((person.age - 22) / 50, 0, 1.1)
    # The fold from the nose's wing to the mouth's corner.
    along = np.clip((marks.nose_tip_y - y) / (marks.nose_tip_y - marks.mouth_y + 0.06), 0, 1)
    fold = np.exp(-0.5 * ((side - 0.15 - 0.15 * along) / 0.02) ** 2) * np.sin(np.pi * np.clip(along, 0.02, 0.98))
    lines = -(0.008 + 0.022 * age) * fold
    if age > 0.15:
        forehead = bump(side, y, (0, 0.36), (0.32, 0.11))
        lines += 0.0035 * age * np.sin(y * 58 + 1.5 * np.cos(side * 9) + 2 * person.score("asymmetry")) * forehead
        lines -= 0.016 * age * bump(side, y, (marks.eye_x, marks.eye_y - 0.11), (0.10, 0.02))
        crow = bump(side, y, (marks.eye_x + 0.21, marks.eye_y), (0.05, 0.07))
        lines += 0.003 * age * np.sin((y - marks.eye_y) * 110) * crow
        lines -= 0.010 * age * bump(side, y, (0.035, marks.eye_y + 0.16), (0.012, 0.05))
    return lines

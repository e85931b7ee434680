"""Heads in front of a camera: a person's face with an expression, turned, lit and drawn."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from anony_pipeline.datasets.streetscape.anatomy import Marks, bump, skull_of, template
from anony_pipeline.datasets.streetscape.identity import EYE_COLORS, Person
from anony_pipeline.datasets.streetscape.skin import cover_of, smoothstep
from anony_pipeline.datasets.streetscape.surfaces import Light, Raster, Surface, View, normals_of, render, rotated
from anony_pipeline.datasets.streetscape.wear import HAT_RIMS, Wear, body_surfaces, worn_surfaces

FACE_TOP, FACE_ANGLE = 0.60, 1.30
# No expression moves a point that is higher.
MOVED = 0.25


@dataclass(frozen=True)
class Pose:
    """How a head is turned, in degrees: yaw to the viewer's right, pitch up, roll clockwise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def matrix(self) -> np.ndarray:
        """The ``(3, 3)`` rotation of the head's space into the viewer's."""
        yaw, pitch, roll = np.radians([self.yaw, -self.pitch, -self.roll])
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        return about_z @ about_x @ about_y


@dataclass(frozen=True)
class Expression:
    """What a face does: 0 at rest, 1 strongly; ``eyes_open`` is 1 at rest; the gaze is in ``[-1, 1]`` each way."""

    mouth_open: float = 0.0
    smile: float = 0.0
    eyes_open: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Head:
    """A head's surfaces in its own space, with the points that annotations are made of.

    Attributes:
        surfaces: What is drawn.
        landmarks: ``(3, 5)``: eyes, nose tip, mouth corners; the viewer's left first when it looks straight ahead.
        face: ``(3, R, C)``: the grid from hairline to chin and ear to ear, of which the box is made.
        body: Surfaces that turn with the body, not with the head.
    """

    surfaces: list[Surface]
    landmarks: np.ndarray
    face: np.ndarray
    body: list[Surface] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class DrawnHead:
    """A drawing of a head and its truth, in pixels of the canvas.

    Attributes:
        raster: Linear colors and alpha.
        box_xyxy: ``(4,)`` tightly about the face: hairline to chin, cheek to cheek, as far as it is turned to the
            viewer; zeros if it is turned away.
        landmarks: ``(5, 2)``: eyes, nose tip, mouth corners; the viewer's left first.
    """

    raster: Raster
    box_xyxy: np.ndarray
    landmarks: np.ndarray


def build_head(
    person: Person, expression: Expression, wear: Wear, rng: np.random.Generator, *, body: str | None = "bust"
) -> Head:
    """Make a person's head with an expression and what is worn.

    Args:
        person: Who.
        expression: What the face does.
        wear: Glasses, hat, mask and clothes.
        rng: For folds of cloth and the body's stance.
        body: ``bust``, ``whole`` or None.
    """
    cover, skull = cover_of(person), skull_of(person)
    moving = bool(expression.smile or expression.mouth_open)
    shut = None if moving else _shut(person)
    points, albedo, gloss = (part.copy() for part in (shut or (cover.points, cover.albedo, cover.gloss))[:3])
    drawn = None
    if wear.hat in HAT_RIMS:
        # A hat presses the hair down, and what is under it need not be drawn.
        height = np.cos(template().polar)[:, None]
        drawn = np.broadcast_to(height < HAT_RIMS[wear.hat] + 0.08, points.shape[1:])
        points += (skull.points * 1.02 - points) * smoothstep(0.25, 0.5, height)
    if shut is None:
        _move(points[:, _below(MOVED)], skull.marks, expression)
        landmarks = _paint_mouth(person, skull.marks, expression, (points, albedo, gloss))
    else:
        landmarks = shut[3]
    _paint_eyes(person, skull.marks, expression, (points, albedo, gloss))
    # What an expression moves changes little about how densely the head is to be drawn.
    skin = Surface(points, albedo, gloss, cover.occlusion, drawn, soft=True, lengths=cover.lengths)
    surfaces = [skin, *cover.more]
    if wear.hat == "hood":
        surfaces = surfaces[:1]
    if wear.covers:
        bare = skull.points.copy()
        _move(bare[:, _below(MOVED)], skull.marks, expression)
        surfaces += worn_surfaces(wear, bare, skull.marks, rng)
    face = skull.points[:, *_face_points()]
    _move(face, skull.marks, expression)
    parts = (
        []
        if body is None
        else body_surfaces(wear, person.skin_rgb, person.score("neck_width"), rng, whole=body == "whole")
    )
    return Head(surfaces, landmarks, face, parts)


@functools.lru_cache(maxsize=96)
def _shut(person: Person) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, albedo and gloss of a person's covered head with the mouth of a face at rest, and its landmarks."""
    cover = cover_of(person)
    points, albedo, gloss = cover.points.copy(), cover.albedo.copy(), cover.gloss.copy()
    landmarks = _paint_mouth(person, skull_of(person).marks, Expression(), (points, albedo, gloss))
    return points, albedo, gloss, landmarks


def draw_head(head: Head, pose: Pose, light: Light, view: View, *, body_yaw: float = 0.0) -> DrawnHead:
    """Turn, light and draw a head.

    Args:
        head: Made by `build_head`.
        pose: How the head is turned.
        light: Where light comes from, in the viewer's space.
        view: The canvas; the head's center appears at ``center_xy``.
        body_yaw: How far the body is turned, in degrees.
    """
    turn, body_turn = pose.matrix(), Pose(yaw=body_yaw).matrix()
    surfaces = [replace(one, turn=turn) for one in head.surfaces] + [replace(one, turn=body_turn) for one in head.body]
    raster = render(surfaces, view, light)
    face = rotated(head.face, turn)
    normals = normals_of(face)
    facing = normals[2] * (view.distance - face[2]) - normals[0] * face[0] - normals[1] * face[1] > 0
    seen = view.project(face)[:, facing]
    box = np.concatenate([seen.min(axis=1), seen.max(axis=1)]) if facing.any() else np.zeros(4)
    return DrawnHead(raster, box, view.project(rotated(head.landmarks, turn)).T)


@functools.cache
def _face_points() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the grid that the face's box is made of, as an open mesh."""
    grid = template()
    rows = np.nonzero(np.cos(grid.polar) < FACE_TOP)[0]
    columns = np.nonzero(np.abs(grid.azimuth) < FACE_ANGLE)[0]
    # A third of the points do; evenly chosen, so that left and right are treated alike.
    chosen = [np.rint(np.linspace(index[0], index[-1], len(index) // 3)).astype(int) for index in (rows, columns)]
    return chosen[0][:, None], chosen[1][None]


def _below(y: float) -> slice:
    """The grid's rows below a height."""
    return slice(int(np.searchsorted(_depths(), -y)), None)


def _move(points: np.ndarray, marks: Marks, expression: Expression) -> None:
    """Shift the face's points as the jaw opens and the mouth's corners rise, in place."""
    if not expression.smile and not expression.mouth_open:
        return
    x, y, z = points
    front = smoothstep(-0.1, 0.35, z)
    if expression.smile:
        side = np.abs(x)
        corner = bump(side, y, (marks.mouth_half_width, marks.mouth_y), (0.10, 0.09)) * front * expression.smile
        cheek = bump(side, y, (0.33, -0.30), (0.12, 0.10)) * front * expression.smile
        points[0] += np.sign(x) * 0.035 * corner
        points[1] += 0.05 * corner + 0.02 * cheek
        points[2] += 0.035 * cheek - 0.015 * corner
    if expression.mouth_open:
        points[1] -= expression.mouth_open * 0.17 * smoothstep(marks.mouth_y + 0.02, marks.mouth_y - 0.30, y) * front


def _paint_mouth(
    person: Person, marks: Marks, expression: Expression, parts: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Paint lips, teeth and the dark between them; returns the ``(3, 5)`` landmarks."""
    points, albedo, gloss = parts
    center = marks.mouth_y - 0.055 * expression.mouth_open
    half = marks.mouth_half_width * (1 + 0.16 * expression.smile - 0.12 * expression.mouth_open)
    face = _window(points, _band(marks.mouth_y - 0.04, 0.26), (-half, half))
    x, y, z = (axis[face] for axis in points)
    curve = 0.055 * expression.smile + 0.014 * person.score("mouth_curve")
    line = center + curve * (x / half) ** 2
    arch = np.clip(1 - (x / half) ** 2, 0, 1)
    # NumPy's own powers of float32 take many times as long.
    powers = np.log(np.maximum(arch, 1e-30))
    gap = (0.003 + 0.085 * expression.mouth_open + 0.022 * max(0.0, expression.smile - 0.35)) * np.exp(0.7 * powers)
    bow = 1 - 0.22 * np.exp(-((x / 0.035) ** 2))
    upper = line + gap + marks.lip_upper * np.exp(0.75 * powers) * bow
    lower = line - gap - marks.lip_lower * np.exp(0.6 * powers)
    lips = smoothstep(-0.008, 0.010, upper - y) * smoothstep(-0.008, 0.010, y - lower) * (np.abs(x) < half)
    inner = smoothstep(-0.004, 0.010, gap - np.abs(y - line)) * (gap > 0.006)
    seam = np.exp(-(((y - line) / 0.009) ** 2)) * np.sqrt(arch) * (gap < 0.012)
    tint = person.skin_rgb * (0.92, 0.60 - 0.06 * person.score("lip_color"), 0.62 - 0.05 * person.score("lip_color"))
    mouth_albedo = albedo[:, face[0], face[1]]
    mouth_albedo += (_plane(tint) - mouth_albedo) * (lips * (0.72 + 0.08 * person.score("lip_color")))
    mouth_albedo *= 1 - 0.75 * seam
    teeth = smoothstep(-0.2, 0.15, (y - line) / np.maximum(gap, 1e-3)) * (np.abs(x) < half * 0.8)
    inside = _plane((0.05, 0.012, 0.012)) + teeth * _plane((0.58, 0.53, 0.45))
    mouth_albedo += (inside - mouth_albedo) * inner
    gloss[face] += lips * 0.16
    swell = 0.034 * np.sin(np.pi * np.clip((y - line - gap) / np.maximum(upper - line - gap, 1e-3), 0, 1)) * (y > line)
    swell += 0.044 * np.sin(np.pi * np.clip((line - gap - y) / np.maximum(line - gap - lower, 1e-3), 0, 1)) * (y < line)
    points[2][face] = z + swell * np.sqrt(arch) * (1 - inner) - 0.05 * inner * (1 - teeth)
    marked = ((-marks.eye_x, marks.eye_y), (marks.eye_x, marks.eye_y), (0.0, marks.nose_tip_y))
    features = [_nearest(points, _band(place[1], 0.08), place) for place in marked]
    corners = [_nearest(points, face, (side * half, center + curve)) for side in (-1, 1)]
    return np.stack([*features, *corners], axis=1)


def _plane(color: Sequence[float] | np.ndarray) -> np.ndarray:
    """A color ``(3, 1, 1)`` to mix with planes of colors."""
    return np.asarray(color, np.float32)[:, None, None]


def _band(y: float, reach: float) -> tuple[slice, slice]:
    """The part of the face's grid within ``reach`` of a height."""
    top, bottom = np.searchsorted(_depths(), (-y - reach, -y + reach)).tolist()
    return slice(top, bottom), template().face_columns


@functools.cache
def _depths() -> np.ndarray:
    """How far below the middle each row of the grid lies, in ascending order."""
    return -np.cos(template().polar)


def _window(points: np.ndarray, band: tuple[slice, slice], between: tuple[float, float]) -> tuple[slice, slice]:
    """The columns of a part of the grid that have points between two x, and two more on either side."""
    x = points[0][band]
    columns = np.flatnonzero(((x > between[0]) & (x < between[1])).any(axis=0)) + band[1].start
    return band[0], slice(int(columns[0]) - 2, int(columns[-1]) + 3)


def _nearest(points: np.ndarray, part: tuple[slice, slice], place_xy: tuple[float, float]) -> np.ndarray:
    """The ``(3,)`` point of a part of the grid that lies nearest to a place, as seen from the front."""
    axes = points[:, part[0], part[1]]
    index = np.argmin((axes[0] - place_xy[0]) ** 2 + (axes[1] - place_xy[1]) ** 2)
    return axes.reshape(3, -1)[:, index]


def _paint_eyes(
    person: Person, marks: Marks, expression: Expression, parts: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Paint balls, lids and lashes; both eyes at once, as what lies to either side of the nose."""
    points, albedo, gloss = parts
    reach = marks.eye_x + 1.25 * marks.eye_half_width
    eyes = _window(points, _band(marks.eye_y, 0.19), (-reach, reach))
    x, y, colors = points[0][eyes], points[1][eyes], albedo[:, eyes[0], eyes[1]]
    side = np.sign(x)
    out = np.abs(x) - marks.eye_x
    along = out / marks.eye_half_width
    up = y - marks.eye_y - marks.eye_tilt * out
    arch = np.clip(1 - along**2, 0, 1)
    low = -0.62 * marks.eye_half_height * arch
    opened = min(max(expression.eyes_open - 0.22 * expression.smile, 0.02), 1.15)
    top = low + (marks.eye_half_height * 1.62 * opened) * arch**0.72 * (1 - 0.10 * along)
    near = np.abs(along) < 1.25
    open_eye = smoothstep(-0.003, 0.010, np.minimum(top - up, up - low)) * (np.abs(along) < 1)
    gaze_x, gaze_y = expression.gaze
    aside = side * out - 0.055 * gaze_x
    radius = np.sqrt(aside**2 + (up - 0.010 - 0.025 * gaze_y) ** 2)
    white = _plane((0.44, 0.41, 0.38)) * (1 - 0.25 * along**2)
    iris = _plane(EYE_COLORS[person.eye_color]) * (
        (0.75 + 0.5 * smoothstep(0.06, 0.03, radius)) * (1 - 0.7 * smoothstep(0.052, 0.064, radius))
    )
    ball = white + (iris - white) * smoothstep(0.070, 0.060, radius)
    glint = np.exp(-(((aside - 0.018) ** 2 + (up - 0.034) ** 2) / 0.00018))
    ball *= (1 - smoothstep(0.030, 0.022, radius)) * (1 - 0.55 * smoothstep(0.035, 0.0, top - up))
    ball += 0.55 * glint
    colors += (ball - colors) * open_eye
    lash = np.exp(-(((up - top) / 0.011) ** 2)) * near * (arch > 0) * 0.85
    rim = np.exp(-(((up - low) / 0.009) ** 2)) * near * (arch > 0) * 0.40
    fold = 0.030 + 0.010 * person.score("eye_crease")
    crease = np.exp(-(((up - top - fold) / 0.010) ** 2)) * smoothstep(1.25, 0.8, np.abs(along)) * 0.38
    colors *= 1 - np.clip(lash + rim + crease, 0, 0.92)
    gloss[eyes] *= 1 - 0.8 * open_eye

"""Streets: sky, buildings with signs, road, vehicles and people, seen by one camera, with the truth about all of it.

The world is in meters: x to the right, y up, z away from the camera, which stands at the origin's height `Eye.up`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from anony_pipeline.datasets.streetscape import camera as cameras
from anony_pipeline.datasets.streetscape.backdrop import Eye, draw_backdrop
from anony_pipeline.datasets.streetscape.camera import Camera, Time
from anony_pipeline.datasets.streetscape.heads import Pose, build_head, draw_head
from anony_pipeline.datasets.streetscape.identity import Person
from anony_pipeline.datasets.streetscape.people import sample_expression, view_attributes
from anony_pipeline.datasets.streetscape.surfaces import Light, Raster, View, fineness
from anony_pipeline.datasets.streetscape.vehicles import (
    Panel,
    Panels,
    Vehicle,
    panels_of,
    plate_corners,
    plate_image,
    warp_plate,
)
from anony_pipeline.datasets.streetscape.wear import Wear
from anony_pipeline.plates.styles import load_styles

HEAD_UNIT_M = 0.115
MIN_VISIBLE = 0.35
MIN_FACE_PX, MIN_PLATE_PX = 5.0, 4.0
VEHICLE_FINE = 2
NEAREST_VEHICLE_M = 0.6


@dataclass(frozen=True)
class Standing:
    """A person in a scene: who, where, turned how far, in what clothes."""

    person: Person
    at_xz: tuple[float, float]
    body_yaw: float
    pose: Pose
    wear: Wear
    height: float = 1.0


@dataclass(frozen=True)
class Parked:
    """A vehicle in a scene: which, where its middle is, and its heading in degrees (0: away from the camera)."""

    vehicle: Vehicle
    at_xz: tuple[float, float]
    heading: float


@dataclass(frozen=True)
class SceneRegion:
    """One face or plate in a scene, and all that is true of it.

    Attributes:
        kind: ``face`` or ``license_plate``.
        box_xyxy: In pixels, cut to the image.
        identity: The person's or the plate's name.
        serial: The plate's text.
        style: The plate's style.
        quad: The plate's corners.
        landmarks: The face's five points.
        attributes: The person's attributes and the photograph's.
        visible: The share of it that is neither hidden nor outside the image.
        pose: The head's pose.
    """

    kind: str
    box_xyxy: tuple[float, float, float, float]
    identity: str
    visible: float
    serial: str | None = None
    style: str | None = None
    quad: tuple[tuple[float, float], ...] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scene:
    """A photographed scene: ``image`` ``(H, W, 3)`` uint8, not yet compressed, and its regions."""

    image: np.ndarray
    regions: list[SceneRegion]
    time: Time
    camera: Camera


@dataclass(eq=False)
class _Canvas:
    """What has been drawn so far: linear light, and who owns each pixel."""

    rgb: np.ndarray
    owner: np.ndarray
    claims: list[tuple[int, np.ndarray, float, SceneRegion]]
    objects: int = 0

    def put(self, rgb: np.ndarray, alpha: np.ndarray, corner_xy: tuple[int, int]) -> int:
        """Composite an object, its color multiplied by its alpha; returns its number."""
        self.objects += 1
        x, y = corner_xy
        height, width = alpha.shape
        part = self.rgb[y : y + height, x : x + width]
        part[:] = Raster(rgb, alpha).over(part)
        self.owner[y : y + height, x : x + width][alpha > 0.5] = self.objects
        return self.objects

    def claim(self, number: int, outline: np.ndarray, region: SceneRegion) -> None:
        """Remember which pixels show a region now, to learn later how many of them stay visible."""
        mask = np.zeros(self.owner.shape, np.uint8)
        cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
        whole = max(cv2.contourArea(outline.astype(np.float32)), 1.0)
        self.claims.append((number, np.flatnonzero(mask), float(whole), region))


def compose(
    people: Sequence[Standing], vehicles: Sequence[Parked], *, eye: Eye, light: Light, time: Time, camera: Camera,
    rng: np.random.Generator, street: tuple[int, float] = (0, 0.0),
) -> Scene:  # fmt: skip
    """Draw a scene from far to near and photograph it.

    Args:
        people: Who stands where.
        vehicles: What stands where.
        eye: From where it is seen.
        light: In the camera's space.
        time: At night lamps and windows shine.
        camera: What it does to the light.
        rng: For expressions, folds and noise.
        street: The street's seed, and how far along it the camera stands, in meters.
    """
    backdrop = draw_backdrop(eye, light, time, np.random.default_rng(street[0]), street[1])
    canvas = _Canvas(backdrop, np.zeros(backdrop.shape[:2], np.int32), [])
    things: list[Standing | Parked] = [*people, *vehicles]
    for thing in sorted(things, key=lambda one: -one.at_xz[1]):
        if isinstance(thing, Standing):
            _draw_person(canvas, thing, eye, light, time, rng)
        else:
            _draw_vehicle(canvas, thing, eye, light, time)
    settled = [_settled(canvas, *claim) for claim in canvas.claims]
    regions = [region for region in settled if region is not None]
    return Scene(cameras.develop(canvas.rgb, camera, rng), regions, time, camera)


def _settled(canvas: _Canvas, number: int, pixels: np.ndarray, whole: float, region: SceneRegion) -> SceneRegion | None:
    """Cut a region to the image and see how much of it is visible; None if too little is."""
    height, width = canvas.owner.shape
    box = np.clip(region.box_xyxy, 0, [width, height, width, height])
    size = box[2:] - box[:2]
    visible = float((canvas.owner.reshape(-1)[pixels] == number).sum()) / max(whole, len(pixels))
    smallest = MIN_FACE_PX if region.kind == "face" else MIN_PLATE_PX
    if visible < MIN_VISIBLE or size.min() < smallest:
        return None
    return SceneRegion(**{**region.__dict__, "box_xyxy": tuple(box.tolist()), "visible": min(1.0, visible)})


def _draw_person(
    canvas: _Canvas, standing: Standing, eye: Eye, light: Light, time: Time, rng: np.random.Generator
) -> None:
    x, z = standing.at_xz
    unit = HEAD_UNIT_M * standing.height
    scale = eye.focal_px * unit / z
    center = eye.project(np.array([x, 13.2 * unit, z]))
    height, width = canvas.owner.shape
    reach = 2.6 if scale * 2.6 < width else width / scale
    low = np.maximum(np.floor([center[0] - reach * scale, center[1] - 1.75 * scale]), 0).astype(int)
    high = np.minimum(np.ceil([center[0] + reach * scale, center[1] + 14 * scale]), [width, height]).astype(int)
    expression = sample_expression(rng)
    folds = np.random.default_rng(standing.person.seed)
    if (high - low).min() < 2:
        return
    head = build_head(standing.person, expression, standing.wear, folds, body="whole")
    # Seen from the side of the view's axis, a person turned to the camera's direction shows another yaw.
    view = View(
        tuple((high - low)[::-1].tolist()),
        scale,
        tuple((center - low).tolist()),
        distance=max(z / unit, 4.0),
        supersample=fineness(scale),
    )
    _ground_shadow(canvas, eye, np.array([x, 0, z]), (0.32, 0.22), 0.45 if time != "night" else 0.2)
    drawn = draw_head(head, standing.pose, light, view, body_yaw=standing.body_yaw)
    number = canvas.put(drawn.raster.rgb, drawn.raster.alpha, tuple(low.tolist()))
    if abs(standing.pose.yaw) > 95:
        return
    box = drawn.box_xyxy + np.tile(low, 2)
    angle = np.linspace(0, 2 * np.pi, 24)
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    outline = middle + np.stack([np.cos(angle), np.sin(angle)], axis=1) * half * 0.9
    region = SceneRegion(
        kind="face",
        box_xyxy=tuple(box.tolist()),
        identity=standing.person.name,
        visible=1.0,
        landmarks=tuple(map(tuple, (drawn.landmarks + low).tolist())),
        attributes={**standing.person.attributes(), **view_attributes(standing.pose, expression, standing.wear)},
    )
    canvas.claim(number, outline, region)


def _ground_shadow(canvas: _Canvas, eye: Eye, at: np.ndarray, half_xz: tuple[float, float], strength: float) -> None:
    """Darken the ground below something."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    ring = at[None] + np.stack([half_xz[0] * np.cos(angle), 0 * angle, half_xz[1] * np.sin(angle)], axis=1)
    ring[:, 2] = np.maximum(ring[:, 2], 0.3)
    points = eye.project(ring)
    blur = max(1.0, float(np.ptp(points[:, 1])) / 5)
    low = np.maximum(np.floor(points.min(axis=0) - 3 * blur), 0).astype(int)
    high = np.minimum(np.ceil(points.max(axis=0) + 3 * blur), canvas.owner.shape[::-1]).astype(int)
    if (high - low).min() < 2:
        return
    mask = np.zeros((high - low)[::-1], np.float32)
    cv2.fillPoly(mask, [np.rint((points - low) * 16).astype(np.int32)], 1.0, shift=4)
    canvas.rgb[low[1] : high[1], low[0] : high[0]] *= 1 - strength * cv2.GaussianBlur(mask, (0, 0), blur)[..., None]


def _draw_vehicle(canvas: _Canvas, parked: Parked, eye: Eye, light: Light, time: Time) -> None:
    vehicle, frame = parked.vehicle, _frame_of(parked)
    panels = panels_of(vehicle)
    corners = np.concatenate([frame.place(panel.corners) for panel, _ in panels])
    points = eye.project(corners)
    low = np.maximum(np.floor(points.min(axis=0)) - 2, 0).astype(int)
    high = np.minimum(np.ceil(points.max(axis=0)) + 2, canvas.owner.shape[::-1]).astype(int)
    if corners[:, 2].min() < NEAREST_VEHICLE_M or (high - low).min() < 3:
        return
    sideways = abs(np.sin(np.radians(parked.heading)))
    _ground_shadow(canvas, eye, frame.offset, (1.25 + 0.9 * sideways, 2.2 - 0.9 * sideways), 0.8)
    layer = _Layer(np.zeros((*((high - low)[::-1] * VEHICLE_FINE), 4), np.float32), eye, frame, low)
    _draw_panels(layer, panels, light, time)
    plates = [plate_corners(vehicle, rear=rear) for rear in (True, False) if _faces(frame, eye, rear=rear)]
    for plate in plates:
        facing = frame.turn @ np.array([0, 0, np.sign(plate[0, 2])])
        warp_plate(layer.rgba, _lit_plate(vehicle, facing, light, time), layer.points(plate))
    small = cv2.resize(layer.rgba, tuple((high - low).tolist()), interpolation=cv2.INTER_AREA)
    alpha = small[..., 3]
    number = canvas.put(small[..., :3], alpha, tuple(low.tolist()))
    for plate in plates:
        quad = eye.project(frame.place(plate))
        region = SceneRegion(
            kind="license_plate",
            box_xyxy=(*quad.min(axis=0).tolist(), *quad.max(axis=0).tolist()),
            identity=vehicle.name,
            visible=1.0,
            serial=vehicle.serial,
            style=vehicle.style,
            quad=tuple(map(tuple, quad.tolist())),
        )
        canvas.claim(number, quad, region)


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where a vehicle stands and how it is turned: from its own space to the world."""

    turn: np.ndarray
    offset: np.ndarray

    def place(self, corners: np.ndarray) -> np.ndarray:
        return corners @ self.turn.T + self.offset


@dataclass(frozen=True, eq=False)
class _Layer:
    """A vehicle's own canvas, finer than the scene's: ``rgba`` linear, its corner at ``low`` in the scene."""

    rgba: np.ndarray
    eye: Eye
    frame: _Frame
    low: np.ndarray

    def points(self, corners: np.ndarray) -> np.ndarray:
        return (self.eye.project(self.frame.place(corners)) - self.low) * VEHICLE_FINE


def _frame_of(parked: Parked) -> _Frame:
    # The vehicle's third axis points out of its rear; at heading 0 that is toward the camera.
    turn = np.radians(parked.heading)
    axes = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, -np.cos(turn)]])
    return _Frame(axes, np.array([parked.at_xz[0], 0, parked.at_xz[1]]))


def _faces(frame: _Frame, eye: Eye, *, rear: bool) -> bool:
    """Whether the vehicle's rear or front is turned to the camera by enough to show its plate."""
    facing = frame.turn @ np.array([0, 0, 1.0 if rear else -1.0])
    toward = frame.offset - [0, eye.up, 0]
    return bool(facing @ toward < -0.35 * np.linalg.norm(toward))


def _draw_panels(layer: _Layer, panels: Panels, light: Light, time: Time) -> None:
    """Draw the panels that face the camera, from far to near, each with what lies on it."""
    eye = np.array([0, layer.eye.up, 0])
    placed = [(layer.frame.place(panel.corners).mean(axis=0) - eye, panel, on_top) for panel, on_top in panels]
    for toward, panel, on_top in sorted(placed, key=lambda one: -float(np.linalg.norm(one[0]))):
        normal = layer.frame.turn @ _normal_of(panel.corners)
        if normal @ toward < 0:
            for part in (panel, *on_top):
                points = np.rint(layer.points(part.corners) * 16).astype(np.int32)
                cv2.fillPoly(layer.rgba, [points], (*_panel_color(part, normal, light, time).tolist(), 1.0), shift=4)


def _normal_of(corners: np.ndarray) -> np.ndarray:
    """The outward normal: away from a point inside the vehicle."""
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[1])
    normal = normal / (np.linalg.norm(normal) + 1e-9)
    return normal if normal @ (corners.mean(axis=0) - [0, 0.75, 0]) > 0 else -normal


def _panel_color(panel: Panel, normal: np.ndarray, light: Light, time: Time) -> np.ndarray:
    # The light's space looks along the camera: its third axis points at the viewer, the world's away from it.
    toward = np.array(light.direction) * (1, 1, -1)
    sky, ground, sun = np.array(light.sky_rgb), np.array(light.ground_rgb), np.array(light.sun_rgb)
    ambient = sky * (0.5 + 0.5 * normal[1]) + ground * (0.5 - 0.5 * normal[1])
    lit = panel.color * (sun * max(0.0, float(normal @ toward)) + ambient)
    mirror = sky * (0.30 if panel.glass else 0.07) * (0.4 + 0.6 * max(0.0, normal[1] + 0.3))
    return lit + mirror + panel.glow * panel.color * (0.25 if time == "day" else 1.0)


def _lit_plate(vehicle: Vehicle, facing: np.ndarray, light: Light, time: Time) -> np.ndarray:
    toward = np.array(light.direction) * (1, 1, -1)
    sun = np.array(light.sun_rgb) * max(0.0, float(facing @ toward))
    lit = sun + np.array(light.sky_rgb) * 0.6 + np.array(light.ground_rgb) * 0.5
    # Plates throw headlights back to where they come from.
    back = {"day": 0.0, "dusk": 0.08, "night": 0.25}[time]
    plate = plate_image(load_styles()[vehicle.style], vehicle.serial, vehicle.wear, vehicle.seed)
    return (plate * (lit + back)).astype(np.float32)

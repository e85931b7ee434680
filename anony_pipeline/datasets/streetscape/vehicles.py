"""Vehicles of flat panels, their plates, and photographed plate crops to fit readers on."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anony_pipeline.datasets.streetscape import camera as cameras
from anony_pipeline.datasets.streetscape.camera import Family
from anony_pipeline.datasets.streetscape.skin import noise
from anony_pipeline.datasets.streetscape.surfaces import Light
from anony_pipeline.plates import render as plate_render
from anony_pipeline.plates import serials
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import PlateStyle, load_styles

# Plates of the demo are of the countries of PP4AV's groups; base models see every style there is.
DEMO_STYLES = ("CH", "DE", "FR", "NL")
PLATE_PX = 96

# Side views as (forward, up) in meters, from the rear bumper over the roof to the front one.
_PROFILES = {
    "sedan": (
        (-2.20, 0.30), (-2.28, 0.62), (-2.20, 0.94), (-1.55, 1.02), (-0.95, 1.40),
        (0.25, 1.43), (1.05, 0.98), (2.05, 0.82), (2.26, 0.58), (2.20, 0.28),
    ),
    "hatchback": (
        (-1.92, 0.32), (-2.00, 0.62), (-1.93, 0.98), (-1.88, 1.02), (-1.42, 1.45),
        (0.25, 1.48), (1.00, 1.00), (1.80, 0.86), (2.00, 0.58), (1.94, 0.28),
    ),
    "suv": (
        (-2.22, 0.42), (-2.32, 0.75), (-2.28, 1.08), (-2.22, 1.12), (-1.85, 1.68),
        (0.30, 1.71), (1.05, 1.16), (2.02, 1.05), (2.28, 0.75), (2.22, 0.38),
    ),
    "van": (
        (-2.45, 0.38), (-2.50, 0.80), (-2.50, 1.15), (-2.49, 1.18), (-2.42, 1.98),
        (1.25, 2.00), (2.00, 1.22), (2.40, 1.02), (2.50, 0.70), (2.45, 0.34),
    ),
}  # fmt: skip
_REAR_GLASS, _FRONT_GLASS = 3, 5
_PAINTS = (
    (0.62, 0.62, 0.62), (0.30, 0.31, 0.32), (0.10, 0.105, 0.11), (0.018, 0.018, 0.02), (0.03, 0.06, 0.16),
    (0.30, 0.02, 0.02), (0.05, 0.12, 0.07), (0.36, 0.30, 0.20), (0.08, 0.20, 0.36), (0.42, 0.16, 0.03),
)  # fmt: skip


@dataclass(frozen=True)
class Vehicle:
    """One made-up vehicle.

    Attributes:
        seed: Names the vehicle.
        body: A key of the side views: ``sedan``, ``hatchback``, ``suv`` or ``van``.
        paint_rgb: Linear.
        style: Its plate's style.
        serial: Its plate's text.
        wear: How dirty the plate is, in ``[0, 1]``.
        plate_up: Where the plates sit, in meters above the ground: ``(rear, front)``.
    """

    seed: int
    body: str
    paint_rgb: tuple[float, float, float]
    style: str
    serial: str
    wear: float
    plate_up: tuple[float, float]

    @property
    def name(self) -> str:
        """What the ground truth calls the vehicle's plate."""
        return f"plate-{self.seed:07d}"


@dataclass(frozen=True, eq=False)
class PlateCrop:
    """A photographed plate.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, as many pixels as the camera had for it; a small margin about the plate.
        serial: Its text, with separators.
        style: Its style's key.
        quad: ``(4, 2)`` float32: its corners in pixels, clockwise from its own top left.
        box_xyxy: ``(4,)`` float32: the box about the corners, cut to the image.
        height_px: The plate's height in pixels.
    """

    image: np.ndarray
    serial: str
    style: str
    quad: np.ndarray
    box_xyxy: np.ndarray
    height_px: float


def sample_vehicle(seed: int, style: str, rng: np.random.Generator) -> Vehicle:
    """Draw a vehicle with a plate of a style."""
    paint = np.array(_PAINTS[int(rng.integers(len(_PAINTS)))]) * rng.uniform(0.75, 1.25)
    body = str(rng.choice(list(_PROFILES), p=[0.32, 0.34, 0.22, 0.12]))
    return Vehicle(
        seed=seed,
        body=body,
        paint_rgb=tuple(paint.tolist()),
        style=style,
        serial=serials.draw(load_styles()[style], rng),
        wear=float(rng.beta(1.2, 4)),
        plate_up=(float(rng.choice([0.52, 0.80])), float(rng.uniform(0.40, 0.5))),
    )


@functools.lru_cache(maxsize=256)
def plate_image(style: PlateStyle, serial: str, wear: float, seed: int, finish: Finish | None = None) -> np.ndarray:
    """A plate from straight ahead, ``(PLATE_PX, W, 3)`` float32 linear."""
    width_mm, height_mm = style.size_mm
    size = (PLATE_PX, round(PLATE_PX * width_mm / height_mm))
    drawn = plate_render.render(style, serial, size, rng=np.random.default_rng(seed), wear=wear, finish=finish)
    linear = cameras.decode(drawn)
    linear.setflags(write=False)
    return linear


def warp_plate(canvas: np.ndarray, plate: np.ndarray, quad: np.ndarray) -> None:
    """Put a plate onto a linear canvas, in place.

    Args:
        canvas: ``(H, W, C)`` float32; with a fourth channel, alpha becomes 1 there.
        plate: ``(h, w, 3)`` float32 linear, already lit.
        quad: ``(4, 2)`` corners on the canvas in pixels, clockwise from the plate's own top left.
    """
    height = max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1]))
    width = max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3]))
    # Averaged to about the wanted size first: a warp alone would alias.
    size = (int(np.clip(round(width), 2, plate.shape[1])), int(np.clip(round(height), 2, plate.shape[0])))
    small = cv2.resize(plate, size, interpolation=cv2.INTER_AREA)
    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + 1, canvas.shape[1::-1])
    if (high <= low).any():
        return
    corners = np.array([[0, 0], [size[0], 0], [size[0], size[1]], [0, size[1]]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(corners, (quad - low - 0.5).astype(np.float32))
    extent = tuple((high - low).tolist())
    layer = cv2.warpPerspective(small, matrix, extent, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpPerspective(np.ones(size[::-1], np.float32), matrix, extent)[..., None]
    part = canvas[low[1] : high[1], low[0] : high[0]]
    part[..., :3] += (layer - part[..., :3]) * cover
    if canvas.shape[2] == 4:
        part[..., 3:] = np.maximum(part[..., 3:], cover)


def render_plate_crop(
    rng: np.random.Generator,
    family: Family = "base",
    style: PlateStyle | None = None,
    finish: Finish | None = None,
) -> PlateCrop:
    """Photograph a plate as some camera would meet it: any angle, light, size and quality.

    Args:
        rng: The source of chance.
        family: ``base`` draws from all styles, ``demo`` from those of the demo's streets with the demo's cameras.
        style: Of this style alone.
        finish: How the plate is made and mounted; flat if None, which is what the shipped weights learned from.
    """
    if style is None:
        styles = DEMO_STYLES if family == "demo" else tuple(load_styles())
        style = load_styles()[styles[int(rng.integers(len(styles)))]]
    serial = serials.draw(style, rng)
    height_px = float(np.exp(rng.uniform(np.log(11), np.log(80))))
    fine = 2 if height_px < 45 else 1
    quad = _seen_quad(style.size_mm[0] / style.size_mm[1], height_px, rng)
    margin = rng.uniform(0.0, 0.14, 4) * height_px
    low = quad.min(axis=0) - margin[:2]
    quad = quad - low
    width, height = np.ceil(quad.max(axis=0) + margin[2:]).astype(int)
    time = cameras.sample_time(rng, family)
    light = cameras.sample_light(rng, time)
    lit = _plate_light(light, time, rng)
    paint = np.array(_PAINTS[int(rng.integers(len(_PAINTS)))], np.float32) * lit
    scene: np.ndarray = np.broadcast_to(paint, (height * fine, width * fine, 3)).astype(np.float32)
    scene *= 1 + 0.25 * noise(rng, (3, 5), scene.shape[:2])[..., None]
    plate = plate_image(style, serial, float(rng.beta(1.2, 3)), int(rng.integers(1 << 31)), finish)
    gradient = 1 + rng.uniform(0, 0.5) * noise(rng, (2, 3), plate.shape[:2])[..., None]
    warp_plate(scene, plate * lit * np.clip(gradient, 0.3, 1.8), quad * fine)
    scene = cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA) if fine > 1 else scene
    camera = cameras.sample_camera(rng, family, time, height_px * 4)
    image = cameras.photograph(scene, camera, rng)
    box = np.concatenate([quad.min(axis=0), quad.max(axis=0)])
    return PlateCrop(image, serial, style.key, quad.astype(np.float32), box.astype(np.float32), height_px)


def _seen_quad(aspect: float, height_px: float, rng: np.random.Generator) -> np.ndarray:
    """Corners of a plate turned about all axes, ``(4, 2)`` in pixels about the origin."""
    yaw, pitch, roll = np.radians([np.clip(rng.normal(0, 24), -62, 62), rng.normal(-4, 7), rng.normal(0, 4)])
    corners = np.array([[-aspect, 1], [aspect, 1], [aspect, -1], [-aspect, -1]]) / 2
    x, y = corners[:, 0] * np.cos(yaw), corners[:, 1] * np.cos(pitch)
    z = corners[:, 0] * np.sin(yaw) + corners[:, 1] * np.sin(pitch)
    distance = rng.uniform(9, 30)
    x, y = x * distance / (distance + z), y * distance / (distance + z)
    turned = np.stack([x * np.cos(roll) - y * np.sin(roll), -(x * np.sin(roll) + y * np.cos(roll))], axis=1)
    return turned * height_px


def _plate_light(light: Light, time: str, rng: np.random.Generator) -> np.ndarray:
    """Light on an upright plate, ``(3,)``; at night it throws headlights back."""
    toward = max(0.0, light.direction[2]) * rng.uniform(0.3, 1)
    lit = np.array(light.sun_rgb) * toward + np.array(light.sky_rgb) * 0.7 + np.array(light.ground_rgb) * 0.5
    back = rng.uniform(0, 0.7) if time == "night" else 0.0
    return (lit + back).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Panel:
    """A flat part of a vehicle in its own space (right, up, back in meters; the rear looks to the viewer)."""

    corners: np.ndarray
    color: np.ndarray
    glass: bool = False
    glow: float = 0.0


Panels = tuple[tuple[Panel, tuple[Panel, ...]], ...]
"""Panels, each with what lies on it: windows, lamps, wheels."""


@functools.lru_cache(maxsize=64)
def panels_of(vehicle: Vehicle) -> Panels:
    """The vehicle's panels, each with what lies on it (windows, lamps)."""
    profile = _PROFILES[vehicle.body]
    paint = np.array(vehicle.paint_rgb)
    roof = max(up for _, up in profile)
    belt = profile[_REAR_GLASS][1]

    def half(up: float) -> float:
        return 0.88 - 0.22 * np.clip((up - belt) / (roof - belt), 0, 1) - 0.05 * np.clip((0.5 - up) / 0.3, 0, 1)

    def across(first: tuple[float, float], second: tuple[float, float], inset: float = 1.0) -> np.ndarray:
        ends = ((first, -1), (first, 1), (second, 1), (second, -1))
        return np.array([[side * half(up) * inset, up, -forward] for (forward, up), side in ends])

    panels = []
    for index in range(len(profile) - 1):
        first, second = profile[index], profile[index + 1]
        on_top = []
        if index in (_REAR_GLASS, _FRONT_GLASS):
            low, high = (_between(first, second, 0.10), _between(first, second, 0.90))
            on_top.append(Panel(across(low, high, 0.88), np.full(3, 0.02), glass=True))
        panels.append(
            (
                Panel(across(first, second), paint if 0 < index < len(profile) - 2 else paint * 0.5),
                tuple(on_top + _lamps(index, first, second, half)),
            )
        )
    for side in (-1, 1):
        panels += _side_panels(profile, side, half, paint, belt)
    return tuple(panels)


def _between(first: tuple[float, float], second: tuple[float, float], share: float) -> tuple[float, float]:
    return first[0] + (second[0] - first[0]) * share, first[1] + (second[1] - first[1]) * share


def _lamps(
    index: int, first: tuple[float, float], second: tuple[float, float], half: Callable[[float], float]
) -> list[Panel]:
    """Tail lamps on the upper rear panel, headlamps on the upper front panel."""
    front = index == 7
    if index != 1 and not front:
        return []
    low, high = _between(first, second, 0.25), _between(first, second, 0.85)
    color = np.array([0.75, 0.75, 0.72]) if front else np.array([0.42, 0.01, 0.01])
    lamps = []
    for side in (-1, 1):
        inner, outer = side * half(low[1]) * 0.60, side * half(low[1]) * 0.97
        corners = np.array(
            [[inner, low[1], -low[0]], [outer, low[1], -low[0]], [outer, high[1], -high[0]], [inner, high[1], -high[0]]]
        )
        corners[:, 2] += -0.01 if front else 0.01
        lamps.append(Panel(corners, color, glow=1.6 if front else 0.8))
    return lamps


def _side_panels(
    profile: tuple[tuple[float, float], ...],
    side: int,
    half: Callable[[float], float],
    paint: np.ndarray,
    belt: float,
) -> list[tuple[Panel, tuple[Panel, ...]]]:
    lower = [point for point in profile if point[1] <= belt + 0.03]
    upper = profile[_REAR_GLASS : _FRONT_GLASS + 2]

    def place(points: Sequence[tuple[float, float]], out: float = 1.0) -> np.ndarray:
        return np.array([[side * half(up) * out, up, -forward] for forward, up in points])

    foot = (upper[0], upper[-1])
    glass = [
        _between(_between(*foot, s), top, t)
        for s, top, t in ((0.12, upper[1], 0.1), (0.12, upper[1], 0.86), (0.80, upper[2], 0.86), (0.92, upper[2], 0.1))
    ]
    wheels = [_wheel(side, forward, half) for forward in (profile[0][0] + 0.80, profile[-1][0] - 0.85)]
    return [
        (Panel(place(upper), paint), (Panel(place(glass, 1.002), np.full(3, 0.02), glass=True),)),
        (Panel(place(lower), paint), tuple(wheel for pair in wheels for wheel in pair)),
    ]


def _wheel(side: int, forward: float, half: Callable[[float], float]) -> tuple[Panel, ...]:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)

    def disc(radius: float) -> np.ndarray:
        out = np.full_like(angle, side * (half(0.6) + 0.01))
        return np.stack([out, 0.32 + radius * np.sin(angle), -forward + radius * np.cos(angle)], axis=1)

    return (
        Panel(disc(0.39), np.full(3, 0.006)),
        Panel(disc(0.32), np.full(3, 0.02)),
        Panel(disc(0.20), np.full(3, 0.25)),
    )


def plate_corners(vehicle: Vehicle, *, rear: bool) -> np.ndarray:
    """A plate's corners in the vehicle's space, ``(4, 3)`` in meters, clockwise from its own top left."""
    profile = _PROFILES[vehicle.body]
    width, height = (mm / 1000 for mm in load_styles()[vehicle.style].size_mm)
    up = vehicle.plate_up[0 if rear else 1]
    facing = 1 if rear else -1
    # Just outside the bumper's foremost point, so that the panel never covers it.
    out = (-min(f for f, _ in profile) if rear else max(f for f, _ in profile)) + 0.02
    left, right = -facing * width / 2, facing * width / 2
    tops = [(left, up + height / 2), (right, up + height / 2), (right, up - height / 2), (left, up - height / 2)]
    return np.array([[x, y, facing * out] for x, y in tops])

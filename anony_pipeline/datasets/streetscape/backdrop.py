"""What stands behind people and vehicles: sky, rows of houses with signs and posters, road and pavement."""

from dataclasses import dataclass

import cv2
import numpy as np

from anony_pipeline.datasets.streetscape.camera import Time
from anony_pipeline.datasets.streetscape.skin import noise
from anony_pipeline.datasets.streetscape.surfaces import Light

_WORDS = (
    "CAFE", "HOTEL", "PIZZA", "BAKERY", "24H", "SALE -50%", "OPEN", "BANK", "TAXI", "MARKET", "BOOKS", "BAR 54",
    "P 120", "METRO", "KIOSK", "TEL 0800 123", "SHOES", "ZONE 30", "LOTTO", "BUS 47", "FLOWERS", "EXIT 12",
)  # fmt: skip
_WALL_PX = (256, 1024)
_WALL_LENGTH_M, NEAREST_M = 64.0, 0.8


@dataclass(frozen=True)
class Eye:
    """A pinhole camera that looks along the street.

    Attributes:
        size_wh: The image in pixels.
        focal_px: In pixels.
        up: Height above the ground in meters.
        horizon_px: The image row of the horizon.
    """

    size_wh: tuple[int, int] = (640, 480)
    focal_px: float = 520.0
    up: float = 1.6
    horizon_px: float = 225.0

    def project(self, points: np.ndarray) -> np.ndarray:
        """Take ``(..., 3)`` points in meters to ``(..., 2)`` pixels."""
        depth = np.maximum(points[..., 2], 1e-3)
        x = self.size_wh[0] / 2 + self.focal_px * points[..., 0] / depth
        y = self.horizon_px - self.focal_px * (points[..., 1] - self.up) / depth
        return np.stack([x, y], axis=-1)


def draw_backdrop(eye: Eye, light: Light, time: Time, rng: np.random.Generator, along: float) -> np.ndarray:
    """Draw an empty street, ``(H, W, 3)`` linear float32.

    Args:
        eye: From where it is seen.
        light: Where light comes from.
        time: At night windows shine.
        rng: Seeded by the street: frames of one sequence see the same houses.
        along: How far along the street the camera stands, in meters.
    """
    canvas = _sky(eye, time, rng)
    half_road = rng.uniform(3.2, 5.0)
    half_street = half_road + rng.uniform(2.0, 4.5)
    _ground(canvas, eye, light, rng, (half_road, along))
    end = rng.uniform(45, 110)
    walls = [(-1, rng.uniform(7, 18)), (1, rng.uniform(7, 18)), (0, rng.uniform(7, 16))]
    for side, tall in sorted(walls, key=lambda wall: abs(wall[0])):
        facade = _facade(rng, time)
        if side == 0:
            corners = np.array(
                [[-half_street, tall, end], [half_street, tall, end], [half_street, 0, end], [-half_street, 0, end]]
            )
            corners[:, 2] = max(20.0, end - along)
            shade = 0.7
        else:
            x = side * half_street
            corners = np.array(
                [[x, tall, NEAREST_M], [x, tall, NEAREST_M + 100], [x, 0, NEAREST_M + 100], [x, 0, NEAREST_M]]
            )
            shade = 0.55 + 0.9 * max(0.0, -side * light.direction[0])
        if side == 1:
            # The right wall is seen from its other side: mirrored first, its writing comes out right.
            facade = facade[:, ::-1]
        if side != 0:
            facade = _shifted(facade, along + NEAREST_M, 100.0)
        _warp(canvas, facade, eye.project(corners), _wall_light(light, shade))
    if time != "day":
        _lamps(canvas, eye, half_road, along)
    return canvas


def _wall_light(light: Light, shade: float) -> np.ndarray:
    return np.array(light.sky_rgb) * 0.75 + np.array(light.sun_rgb) * 0.45 * shade + np.array(light.ground_rgb) * 0.3


def _sky(eye: Eye, time: Time, rng: np.random.Generator) -> np.ndarray:
    width, height = eye.size_wh[0], min(eye.size_wh[1], int(np.ceil(eye.horizon_px)) + 2)
    clouds = np.clip(
        0.35 + 0.35 * noise(rng, (6, 5), (height, width)) + 0.2 * noise(rng, (18, 14), (height, width)), 0, 1
    )
    fall = np.clip(np.arange(height) / max(eye.horizon_px, 1), 0, 1)[:, None]
    top, low, cloud = {
        "day": ((0.16, 0.33, 0.68), (0.55, 0.68, 0.85), (0.85, 0.87, 0.9)),
        "dusk": ((0.05, 0.07, 0.18), (0.62, 0.30, 0.14), (0.25, 0.16, 0.18)),
        "night": ((0.002, 0.003, 0.008), (0.016, 0.015, 0.018), (0.012, 0.011, 0.012)),
    }[time]
    blue = np.array(top) * (1 - fall[..., None]) + np.array(low) * fall[..., None]
    canvas = np.empty((eye.size_wh[1], width, 3), np.float32)
    canvas[:height] = blue + (np.array(cloud) - blue) * clouds[..., None] * 0.8
    canvas[height:] = low
    return canvas


def _ground(canvas: np.ndarray, eye: Eye, light: Light, rng: np.random.Generator, street: tuple[float, float]) -> None:
    """Road, markings and pavement, computed for each pixel below the horizon."""
    half_road, along = street
    height, width = canvas.shape[:2]
    first = int(np.clip(np.ceil(eye.horizon_px + 1), 0, height))
    rows = np.arange(first, height, dtype=np.float32)[:, None] + 0.5
    depth = eye.focal_px * eye.up / (rows - eye.horizon_px)
    x = (np.arange(width, dtype=np.float32)[None] + 0.5 - width / 2) * depth / eye.focal_px
    z = depth + along + 0 * x
    side = np.abs(x)
    lit = np.array(light.sky_rgb) * 0.9 + np.array(light.sun_rgb) * max(0.1, light.direction[1]) * 0.8
    gray = rng.uniform(0.05, 0.12)
    albedo = np.full(x.shape, gray, np.float32)
    grain = noise(rng, (128, 128), (512, 512))
    texture = cv2.remap(
        grain, np.mod(x * 40, 511).astype(np.float32), np.mod(z * 40, 511).astype(np.float32), cv2.INTER_LINEAR
    )
    albedo *= 1 + 0.16 * texture * np.clip(6 / depth, 0, 1)
    dash = (np.abs(x) < 0.07) & (np.mod(z, 6) < 3)
    crossing = (np.abs(np.mod(z, 40) - 20) < 1.6) & (np.mod(x, 1.0) < 0.5) & (side < half_road - 0.3)
    albedo[dash | crossing] = 0.45
    pavement = side > half_road
    slabs = ((np.mod(x, 0.8) < 0.03) | (np.mod(z, 0.8) < 0.04)) & (depth < 25)
    tone = rng.uniform(0.16, 0.3)
    albedo = np.where(pavement, tone * (1 + 0.1 * texture) * np.where(slabs, 0.7, 1.0), albedo)
    albedo = np.where((side > half_road - 0.12) & ~pavement, 0.32, albedo)
    canvas[first:] = albedo[..., None] * lit.astype(np.float32)


def _facade(rng: np.random.Generator, time: Time) -> np.ndarray:
    """A row of houses as a linear picture, ``(256, 1024, 4)`` with alpha; lit windows exceed 1."""
    height, width = _WALL_PX
    wall = np.zeros((height, width, 4), np.float32)
    x = 0
    while x < width:
        wide = int(rng.integers(90, 240))
        _house(wall[:, x : x + wide], rng, time)
        x += wide
    return wall


def _house(part: np.ndarray, rng: np.random.Generator, time: Time) -> None:
    height, width = part.shape[:2]
    top = int(rng.integers(0, 70))
    color = rng.uniform(0.10, 0.6) * (0.75 + 0.5 * rng.random(3)) ** 1.2
    body = part[top:]
    body[..., :3] = color
    body[..., :3] *= 1 + 0.08 * noise(rng, (20, 16), body.shape[:2])[..., None]
    body[..., 3] = 1
    body[:4, :, :3] *= 0.5
    ground_floor = height - 62
    step_x, step_y = int(rng.integers(22, 36)), int(rng.integers(34, 50))
    for y in range(top + 14, ground_floor - 22, step_y):
        for x in range(8, width - 16, step_x):
            lit = rng.random() < {"day": 0.0, "dusk": 0.35, "night": 0.45}[time]
            pane = np.array([1.6, 1.15, 0.6]) * rng.uniform(0.5, 2.0) if lit else rng.uniform(0.02, 0.12) * np.ones(3)
            part[y - 1 : y + 25, x - 1 : x + 15, :3] *= 0.6
            part[y : y + 24, x : x + 14, :3] = pane
            part[y : y + 24, x + 6 : x + 8, :3] = color * 0.8
    _shop(part[ground_floor:], rng, time)


def _shop(part: np.ndarray, rng: np.random.Generator, time: Time) -> None:
    """A shop window with a sign and posters: text that is no plate."""
    width = part.shape[1]
    glass = (
        rng.uniform(0.03, 0.10) * np.ones(3)
        if time == "day" or rng.random() < 0.4
        else np.array([1.3, 1.1, 0.8]) * rng.uniform(0.3, 1)
    )
    part[18:-8, 6:-6, :3] = glass
    back, ink = rng.uniform(0.02, 0.7, 3), rng.uniform(0, 1, 3)
    if abs(back.mean() - ink.mean()) < 0.3:
        ink = np.where(back > 0.35, 0.02, 0.9)
    part[2:17, 4:-4, :3] = back
    sign = np.ascontiguousarray(part[..., :3])
    text = " ".join(str(word) for word in rng.choice(_WORDS, 2))
    _write(sign, text, (8, 14), 0.42, ink)
    for x in range(12, width - 30, int(rng.integers(36, 80))):
        if rng.random() < 0.5:
            paper, dark = rng.uniform(0.2, 0.8, 3).tolist(), rng.uniform(0, 0.2, 3).tolist()
            cv2.rectangle(sign, (x, 24), (x + 22, 50), paper, -1)
            if rng.random() < 0.4:
                # A drawn face: a hard negative.
                cv2.circle(sign, (x + 11, 34), 7, dark, 1)
                cv2.circle(sign, (x + 8, 32), 1, dark, -1)
                cv2.circle(sign, (x + 14, 32), 1, dark, -1)
                cv2.ellipse(sign, (x + 11, 36), (4, 3), 0, 0, 180, dark, 1)
            else:
                _write(sign, str(rng.integers(10, 999)), (x + 1, 40), 0.3, np.array(dark))
    part[..., :3] = sign


def _write(picture: np.ndarray, text: str, at_xy: tuple[int, int], scale: float, ink: np.ndarray) -> None:
    """Write text on a linear picture, in place; OpenCV 5 writes on 8-bit pictures alone."""
    cover = np.zeros(picture.shape[:2], np.uint8)
    cv2.putText(cover, text, at_xy, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
    picture += (ink.astype(np.float32) - picture) * (cover[..., None] / np.float32(255))


def _shifted(facade: np.ndarray, start_m: float, length_m: float) -> np.ndarray:
    """The stretch of an endless repetition of a facade that begins at ``start_m`` and is ``length_m`` long."""
    width = facade.shape[1]
    columns = (start_m + np.linspace(0, length_m, round(width * length_m / _WALL_LENGTH_M))) / _WALL_LENGTH_M * width
    return facade[:, np.mod(columns.astype(int), width)]


def _warp(canvas: np.ndarray, texture: np.ndarray, quad: np.ndarray, lit: np.ndarray) -> None:
    """Put a wall onto the canvas, in place: drawn at twice the size where it is seen, then averaged."""
    height, width = texture.shape[:2]
    low = np.clip(np.floor(quad.min(axis=0)), 0, canvas.shape[1::-1]).astype(int)
    high = np.clip(np.ceil(quad.max(axis=0)), 0, canvas.shape[1::-1]).astype(int)
    if (high - low).min() < 1:
        return
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, ((quad - low) * 2).astype(np.float32))
    layer = cv2.warpPerspective(texture, matrix, tuple(((high - low) * 2).tolist()), flags=cv2.INTER_LINEAR)
    layer = cv2.resize(layer, tuple((high - low).tolist()), interpolation=cv2.INTER_AREA)
    alpha = layer[..., 3:]
    color = layer[..., :3] / np.maximum(alpha, np.float32(1e-6))
    # Values above 1 are lit windows: they shine by themselves.
    light = np.where(color > 1, np.float32(0.35), lit.astype(np.float32))
    part = canvas[low[1] : high[1], low[0] : high[0]]
    part += (color * light - part) * alpha


def _lamps(canvas: np.ndarray, eye: Eye, half_road: float, along: float) -> None:
    """Street lamps with their glow."""
    glow = np.zeros_like(canvas)
    for side in (-1, 1):
        for place in np.arange(8, 90, 16) - np.mod(along, 16):
            if place < 2:
                continue
            x, y = eye.project(np.array([side * (half_road + 0.6), 5.2, place]))
            radius = max(1, round(eye.focal_px * 0.12 / place))
            cv2.circle(glow, (round(float(x)), round(float(y))), radius, (2.6, 2.0, 1.2), -1)
    soft = cv2.GaussianBlur(cv2.resize(glow, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), (0, 0), 5)
    canvas += glow + 1.6 * cv2.resize(soft, canvas.shape[1::-1])

"""Cameras and weather: where light comes from at which time of day, and what a lens, a sensor and JPEG do to it."""

import functools
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from scipy.special import ndtri

from anony_pipeline.datasets.streetscape.surfaces import Light

Family = Literal["base", "demo"]
Time = Literal["day", "dusk", "night"]
TIMES: tuple[Time, ...] = ("day", "dusk", "night")
# The demo's data are darker and noisier than what base models saw, and gray by night.
TIME_SHARES: dict[str, tuple[float, float, float]] = {"base": (0.62, 0.22, 0.16), "demo": (0.34, 0.26, 0.40)}
INFRARED = np.array([[0.6, 0.25, 0.15]])
"""Of red, green and blue in a gray night picture. What is red is bright in the infrared, too."""


@dataclass(frozen=True)
class Camera:
    """What happens to light on its way into the file.

    Attributes:
        exposure: Factor on linear light.
        white_rgb: White balance, a factor a channel.
        blur_px: Standard deviation of the lens's blur.
        motion_px: Length of the smear while the shutter is open.
        motion_degrees: Its direction.
        noise: Standard deviation of the sensor's noise at middle gray, over full scale.
        vignette: How much darker the corners are, in ``[0, 1]``.
        contrast: Slope about middle gray.
        jpeg_quality: In ``[1, 100]``.
        infrared: Without the filter that keeps infrared out, as at night: a gray picture.
    """

    exposure: float = 1.0
    white_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur_px: float = 0.0
    motion_px: float = 0.0
    motion_degrees: float = 0.0
    noise: float = 0.0
    vignette: float = 0.0
    contrast: float = 1.0
    jpeg_quality: int = 95
    infrared: bool = False


def sample_time(rng: np.random.Generator, family: Family) -> Time:
    """Draw a time of day by the family's shares."""
    return TIMES[int(rng.choice(3, p=TIME_SHARES[family]))]


def sample_light(rng: np.random.Generator, time: Time) -> Light:
    """Draw where light comes from: the sun or an overcast sky, a low sun, or lamps at night."""
    azimuth = rng.uniform(-1.9, 1.9)
    height = {"day": rng.uniform(0.35, 1.2), "dusk": rng.uniform(0.05, 0.4), "night": rng.uniform(-0.1, 1.2)}[time]
    direction = (
        float(np.sin(azimuth) * np.cos(height)),
        float(np.sin(height)),
        float(np.cos(azimuth) * np.cos(height)),
    )
    if time == "day":
        overcast = rng.uniform(0, 1) ** 0.7
        sun, sky = 1.5 - 1.1 * overcast, 0.36 + 0.30 * overcast
        tint, ambient = np.array([1.0, 0.95, 0.87]), np.array([0.88, 0.96, 1.1])
    elif time == "dusk":
        sun, sky = rng.uniform(0.3, 0.9), rng.uniform(0.18, 0.34)
        tint, ambient = np.array([1.15, 0.80, 0.52]), np.array([0.82, 0.90, 1.2])
    else:
        sun, sky = rng.uniform(0.25, 0.75), rng.uniform(0.06, 0.16)
        lamp = rng.uniform(0, 1)
        tint = np.array([1.15, 0.86, 0.52]) * (1 - lamp) + np.array([0.92, 0.98, 1.1]) * lamp
        ambient = np.array([0.9, 0.95, 1.1])
    ground = ambient * sky * 0.45 + tint * sun * 0.08
    return Light(direction, tuple((tint * sun).tolist()), tuple((ambient * sky).tolist()), tuple(ground.tolist()))


def sample_camera(rng: np.random.Generator, family: Family, time: Time, size_px: float) -> Camera:
    """Draw a camera.

    Args:
        rng: The source of chance.
        family: ``base`` cameras are cleaner; ``demo`` ones noisier, with a cooler white and stronger compression,
            and without an infrared filter by night.
        time: At night exposures are longer: more noise, more motion.
        size_px: The edge of the picture: blur grows with it.
    """
    dark = {"day": 0.0, "dusk": 0.45, "night": 1.0}[time]
    demo = family == "demo"
    gain = {"day": 1.0, "dusk": 1.35, "night": 1.9}[time]
    cast = rng.normal(0, 0.05, 3) + ((-0.07, 0.0, 0.08) if demo else (0.02, 0.0, -0.02))
    moving = rng.random() < 0.18 + 0.2 * dark
    return Camera(
        exposure=float(gain * np.exp(rng.normal(0.08, 0.22))),
        white_rgb=tuple(np.exp(cast).tolist()),
        blur_px=float(min(rng.gamma(1.6, 0.26 + 0.10 * demo), 1.5) * max(1.0, size_px / 384)),
        motion_px=float(moving * rng.uniform(1, 3.0 + 1.5 * dark) * max(1.0, size_px / 384)),
        motion_degrees=float(rng.normal(0, 25)),
        noise=float(rng.uniform(0.004, 0.016) * (1 + 1.5 * dark) * (1.6 if demo else 1.0)),
        vignette=float(rng.uniform(0, 0.35 if demo else 0.2)),
        contrast=float(rng.uniform(0.9, 1.12)),
        jpeg_quality=int(rng.integers(48, 86) if demo else rng.integers(68, 97)),
        infrared=demo and time == "night",
    )


def develop(linear_rgb: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Turn linear light into the picture that the camera gives, before its file is compressed.

    Args:
        linear_rgb: ``(H, W, 3)`` float32, linear.
        camera: What it does.
        rng: For the sensor's noise.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    light: np.ndarray = linear_rgb.astype(np.float32)
    if camera.blur_px > 0.25:
        light = cv2.GaussianBlur(light, (0, 0), camera.blur_px)
    if camera.motion_px > 1:
        light = cv2.filter2D(light, -1, _motion_kernel(camera.motion_px, camera.motion_degrees))
    light = cv2.multiply(light, np.array([*camera.white_rgb, 0]) * camera.exposure)
    if camera.infrared:
        light = cv2.merge([cv2.transform(light, INFRARED)] * 3)
    if camera.vignette:
        light = cv2.multiply(light, cv2.merge([_vignette(light.shape[:2], camera.vignette)] * 3))
    picture = encode(light)
    if camera.contrast != 1:
        picture *= np.float32(camera.contrast)
        picture += np.float32(0.45 * (1 - camera.contrast))
    if camera.noise:
        # Photons come by chance: noise grows toward the shadows once gamma has spread them.
        grain = _normal(rng, picture.shape)
        shared = 1.0 if camera.infrared else 0.4
        grain = cv2.addWeighted(grain, 1 - shared, cv2.merge([cv2.extractChannel(grain, 0)] * 3), shared, 0)
        strength = np.clip(picture, 0, 1)
        strength *= np.float32(-camera.noise)
        strength += np.float32(1.5 * camera.noise)
        grain *= strength
        picture += grain
    picture *= 255
    picture += np.float32(0.5)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, float32, of 65,536 different values: a fourth of the time of exact ones."""
    return _normal_values().take(rng.integers(0, 1 << 16, shape, dtype=np.uint16))


@functools.cache
def _normal_values() -> np.ndarray:
    return ndtri((np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float32)


def encode(linear_rgb: np.ndarray) -> np.ndarray:
    """Turn linear colors to display values in ``[0, 1]``: highlights roll off, then gamma 2.2."""
    light = np.maximum(linear_rgb, 0)
    # In place, as new arrays of a picture's size cost as much as the arithmetic.
    below = light * 0.55
    below += 1
    shown = light * 0.25
    shown += 1
    shown *= light
    shown /= below
    np.minimum(shown, 1, out=shown)
    shown **= np.float32(1 / 2.2)
    return shown


def decode(display_rgb: np.ndarray) -> np.ndarray:
    """Turn uint8 display colors to linear float32 ones, about the inverse of `encode` below the highlights."""
    return (display_rgb.astype(np.float32) / 255) ** np.float32(2.2)


def compress(image_rgb: np.ndarray, quality: int) -> np.ndarray:
    """What remains of an ``(H, W, 3)`` uint8 image after JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def photograph(linear_rgb: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """`develop`, then `compress`."""
    return compress(develop(linear_rgb, camera, rng), camera.jpeg_quality)


def _motion_kernel(length_px: float, degrees: float) -> np.ndarray:
    size = int(np.ceil(length_px)) | 1
    kernel = np.zeros((size, size), np.float32)
    middle, reach = size // 2, length_px / 2
    end = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]) * reach
    points = [tuple(int(v) for v in np.rint((middle + sign * end) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, points[0], points[1], 1.0, 1, cv2.LINE_AA, 4)
    return kernel / max(kernel.sum(), 1e-6)


def _vignette(size_hw: tuple[int, int], strength: float) -> np.ndarray:
    height, width = size_hw
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return 1 - np.float32(strength) * (x * x + y * y) / 2

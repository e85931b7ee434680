"""Pictures of people: single heads to composite, and photographed crops to fit judges on."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anony_pipeline.datasets.streetscape import camera as cameras
from anony_pipeline.datasets.streetscape.camera import Family, Time
from anony_pipeline.datasets.streetscape.heads import Expression, Pose, build_head, draw_head
from anony_pipeline.datasets.streetscape.identity import Person, sample_person
from anony_pipeline.datasets.streetscape.skin import noise
from anony_pipeline.datasets.streetscape.surfaces import Light, View, fineness
from anony_pipeline.datasets.streetscape.wear import Wear, sample_wear

__all__ = [
    "FaceCrop",
    "Person",
    "Shot",
    "photograph",
    "render_face_crop",
    "render_head",
    "sample_expression",
    "sample_person",
    "sample_pose",
    "sample_shot",
]


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A photographed face.

    Attributes:
        image: ``(S, S, 3)`` uint8 RGB.
        box_xyxy: ``(4,)`` float32, tightly about the face, in pixels; cut to the image.
        landmarks: ``(5, 2)`` float32: eyes, nose tip, mouth corners; the viewer's left first.
        attributes: What is known by construction, as JSON values: of person, pose, what is worn, light and camera.
    """

    image: np.ndarray
    box_xyxy: np.ndarray
    landmarks: np.ndarray
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Shot:
    """How somebody is photographed.

    Attributes:
        family: Of cameras.
        time: Of day.
        light: Where it comes from.
        pose: How the head is turned.
        expression: What the face does.
        wear: Glasses, hat, mask and clothes.
        size: The crop's edge in px.
        drawn_size: That of the picture which is enlarged to it.
        scale: Half a head's height, in px of that picture.
        center: Where the head's middle lies there, in px.
    """

    family: Family
    time: Time
    light: Light
    pose: Pose
    expression: Expression
    wear: Wear
    size: int
    drawn_size: int
    scale: float
    center: tuple[float, float]


def sample_pose(rng: np.random.Generator, spread: float = 1.0) -> Pose:
    """Draw how a head is turned: mostly half toward the viewer, at times to profile."""
    yaw = rng.normal(0, 26 * spread) if rng.random() < 0.82 else rng.uniform(-88, 88)
    return Pose(
        float(np.clip(yaw, -95, 95)),
        float(np.clip(rng.normal(-1, 9 * spread), -32, 32)),
        float(rng.normal(0, 6 * spread)),
    )


def sample_expression(rng: np.random.Generator) -> Expression:
    """Draw what a face does."""
    return Expression(
        mouth_open=float(rng.beta(1.0, 2.2)) if rng.random() < 0.3 else 0.0,
        smile=float(rng.beta(1.5, 1.5)) if rng.random() < 0.45 else 0.0,
        eyes_open=float(rng.uniform(0.05, 0.35))
        if rng.random() < 0.06
        else float(np.clip(rng.normal(0.95, 0.13), 0.5, 1.2)),
        gaze=(float(np.clip(rng.normal(0, 0.45), -1, 1)), float(np.clip(rng.normal(0, 0.3), -1, 1))),
    )


def render_head(
    person: Person,
    pose: Pose,
    light: Light,
    size: int,
    *,
    expression: Expression | None = None,
    wear: Wear | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a head alone, to be composited.

    Args:
        person: Who.
        pose: How the head is turned.
        light: Where light comes from.
        size: The canvas's edge in px; the head's height is 0.62 of it, which leaves room for hair and hat.
        expression: What the face does; at rest if None.
        wear: Glasses, hat and mask; nothing if None.

    Returns:
        ``(S, S, 3)`` uint8 RGB, ``(S, S)`` float32 alpha in ``[0, 1]``, ``(5, 2)`` landmarks and the ``(4,)`` xyxy box.
    """
    rng = np.random.default_rng(person.seed)
    head = build_head(person, expression or Expression(), wear or Wear(), rng, body=None)
    view = View((size, size), size * 0.31, (size / 2, size * 0.53), supersample=fineness(size * 0.31))
    drawn = draw_head(head, pose, light, view)
    linear = cv2.divide(drawn.raster.rgb, cv2.merge([np.maximum(drawn.raster.alpha, 1e-6)] * 3))
    image = np.clip(cameras.encode(linear) * 255 + 0.5, 0, 255).astype(np.uint8)
    return image, drawn.raster.alpha, drawn.landmarks.astype(np.float32), drawn.box_xyxy.astype(np.float32)


def sample_shot(rng: np.random.Generator, size: int = 128, *, family: Family = "base") -> Shot:
    """Draw how somebody is met by some camera: any pose, light, expression and covering.

    Args:
        rng: Everything comes from here.
        size: The crop's edge in px. The face's box takes about half of it.
        family: Which cameras and times of day.
    """
    time = cameras.sample_time(rng, family)
    light = cameras.sample_light(rng, time)
    pose, expression, wear = sample_pose(rng), sample_expression(rng), sample_wear(rng)
    shrink = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.35 else 1.0
    drawn_size = max(24, round(size * shrink))
    scale = float(drawn_size * rng.uniform(0.235, 0.33))
    center = float(drawn_size * (0.5 + rng.normal(0, 0.03))), float(drawn_size * (0.47 + rng.normal(0, 0.03)))
    return Shot(family, time, light, pose, expression, wear, size, drawn_size, scale, center)


def photograph(person: Person, shot: Shot, rng: np.random.Generator) -> FaceCrop:
    """Take a person's picture.

    Args:
        person: Who.
        shot: How.
        rng: Clothes' folds, what is behind, and the camera come from here: equal ones make equal surroundings, whoever
            is in front of them.

    Returns:
        The crop with its truth.
    """
    size, drawn_size, pose = shot.size, shot.drawn_size, shot.pose
    head = build_head(person, shot.expression, shot.wear, rng)
    view = View((drawn_size, drawn_size), shot.scale, shot.center, float(rng.uniform(6, 20)), fineness(shot.scale))
    drawn = draw_head(head, pose, shot.light, view, body_yaw=pose.yaw * rng.uniform(0, 0.7))
    scene = drawn.raster.over(background(rng, shot.light, drawn_size))
    camera = cameras.sample_camera(rng, shot.family, shot.time, drawn_size)
    image = cameras.photograph(scene, camera, rng)
    if drawn_size != size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    zoom = size / drawn_size
    return FaceCrop(
        image=image,
        box_xyxy=np.clip(drawn.box_xyxy * zoom, 0, size).astype(np.float32),
        landmarks=(drawn.landmarks * zoom).astype(np.float32),
        attributes={
            **person.attributes(),
            **view_attributes(pose, shot.expression, shot.wear),
            "time": shot.time,
            "light": [round(value, 3) for value in shot.light.direction],
            "blur": round(float(np.hypot(camera.blur_px, camera.motion_px / 3.5)) * zoom + 0.5 * (zoom - 1), 3),
            "noise": round(camera.noise, 4),
            "jpeg_quality": camera.jpeg_quality,
            "shrink": round(drawn_size / size, 3),
        },
    )


def render_face_crop(person: Person, rng: np.random.Generator, size: int = 128, *, family: Family = "base") -> FaceCrop:
    """Photograph a person as some camera would meet it: any pose, light, expression, covering, background and quality.

    Args:
        person: Who.
        rng: Everything but the person comes from here.
        size: The crop's edge in px. The face's box takes about half of it.
        family: Which cameras and times of day.

    Returns:
        The crop with its truth.
    """
    return photograph(person, sample_shot(rng, size, family=family), rng)


def view_attributes(pose: Pose, expression: Expression, wear: Wear) -> dict[str, Any]:
    """What is known of one photograph by construction, as JSON values; angles in degrees."""
    return {
        "yaw": round(pose.yaw, 1),
        "pitch": round(pose.pitch, 1),
        "roll": round(pose.roll, 1),
        "mouth_open": round(expression.mouth_open, 3),
        "smile": round(expression.smile, 3),
        "eyes_open": round(expression.eyes_open, 3),
        "glasses": wear.glasses,
        "hat": wear.hat,
        "mask": wear.mask,
    }


def background(rng: np.random.Generator, light: Light, size: int) -> np.ndarray:
    """Something out of focus behind a head, ``(size, size, 3)`` linear: walls, windows, lamps, foliage."""
    colors = (rng.uniform(0.03, 0.6, 2)[:, None] * (0.8 + 0.4 * rng.random((2, 3)))).astype(np.float32)
    share = np.clip(0.5 + 0.45 * noise(rng, (3, 3), (size, size)), 0, 1)
    # Plane after plane: NumPy is slow along the three colors of a pixel.
    picture = colors[1][:, None, None] + (colors[0] - colors[1])[:, None, None] * share
    picture *= np.clip(1 + 0.3 * noise(rng, (14, 14), (size, size)), 0.2, 2)
    for _ in range(int(rng.integers(0, 6))):
        corner, extent = rng.integers(-size // 4, size, 2), rng.integers(size // 12, size, 2)
        color = rng.uniform(0.01, 0.8) * (0.7 + 0.6 * rng.random(3))
        (left, top), (right, bottom) = np.maximum(corner, 0).tolist(), np.maximum(corner + extent, 0).tolist()
        picture[:, top:bottom, left:right] = color[:, None, None]
    picture *= (np.array(light.sky_rgb) * 0.9 + np.array(light.sun_rgb) * 0.35).astype(np.float32)[:, None, None]
    return cv2.GaussianBlur(cv2.merge(list(picture)), (0, 0), float(rng.uniform(0.4, 3.5)) * size / 128)

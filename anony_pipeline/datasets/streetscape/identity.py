"""Who somebody is: the parameters of a face that stay over all photographs."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from anony_pipeline.runtime.seeding import numpy_generator

HAIR_COLORS = {
    "black": (0.018, 0.015, 0.014),
    "dark_brown": (0.055, 0.034, 0.022),
    "brown": (0.13, 0.075, 0.042),
    "light_brown": (0.25, 0.155, 0.085),
    "blond": (0.50, 0.36, 0.18),
    "red": (0.30, 0.09, 0.03),
    "gray": (0.33, 0.33, 0.34),
    "white": (0.68, 0.67, 0.65),
    "dyed": (0.20, 0.05, 0.22),
}
EYE_COLORS = {
    "brown": (0.09, 0.045, 0.02),
    "dark": (0.03, 0.018, 0.012),
    "hazel": (0.17, 0.12, 0.05),
    "green": (0.13, 0.19, 0.10),
    "blue": (0.14, 0.24, 0.38),
    "gray": (0.24, 0.28, 0.32),
}
HAIR_STYLES = ("bald", "buzz", "short", "parted", "quiff", "afro", "curly", "bob", "long", "wavy", "bun", "receding")
BEARDS = ("none", "stubble", "moustache", "goatee", "full", "long")
# Measured skin reflectance spans about this range; linear RGB from the lightest to the darkest.
SKIN_RAMP = np.array(
    [
        [0.82, 0.60, 0.49],
        [0.70, 0.46, 0.34],
        [0.55, 0.33, 0.22],
        [0.38, 0.21, 0.125],
        [0.22, 0.115, 0.068],
        [0.10, 0.052, 0.034],
    ]
)


@dataclass(frozen=True)
class Person:
    """One made-up person: everything about the head that no photograph changes.

    Numbers without a unit are standard scores in about ``[-2.3, 2.3]`` about the average head.

    Attributes:
        seed: Names the person; equal seeds are equal people.
        shape: Standard scores by the names in `SHAPES`.
        skin_tone: 0 the lightest, 1 the darkest.
        undertone: Yellow (negative) or pink.
        age: In years.
        freckles: Their density in ``[0, 1]``.
        moles: ``(x, y, radius)`` each, in units of half a head's height.
        eye_color: A key of `EYE_COLORS`.
        hair_color: A key of `HAIR_COLORS`.
        hair_style: One of `HAIR_STYLES`.
        part_side: On which side (-1 or 1) hair is parted.
        beard: One of `BEARDS`.
    """

    seed: int
    shape: tuple[float, ...]
    skin_tone: float
    undertone: float
    age: float
    freckles: float
    moles: tuple[tuple[float, float, float], ...]
    eye_color: str
    hair_color: str
    hair_style: str
    part_side: int
    beard: str

    def score(self, name: str) -> float:
        """The standard score of one of `SHAPES`."""
        return self.shape[_SHAPE_INDEX[name]]

    @property
    def skin_rgb(self) -> np.ndarray:
        """The skin's mean linear color, ``(3,)``."""
        place = self.skin_tone * (len(SKIN_RAMP) - 1)
        color = np.array([np.interp(place, np.arange(len(SKIN_RAMP)), SKIN_RAMP[:, c]) for c in range(3)])
        return color * (1 + 0.07 * self.undertone * np.array([0.6, -0.3, 0.9]))

    @property
    def hair_rgb(self) -> np.ndarray:
        """The hair's mean linear color, ``(3,)``."""
        return np.array(HAIR_COLORS[self.hair_color]) * (1 + 0.2 * self.score("hair_shade"))

    @property
    def name(self) -> str:
        """What the ground truth calls the person."""
        return f"person-{self.seed:07d}"

    def attributes(self) -> dict[str, Any]:
        """What is known of the person by construction, as JSON values."""
        return {
            "skin_tone": round(self.skin_tone, 4),
            "age": round(self.age, 1),
            "hair_style": self.hair_style,
            "hair_color": self.hair_color,
            "eye_color": self.eye_color,
            "beard": self.beard,
        }


SHAPES = (
    "skull_width", "skull_height", "skull_depth", "forehead", "temple", "cheekbone", "cheek_fullness",
    "jaw_width", "jaw_angle", "chin_length", "chin_width", "chin_forward", "brow_ridge", "nose_length",
    "nose_width", "nose_height", "nose_bridge", "nose_hook", "nose_tip", "nose_tilt", "nose_nostril",
    "eye_size", "eye_open", "eye_spacing", "eye_tilt", "eye_depth", "eye_height", "eye_crease",
    "brow_thickness", "brow_arch", "brow_height", "brow_tilt", "brow_length", "brow_shade", "lip_upper",
    "lip_lower", "mouth_width", "mouth_height", "mouth_curve", "lip_color", "philtrum", "ear_size", "ear_angle",
    "neck_width", "hair_volume", "hair_line", "hair_length", "hair_wave", "hair_shade", "asymmetry", "redness",
    "gloss",
)  # fmt: skip
_SHAPE_INDEX = {name: index for index, name in enumerate(SHAPES)}


@functools.lru_cache(maxsize=4096)
def sample_person(seed: int) -> Person:
    """Draw a person; the same seed gives the same one.

    Args:
        seed: Any whole number from 0; it is also the person's name.
    """
    rng = numpy_generator(seed, "person")
    shape = np.clip(rng.normal(size=len(SHAPES)), -2.3, 2.3)
    skin_tone = float(rng.beta(1.0, 1.15))
    age = float(np.clip(16 + rng.gamma(2.4, 10.5), 16, 88))
    bearded = rng.random() < 0.38
    beard = str(rng.choice(BEARDS[1:], p=[0.34, 0.14, 0.16, 0.26, 0.10])) if bearded else "none"
    moles = tuple(
        (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.8, 0.45)), float(rng.uniform(0.012, 0.032)))
        for _ in range(rng.poisson(1.3))
    )
    return Person(
        seed=seed,
        shape=tuple(shape.tolist()),
        skin_tone=skin_tone,
        undertone=float(np.clip(rng.normal(), -2, 2)),
        age=age,
        freckles=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.22 * (1 - skin_tone) + 0.02 else 0.0,
        moles=moles,
        eye_color=_draw_eye_color(skin_tone, rng),
        hair_color=_draw_hair_color(skin_tone, age, rng),
        hair_style=_draw_hair_style(bearded, age, rng),
        part_side=int(rng.choice([-1, 1])),
        beard=beard,
    )


def _draw_eye_color(skin_tone: float, rng: np.random.Generator) -> str:
    if rng.random() < min(1.0, skin_tone * 1.5):
        return str(rng.choice(["brown", "dark"]))
    return str(rng.choice(["brown", "hazel", "green", "blue", "gray"]))


def _draw_hair_color(skin_tone: float, age: float, rng: np.random.Generator) -> str:
    if rng.random() < np.clip((age - 38) / 35, 0, 0.9):
        return str(rng.choice(["gray", "white"]))
    if rng.random() < 0.05:
        return "dyed"
    if rng.random() < min(1.0, skin_tone * 1.6):
        return str(rng.choice(["black", "dark_brown"]))
    return str(rng.choice(["black", "dark_brown", "brown", "light_brown", "blond", "red"]))


def _draw_hair_style(bearded: bool, age: float, rng: np.random.Generator) -> str:
    weights = np.ones(len(HAIR_STYLES))
    for style, factor in {"bob": 0.2, "long": 0.5, "wavy": 0.4, "bun": 0.3}.items():
        weights[HAIR_STYLES.index(style)] = factor if bearded else 1.6
    for style in ("bald", "receding"):
        weights[HAIR_STYLES.index(style)] = np.clip((age - 22) / 28, 0.02, 1.4) * (1.4 if bearded else 0.6)
    return str(rng.choice(HAIR_STYLES, p=weights / weights.sum()))

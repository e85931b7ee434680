"""What makes a plate more than its print: relief, screws, a frame, dirt, and the light that falls on it."""

from dataclasses import dataclass, fields

import cv2
import numpy as np

from anony_pipeline.errors import ConfigError

SCREWS = (0, 2, 4)
SCREW_RADIUS_MM = 6.5
CAPS_RGB = ((150, 152, 155), (226, 226, 222), (38, 38, 40), (196, 160, 40))
"""Zinc, and caps in white, black and yellow."""
FRAMES_RGB = ((24, 24, 26), (44, 44, 46), (176, 178, 182))
DIRT_RGB = np.array((86, 74, 58), np.float32)
LIGHT_FROM = (-0.8, -0.6)
"""Along y and x: from above and a little from the left, as relief is read."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How a plate is made, mounted, worn and lit; without anything it is flat, new and evenly lit.

    Attributes:
        embossing: Height of the raised characters: their upper edges catch the light.
        retroreflection: Share of the light that is a headlight's, thrown back by the sheeting but not by the ink.
        screws: 0, 2 or 4, where they cover the least of the text.
        frame: Thickness of the holder about the plate, up to the text area.
        dirt: Brown clouds, heavier near the lower edge.
        fading: Lost contrast.
        shadow: Depth of a shadow whose edge crosses the plate.
        glare: Strength of a light that the plate mirrors.
    """

    embossing: float = 0.0
    retroreflection: float = 0.0
    screws: int = 0
    frame: float = 0.0
    dirt: float = 0.0
    fading: float = 0.0
    shadow: float = 0.0
    glare: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: If there are other than 0, 2 or 4 screws, or another value is outside of [0, 1].
        """
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = value in SCREWS if field.name == "screws" else 0 <= value <= 1
            if not allowed:
                raise ConfigError(
                    "a plate's finish is out of range",
                    where=field.name,
                    got=value,
                    allowed=", ".join(map(str, SCREWS)) if field.name == "screws" else "[0, 1]",
                )

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Finish":
        """A finish as plates in the street have it: each trait is on some of them, mostly weak."""

        def on(share: float) -> float:
            strength = float(rng.beta(1.5, 2.5))
            return strength if rng.random() < share else 0.0

        return cls(
            embossing=on(0.8),
            retroreflection=on(0.15),
            screws=int(rng.choice(SCREWS, p=(0.5, 0.4, 0.1))),
            frame=on(0.5),
            dirt=on(0.4),
            fading=on(0.3),
            shadow=on(0.3),
            glare=on(0.1),
        )


@dataclass(frozen=True, slots=True)
class Flat:
    """A plate as it was printed.

    Attributes:
        image: ``(H, W, 3)`` float32 in ``[0, 255]``.
        ink: ``(H, W)`` float32, coverage of the characters.
        text_area: ``(x_min, y_min, x_max, y_max)`` in pixels, where characters may stand.
        mm: Pixels a millimeter, along x and y.
        ink_reflects: Whether the characters are the brighter part, and throw a headlight's light back.
    """

    image: np.ndarray
    ink: np.ndarray
    text_area: tuple[float, float, float, float]
    mm: tuple[float, float]
    ink_reflects: bool


def finished(flat: Flat, finish: Finish, rng: np.random.Generator) -> np.ndarray:
    """Give a printed plate its finish, ``(H, W, 3)`` float32, still to be clipped.

    Each trait has its own source of chance, so that changing one leaves the others as they are.
    """
    sources = dict(zip((field.name for field in fields(finish)), rng.spawn(len(fields(finish))), strict=True))
    image = flat.image
    if finish.fading > 0:
        image = _faded(image, 0.45 * finish.fading)
    if finish.embossing > 0:
        image = _embossed(image, flat.ink, finish.embossing)
    if finish.screws > 0:
        image = _screwed(image, flat, finish.screws, sources["screws"])
    if finish.frame > 0:
        image = _framed(image, flat, finish.frame, sources["frame"])
    if finish.dirt > 0:
        image = _soiled(image, _clouds(image.shape[:2], sources["dirt"]), finish.dirt)
    if finish.shadow > 0:
        depth = 0.65 * finish.shadow / _shadow_edge(image.shape[:2], sources["shadow"])
        image = image * (1 - depth[..., None])
    if finish.retroreflection > 0:
        reflecting = flat.ink if flat.ink_reflects else 1 - flat.ink
        image = _thrown_back(image, reflecting, finish.retroreflection, sources["retroreflection"])
    if finish.glare > 0:
        image = image + _spot(image.shape[:2], sources["glare"], (0.15, 0.6))[..., None] * (255 * finish.glare)
    return image


def _embossed(image: np.ndarray, ink: np.ndarray, amount: float) -> np.ndarray:
    sigma = max(0.5, 0.015 * len(ink))
    relief = cv2.GaussianBlur(ink, (0, 0), sigma)
    # A Gaussian edge's steepest slope is 0.4 over its sigma: the facing is about 1 there.
    slope_y, slope_x = np.gradient(relief)
    facing = -(LIGHT_FROM[0] * slope_y + LIGHT_FROM[1] * slope_x) * sigma * 2.5
    # Dark ink shows its edges by what they mirror.
    mirrored = 80 * np.maximum(facing, 0)
    return image * (1 + 0.7 * amount * facing[..., None]) + amount * mirrored[..., None]


def _screwed(image: np.ndarray, flat: Flat, count: int, rng: np.random.Generator) -> np.ndarray:
    height, width = flat.ink.shape
    radius = (max(1.0, SCREW_RADIUS_MM * flat.mm[0]), max(1.0, SCREW_RADIUS_MM * flat.mm[1]))
    cap = np.array(CAPS_RGB[int(rng.integers(len(CAPS_RGB)))], np.float32)
    rows = ((0.3, 0.7),) if count == 2 else ((0.14, 0.34), (0.66, 0.86))
    covered = cv2.blur(flat.ink, (2 * int(radius[0]) + 3, 2 * int(radius[1]) + 3))
    image = image.copy()
    for low, high in rows:
        for left, right in ((0.05, 0.33), (0.67, 0.95)):
            center = _least(covered, (left * width, low * height, right * width, high * height))
            _put_cap(image, center, radius, cap)
    return image


def _least(covered: np.ndarray, box: tuple[float, float, float, float]) -> tuple[float, float]:
    """The place in a box where the least is covered; in doubt the nearest to the box's middle."""
    left, top, right, bottom = (round(value) for value in box)
    part = covered[top : max(bottom, top + 1), left : max(right, left + 1)]
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    off = np.hypot(x / part.shape[1] - 0.5, y / part.shape[0] - 0.5)
    row, column = np.unravel_index(np.argmin(part + 1e-3 * off), part.shape)
    return left + float(column) + 0.5, top + float(row) + 0.5


def _put_cap(image: np.ndarray, center: tuple[float, float], radius: tuple[float, float], cap: np.ndarray) -> None:
    """Draw a cap and the little shadow that it throws below itself, in place."""
    columns, rows = (
        slice(max(0, int(middle - 2 * reach)), int(middle + 2 * reach) + 2)
        for middle, reach in zip(center, radius, strict=True)
    )
    part = image[rows, columns]
    x = (np.arange(columns.start, columns.start + part.shape[1]) + 0.5 - center[0])[None, :] / radius[0]
    y = (np.arange(rows.start, rows.start + part.shape[0]) + 0.5 - center[1])[:, None] / radius[1]
    away, soft = np.hypot(x, y), min(radius)
    coverage = np.clip((1 - away) * soft + 0.5, 0, 1)[..., None]
    dome = 1 - 0.3 * np.clip(y + 0.4 * x, -1, 1)[..., None]
    shade = np.clip(1.45 - np.hypot(x, y - 0.25), 0, 1)[..., None]
    part[:] = part * (1 - 0.4 * shade) * (1 - coverage) + cap * dome * coverage


def _framed(image: np.ndarray, flat: Flat, amount: float, rng: np.random.Generator) -> np.ndarray:
    height, width = flat.ink.shape
    left, top, right, bottom = flat.text_area
    widest = 0.09 * height
    sides = [amount * min(room, widest) for room in (left, top, width - right, height - bottom)]
    color = np.array(FRAMES_RGB[int(rng.integers(len(FRAMES_RGB)))], np.float32)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    over_x = np.maximum(np.clip(sides[0] - x, 0, 1), np.clip(sides[2] - (width - 1 - x), 0, 1))
    over_y = np.maximum(np.clip(sides[1] - y, 0, 1), np.clip(sides[3] - (height - 1 - y), 0, 1))
    coverage = np.maximum(over_x[None, :], over_y[:, None])[..., None]
    # Its upper side is lit, its lower one turns away.
    shade = np.linspace(1.25, 0.8, height, dtype=np.float32)[:, None, None]
    return image * (1 - coverage) + color * shade * coverage


def _thrown_back(image: np.ndarray, reflecting: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Headlights instead of daylight: glass beads in the sheeting send it back, and what is too bright blooms."""
    spot = _spot(image.shape[:2], rng, (0.9, 1.8))
    returned = image * (reflecting * spot)[..., None] * 1.4
    seen = image * (1 - 0.85 * amount) + returned * amount
    excess = np.maximum(seen - 255, 0)
    reach = 2 * round(0.15 * len(image)) + 1
    return seen + cv2.blur(cv2.blur(excess, (reach, reach)), (reach, reach))


def _spot(size_hw: tuple[int, int], rng: np.random.Generator, widths: tuple[float, float]) -> np.ndarray:
    """A round light somewhere on the plate, ``(H, W)`` float32 up to 1; widths in half plates."""
    center, reach = rng.uniform(-0.7, 0.7, 2), rng.uniform(*widths, 2)
    along = [
        np.exp(-0.5 * ((np.linspace(-1, 1, count, dtype=np.float32) - middle) / wide) ** 2)
        for count, middle, wide in zip(size_hw, center, reach, strict=True)
    ]
    return np.outer(*along).astype(np.float32)


def worn(image: np.ndarray, rng: np.random.Generator, wear: float) -> np.ndarray:
    """Fade, soil, shade and light a plate unevenly: all that time and weather do, by one number in ``(0, 1]``.

    The shipped weights learned from what this draws, so its figures and the order of its chances stay.
    """
    image = _faded(image, wear * rng.uniform(0, 0.22))
    clouds = _clouds(image.shape[:2], rng)
    image = _soiled(image, clouds, wear * rng.uniform(0, 0.75))
    x, y = _grid(image.shape[:2])
    tilt = rng.uniform(-0.28, 0.28, size=2) * wear
    light = 1 - 0.12 * wear * rng.random() + tilt[0] * x + tilt[1] * y
    if rng.random() < 0.5:
        edge = _shadow_edge(image.shape[:2], rng)
        light *= 1 - wear * rng.uniform(0.1, 0.5) / edge
    return image * light[..., None]


def _faded(image: np.ndarray, share: float) -> np.ndarray:
    faded: np.ndarray = image * (1 - share) + image.mean() * share
    return faded


def _clouds(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Where dirt sits, ``(H, W)`` float32 in ``[0, 1]``: clouds of two sizes, heavier near the lower edge."""
    height, width = size_hw
    coarse = cv2.resize(rng.random((3, 6), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.random((12, 40), dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    depth = np.linspace(0.4, 1, height, dtype=np.float32)[:, None]
    clouds: np.ndarray = np.clip(coarse * 0.7 + fine * 0.5 - 0.45, 0, 1) * depth
    return clouds


def _soiled(image: np.ndarray, clouds: np.ndarray, share: float) -> np.ndarray:
    dirt = clouds * share
    soiled: np.ndarray = image * (1 - dirt[..., None]) + DIRT_RGB * dirt[..., None]
    return soiled


def _shadow_edge(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What a shadow's depth is divided by, ``(H, W)``: 1 inside of it, without bound outside, soft at its edge."""
    x, y = _grid(size_hw)
    slope, offset = rng.uniform(-1.2, 1.2), rng.uniform(-0.8, 0.8)
    softness = rng.uniform(0.03, 0.3)
    edge: np.ndarray = 1 + np.exp(-np.clip((y - slope * x - offset) / softness, -30, 30))
    return edge


def _grid(size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the pixels, from -1 to 1 over the plate."""
    height, width = size_hw
    x, y = np.meshgrid(np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32))
    return x, y

"""How near does a fitted plate come to the one that the camera would have seen in its place?

``python benchmarks/fitted_plates.py [--plates N]``: takes two pictures of one drawn place, alike but for the plate that
is mounted, the old one or the new one. `plates.fit` puts the new plate into the first picture; the second is the truth.
Takes a minute on one core; writes ``benchmarks/results/fitted_plates.json``.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from anony_pipeline.plates import appearance, fit, render, serials
from anony_pipeline.plates.styles import PlateStyle, load_styles
from anony_pipeline.structures.regions import Kind, Region

RESULT = Path(__file__).parent / "results" / "fitted_plates.json"
WIDTHS = (40, 220)
FINE = 3
EUROPE = ("DE", "FR", "PL", "CZ", "ES", "RO")
BLOOM = 0.12
"""Of the light that is thrown back by a plate, what the lens spreads over a tenth of the plate's width."""


@dataclass(frozen=True)
class Condition:
    """How plates are photographed: old and new styles, the light's color and strength, the box."""

    old: tuple[str, ...] = EUROPE
    new: tuple[str, ...] = ()
    light_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    exposure: tuple[float, float] = (0.5, 1.0)
    box: float = 1.0
    holder: bool = False


CONDITIONS = {
    "day, same style": Condition(),
    "colored letters, then black ones": Condition(("US_CA", "US_NY", "BE", "AT", "IT"), ("PL", "CZ", "ES")),
    "black letters, then colored ones": Condition(("PL", "CZ", "ES"), ("US_CA", "BE")),
    "white on blue or green": Condition(("CN",)),
    "yellow, same style": Condition(("NL",)),
    "yellow, then white": Condition(("NL",), EUROPE),
    "white, then yellow": Condition(EUROPE, ("NL",)),
    "warm light": Condition(light_rgb=(1.2, 0.95, 0.6)),
    "red lamp": Condition(light_rgb=(1.3, 0.5, 0.45), exposure=(0.3, 0.7)),
    "night": Condition(exposure=(0.1, 0.3)),
    "overexposed": Condition(exposure=(1.3, 2.6)),
    "box a tenth too small": Condition(box=0.9),
    "box a fifth too small": Condition(box=0.8),
    "dark holder with a name": Condition(holder=True),
}


def place(style: PlateStyle, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A car's tail without a plate, ``(H, W, 3)`` float32 reflectance, and the plate's corners in px."""
    width = float(np.exp(rng.uniform(*np.log(WIDTHS))))
    height = width * style.size_mm[1] / style.size_mm[0]
    size = (round(3.4 * height) + 24, round(1.7 * width) + 24)
    paint = rng.uniform(15, 200) + rng.normal(0, 15, 3)
    level = np.linspace(-1, 1, size[0])[:, None, None]
    car = np.clip(paint, 8, 235) * (1 + rng.normal(0, 0.15) * level) * np.ones((*size, 3))
    car[round(rng.uniform(0.75, 0.95) * size[0]) :] *= rng.uniform(0.3, 0.8)
    turn, shear = np.deg2rad(rng.uniform(-5, 5)), rng.uniform(-0.06, 0.06)
    half = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
    corners = half @ np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))
    corners[:, 1] += shear * corners[:, 0]
    return car.astype(np.float32), (corners + np.array(size[::-1]) / 2 + rng.uniform(-2, 2, 2)).astype(np.float32)


def mounted(car: np.ndarray, plate: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The place with a plate, ``(H, W, 3)`` float32."""
    height, width = plate.shape[:2]
    source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    matrix = cv2.getPerspectiveTransform(source - 0.5, corners * FINE - 0.5)
    size = (car.shape[1] * FINE, car.shape[0] * FINE)
    soft = cv2.GaussianBlur(plate.astype(np.float32), (0, 0), max(0.1, 0.4 * width / size[0]))
    cover = cv2.warpPerspective(np.ones((height, width), np.float32), matrix, size)[..., None]
    above = cv2.warpPerspective(soft, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    whole = cv2.resize(car, size) * (1 - cover) + above * cover
    return cv2.resize(whole, car.shape[1::-1], interpolation=cv2.INTER_AREA)


def with_holder(car: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place with a dark holder that is higher than the plate and bears a name below; and the holder's corners."""
    holder = np.full((140, 536, 3), (26, 26, 28), np.uint8)
    cv2.putText(holder, "AUTOHAUS MEIER", (150, 136), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (190, 190, 190), 2)
    plate = np.array([(8, 8), (528, 8), (528, 118), (8, 118)], np.float32)
    own = np.array([[(0, 0), (536, 0), (536, 140), (0, 140)]], np.float32)
    outer = cv2.perspectiveTransform(own, cv2.getPerspectiveTransform(plate, corners))[0]
    return mounted(car, holder, outer), outer


def photographed(scene: np.ndarray, condition: Condition, seed: int) -> np.ndarray:
    """A picture ``(H, W, 3)`` uint8 of a place; the same seed is the same light, camera and moment."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : scene.shape[0] * 1j, -1 : 1 : scene.shape[1] * 1j]
    field = rng.uniform(*condition.exposure) * (1 + rng.normal(0, 0.06) * x + rng.normal(0, 0.06) * y)
    image = scene * (field[..., None] * np.array(condition.light_rgb)).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)) + rng.uniform(0, 12)
    if condition.exposure[1] > 1:
        image = (1 - BLOOM) * image + BLOOM * cv2.GaussianBlur(image, (0, 0), 0.05 * scene.shape[1])
    image += rng.normal(0, rng.uniform(0.5, 4), (*scene.shape[:2], 1))
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    quality = int(rng.integers(60, 96))
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


def compared(condition: Condition, number: int) -> dict[str, float]:
    """One plate: how far the fitted one is from the photographed one."""
    rng = np.random.default_rng(number)
    styles = load_styles()
    old = styles[str(rng.choice(condition.old))]
    new = styles[str(rng.choice(condition.new))] if condition.new else old
    car, corners = place(old, rng)
    around = corners
    if condition.holder:
        car, around = with_holder(car, corners)
    size = (round(640 * old.size_mm[1] / old.size_mm[0]), 640)
    plates = [render.render(style, serials.draw(style, rng), size) for style in (old, new)]
    before, truth = (photographed(mounted(car, plate, corners), condition, number) for plate in plates)
    middle, reach = around.mean(axis=0), np.ptp(around, axis=0) / 2 * condition.box
    made = fit.fit(before, Region(Kind.PLATE, (*(middle - reach).tolist(), *(middle + reach).tolist())), plates[1])
    own = cv2.fillConvexPoly(np.zeros(before.shape[:2], np.uint8), np.rint(corners - 0.5).astype(int), 1) > 0
    about = cv2.dilate(own.astype(np.uint8), np.ones((3, 3)), iterations=round(0.3 * np.ptp(corners[:, 1]))) > 0
    inner = cv2.erode(own.astype(np.uint8), np.ones((3, 3)), iterations=2) > 0
    means = [picture[inner].astype(float).mean(axis=0) for picture in (made.image, truth)]
    colors = [mean - mean @ appearance.LUMA for mean in means]
    spreads = [np.std(appearance.luma(picture)[inner]) for picture in (made.image, truth)]
    off = np.abs(made.image.astype(float) - truth).mean(axis=2)
    return {
        "lightness_off": abs(float((means[0] - means[1]) @ appearance.LUMA)),
        "color_off": float(np.abs(colors[0] - colors[1]).max()),
        "contrast_over_truth": float(spreads[0] / spreads[1]),
        "pixels_off": float(off[inner].mean()),
        "surroundings_off": float(off[about & ~own].mean()),
        "old_plate_left": float((own & (made.mask == 0)).sum() / own.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plates", type=int, default=60)
    options = parser.parse_args()
    results = {}
    for name, condition in CONDITIONS.items():
        rows = [compared(condition, number) for number in range(options.plates)]
        results[name] = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}
        print(f"{name:34}", results[name], flush=True)
    RESULT.write_text(json.dumps({"plates of each": options.plates, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

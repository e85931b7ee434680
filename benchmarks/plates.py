"""How fast plates are drawn and fitted, and how well outlines are found: ``python benchmarks/plates.py``.

Writes ``benchmarks/results/plates.json``. One core; procedural pictures only; about a minute.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import cv2
import numpy as np

from anony_pipeline.plates import fit, render, serials
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import PlateStyle, load_styles
from anony_pipeline.structures.regions import Kind, Region

RESULT = Path(__file__).parent / "results" / "plates.json"
PLATES = 1000
SCENES = 42


def drawing(styles: list[PlateStyle], wear: float, *, finished: bool = False) -> float:
    """Plates a second at 256 x 64, serials included."""
    rng = np.random.default_rng(0)
    start = time.process_time()
    for i in range(PLATES):
        style = styles[i % len(styles)]
        serial = serials.draw(style, rng)
        render.render(
            style,
            serial,
            (64, 256),
            font_ratio=rng.uniform(0.55, 0.75),
            rng=rng,
            wear=wear,
            finish=Finish.sample(rng) if finished else None,
        )
    return PLATES / (time.process_time() - start)


def scene(rng: np.random.Generator, style: PlateStyle, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A worn, turned, blurred and noisy plate on a ground of two colors: the image and the plate's true corners."""
    height, factor, size = width * style.size_mm[1] / style.size_mm[0], 4, (width + 60, round(1.6 * width) + 60)
    ground = np.full((*size, 3), rng.uniform(15, 225, 3), np.float32)
    ground[round(rng.uniform(0.2, 0.8) * size[0]) :] *= rng.uniform(0.5, 1.3)
    turn = np.deg2rad(rng.uniform(-8, 8))
    half = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
    corners = half @ np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn)))) + np.array(size[::-1]) / 2
    corners += rng.uniform(-0.06, 0.06, (4, 2)) * height
    drawn = (round(512 * style.size_mm[1] / style.size_mm[0]), 512)
    plate = render.render(style, serials.draw(style, rng), drawn, rng=rng, wear=rng.uniform(0, 0.6))
    plate = cv2.GaussianBlur(plate, (0, 0), max(0.3, 64 / width)).astype(np.float32) * rng.uniform(0.5, 1)
    source = np.array([(0, 0), (drawn[1], 0), drawn[::-1], (0, drawn[0])], np.float32)
    matrix = cv2.getPerspectiveTransform(source - 0.5, (corners * factor - 0.5).astype(np.float32))
    fine = (size[1] * factor, size[0] * factor)
    cover = cv2.warpPerspective(np.ones(drawn, np.float32), matrix, fine)[..., None]
    above = cv2.warpPerspective(plate, matrix, fine, borderMode=cv2.BORDER_REPLICATE)
    image = cv2.resize(cv2.resize(ground, fine) * (1 - cover) + above * cover, size[::-1], interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1)) + rng.normal(0, rng.uniform(0.5, 4), (*size, 1))
    return np.clip(image, 0, 255).astype(np.uint8), corners


def fitting(styles: list[PlateStyle], width: int, jitter: float) -> dict[str, float]:
    """Outlines and time of ``fit`` at one plate width; the box's sides are off by up to ``jitter`` plate heights."""
    rng = np.random.default_rng(width)
    errors, from_box, found, seconds = [], [], 0, 0.0
    for i in range(SCENES):
        style = styles[i % len(styles)]
        image, corners = scene(rng, style, width)
        low, high = corners.min(axis=0), corners.max(axis=0)
        off = rng.uniform(-jitter, jitter, 4) * width * style.size_mm[1] / style.size_mm[0]
        box = tuple((np.concatenate([low, high]) + off).tolist())
        region = Region(Kind.PLATE, box)
        plate = render.render(style, serials.draw(style, rng), fit.drawing_size(style, region))
        start = time.process_time()
        fitted = fit.fit(image, region, plate)
        seconds += time.process_time() - start
        square = np.array([(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3])])
        from_box.append(np.hypot(*(square - corners).T).mean())
        if fitted.score > 0:
            found += 1
            errors.append(np.hypot(*(fitted.quad.corners - corners).T).mean())
    return {
        "found_share": found / SCENES,
        "corner_error_px": round(float(np.mean(errors)), 2),
        "corner_error_p90_px": round(float(np.percentile(errors, 90)), 2),
        "corner_error_of_the_box_px": round(float(np.mean(from_box)), 2),
        "milliseconds": round(1000 * seconds / SCENES, 1),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    cv2.setNumThreads(1)
    styles = list(load_styles().values())
    drawing(styles, 0.0)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used",
        "styles": [style.key for style in styles],
        "plates_per_second_256x64": round(drawing(styles, 0.0)),
        "plates_per_second_256x64_finished": round(drawing(styles, 0.0, finished=True)),
        "plates_per_second_256x64_worn": round(drawing(styles, 0.5)),
        "fit_by_plate_width_px": {
            str(width): {
                "tight_boxes": fitting(styles, width, 0.0),
                "boxes_off_by_a_tenth_of_the_height": fitting(styles, width, 0.1),
            }
            for width in (16, 32, 64, 128, 256)
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""What is left of a real plate whose box is too small, too large or off, and how near its corners are found.

``python benchmarks/plate_boxes.py DIR``, with ``DIR`` as for `real_plates.py`. Truth is the outline that is found in
the data set's own box, where its score is 0.6 or more; then the box about it is scaled, and moved by up to a twentieth
of its size. Plates of odd and even number apart: the search for ends was made while looking at the even ones. Takes
two minutes on one core; aggregates alone are written to ``benchmarks/results/plate_boxes.json``.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from replaced_plates import Plate, photographs

from anony_pipeline.plates import fit, render, serials
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind, Region

RESULT = Path(__file__).parent / "results" / "plate_boxes.json"
SCALES = (0.8, 0.9, 1.0, 1.2)
SURE = 0.6


def judged(plate: Plate, truth: np.ndarray, scale: float, new_plate: np.ndarray, number: int) -> dict[str, float]:
    """One plate in one box; corner errors over the plate's height."""
    low, high = truth.min(axis=0), truth.max(axis=0)
    moved = np.random.default_rng(number).uniform(-0.05, 0.05, 2) * (high - low) * (scale != 1)
    middle, half = (low + high) / 2 + moved, (high - low) / 2 * scale
    box = (*(middle - half).tolist(), *(middle + half).tolist())
    made = fit.fit(plate.image_rgb, Region(Kind.PLATE, box), new_plate)
    square = np.array([box[:2], (box[2], box[1]), box[2:], (box[0], box[3])])
    own = cv2.fillConvexPoly(np.zeros(made.mask.shape, np.uint8), np.rint(truth - 0.5).astype(int), 1) > 0
    tall = np.hypot(*(truth[3] - truth[0]))
    left = float((own & (made.mask == 0)).sum() / own.sum())
    return {
        "corner_error_of_found": float(np.hypot(*(made.quad.corners - truth).T).mean() / tall),
        "corner_error_of_boxes": float(np.hypot(*(square - truth).T).mean() / tall),
        "old_plate_left": left,
        "over_3_percent_left": float(left > 0.03),
        "mask_over_plate": float(made.mask.sum() / own.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    style = load_styles()["PL"]
    new_plate = render.render(style, serials.draw(style, np.random.default_rng(0)), (110, 520))
    rows: dict[str, list[dict[str, float]]] = {}
    for number, plate in enumerate(photographs(parser.parse_args().real)):
        found = fit.find_quad(plate.image_rgb, plate.region)
        for scale in SCALES if found.score >= SURE else ():
            key = f"{('even', 'odd')[number % 2]} plates, box {scale} times as large"
            rows.setdefault(key, []).append(judged(plate, found.corners.astype(float), scale, new_plate, number))
    results = {
        key: {"plates": len(own)} | {name: round(float(np.mean([row[name] for row in own])), 3) for name in own[0]}
        for key, own in sorted(rows.items())
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

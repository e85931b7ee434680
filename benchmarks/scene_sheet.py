"""Whole scenes before and after, as the demo's checkpoint anonymizes what its detector finds; for the README.

Run after `make demo`:   python benchmarks/scene_sheet.py
Takes: half a minute. Writes docs/images/scenes.jpg: the first pictures of the validation split, unpicked.
"""

import argparse
from pathlib import Path

import numpy as np

from anony_pipeline.anonymize.loading import load_anonymizer
from anony_pipeline.config import loading
from anony_pipeline.datasets import coco
from anony_pipeline.ops import images

ROOT = Path(__file__).parents[1]
SHEET = ROOT / "docs" / "images" / "scenes.jpg"
LAYOUTS = ("widerface", "pp4av")
HEIGHT_PX = 360


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    config = loading.load([ROOT / "configs" / "demo.yaml"])
    unified = coco.load(Path(config.paths.unified) / "unified_val.json")
    step = max((Path(config.paths.outputs) / "checkpoints").glob("step_*"))
    anonymizer = load_anonymizer(step, secret=b"\0" * 32)
    rows = []
    for layout in LAYOUTS:
        record = next(image for image in unified.images if image["source"] == layout)
        before = images.read(unified.image_file(record))
        after, _ = anonymizer.anonymize(before, style=record.get("plate_style"), name=record["file_name"])
        pair = np.concatenate([before, after], axis=1)
        rows.append(images.resize(pair, (HEIGHT_PX, round(pair.shape[1] * HEIGHT_PX / pair.shape[0]))))
    width = min(row.shape[1] for row in rows)
    images.write(
        SHEET,
        np.concatenate([images.resize(row, (round(row.shape[0] * width / row.shape[1]), width)) for row in rows]),
        quality=90,
    )


if __name__ == "__main__":
    main()

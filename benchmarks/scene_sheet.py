"""Whole scenes before and after, as the demo's checkpoint anonymizes what its detector finds; for the README.

Run after `make demo`:   python benchmarks/scene_sheet.py
Takes: half a minute. Writes docs/images/scenes.jpg: the first picture of each layout in the validation split, and the
first gray one with a face, unpicked; each as drawn, by the base generator, and by the adapted one.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anony_pipeline.anonymize import filling
from anony_pipeline.anonymize.anonymizer import Anonymizer
from anony_pipeline.anonymize.loading import load_anonymizer
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import coco
from anony_pipeline.models import lora
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import KINDS_BY_CATEGORY, Kind

ROOT = Path(__file__).parents[1]
SHEET = ROOT / "docs" / "images" / "scenes.jpg"
LAYOUTS = ("widerface", "pp4av")
WIDTH_PX = 480


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    config = loading.load([ROOT / "configs" / "demo.yaml"])
    step = max((Path(config.paths.outputs) / "checkpoints").glob("step_*"))
    anonymizer = load_anonymizer(step, secret=b"\0" * 32)
    rows = [row_of(before, record, anonymizer) for record, before in shown(config)]
    images.write(SHEET, np.concatenate(rows), quality=90)


def shown(config: Config) -> Iterator[tuple[dict, np.ndarray]]:
    """Records and pictures of the validation split."""
    unified = coco.load(Path(config.paths.unified) / "unified_val.json")
    for layout in LAYOUTS:
        record = next(image for image in unified.images if image["source"] == layout)
        yield record, images.read(unified.image_file(record))
    with_faces = {a["image_id"] for a in unified.annotations if KINDS_BY_CATEGORY[a["category_id"]] is Kind.FACE}
    for record in unified.images:
        if record["id"] in with_faces:
            picture = images.read(unified.image_file(record))
            if filling.is_gray(picture):
                yield record, picture
                return


def row_of(before: np.ndarray, record: dict, anonymizer: Anonymizer) -> np.ndarray:
    """The picture, what the base generator makes of it, and what the adapted one does."""

    def anonymized() -> np.ndarray:
        return anonymizer.anonymize(before, style=record.get("plate_style"), name=record["file_name"])[0]

    after = anonymized()
    if anonymizer.filler is None:
        raise ValueError("the sheet shows what a generator makes: got a checkpoint whose profile has none")
    with lora.without_adapters(anonymizer.filler.generator):
        by_base = anonymized()
    return np.concatenate(
        [
            images.resize(one, (round(one.shape[0] * WIDTH_PX / one.shape[1]), WIDTH_PX))
            for one in (before, by_base, after)
        ],
        axis=1,
    )


if __name__ == "__main__":
    main()

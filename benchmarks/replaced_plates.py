"""Is a replaced plate found as often as the original was, and does any reader still read the original serial?

``python benchmarks/replaced_plates.py [--scenes N] [--real DIR]``: replaces the plates of procedural streets (corners
not given, tight boxes) and, with ``DIR`` as for `real_plates.py`, of photographs; asks every detector and reader of the
demo about both. Aggregates alone are written to ``benchmarks/results/replaced_plates.json``. The detectors and readers
learned from procedural pictures alone: on photographs they see little, and what they don't see they can't miss. So two
more detectors, ``real_boxes``, are fitted on photographs and the boxes of their plates, each on one half of them and
on the dash-cam's, and judge the plates of the other half; they are kept nowhere.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anony_pipeline import project
from anony_pipeline.anonymize.verifying import plate_crop
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets.streetscape import writer
from anony_pipeline.evaluation import judges
from anony_pipeline.evaluation.judges import DetectorJudge, Judges, LoadedDetector
from anony_pipeline.fitting.detector import fit_detector
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.fitting.rendering import Scenes
from anony_pipeline.models.detector import load_shipped_detector
from anony_pipeline.ops import images
from anony_pipeline.plates import serials
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind, Region
from anony_pipeline.targets.plates import Drawn, replace

RESULT = Path(__file__).parent / "results" / "replaced_plates.json"
WIDTHS = ((24, 48), (48, 96), (96, 10_000))
THRESHOLD, IOU = 0.3, 0.5
AROUND = 480
FIT_STEPS = 90
REAL_STYLES = {"eu": ("PL", "DE", "CZ"), "us": ("US_CA", "US_TX", "US_FL"), "br": ("BR",)}


@dataclass(frozen=True)
class Plate:
    """One plate in a picture: its image, region, original serial, the style of the new one, and its half of them."""

    image_rgb: np.ndarray
    region: Region
    serial: str
    style: str
    half: int = 0


def street(folder: Path, scenes: int) -> Iterator[Plate]:
    """The plates of procedural streets that lie whole in their image."""
    roots = (folder / "widerface", folder / "pp4av")
    writer.write(Streetscape(seed=99, people=8, scenes=scenes, family="base"), *roots, workers=1)
    for name, entry in sorted(json.loads((roots[1] / "ground_truth.json").read_text())["images"].items()):
        image = images.read(next(path for path in (roots[1] / name, *folder.rglob(Path(name).name)) if path.is_file()))
        for region in entry["regions"]:
            quad = np.array(region.get("quad") or [[-1, -1]])
            inside = (quad >= 0).all() and (quad <= image.shape[1::-1]).all()
            if region["kind"] == Kind.PLATE.value and region.get("serial") and inside:
                x, y, width, height = region["bbox"]
                box = (x, y, x + width, y + height)
                styles = serials.parse(region["serial"], load_styles())
                yield Plate(image, Region(Kind.PLATE, box), serials.normalize(region["serial"]), styles[0])


def rows_of(root: Path) -> list[tuple[dict[str, str], int]]:
    """The plates whose text is known, and to which half each belongs: neighbors of one region to the same."""
    with (root / "plate_texts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    regions = {key: [row["image"] for row in rows if row["country"] == key] for key in REAL_STYLES}
    return [(row, 2 * regions[row["country"]].index(row["image"]) // len(regions[row["country"]])) for row in rows]


def photographs(root: Path) -> Iterator[Plate]:
    """The plates whose text is known, each with a style of its region."""
    for number, (row, half) in enumerate(rows_of(root)):
        x, y, width, height = (float(row[name]) for name in "xywh")
        image, styles = images.read(root / "images" / row["image"]), REAL_STYLES[row["country"]]
        # What lies about it, so that a detector looks at every picture alike.
        left, top = (max(0, round(value - AROUND / 2)) for value in (x + width / 2, y + height / 2))
        image = np.ascontiguousarray(image[top : top + AROUND, left : left + AROUND])
        x, y = x - left, y - top
        box = (max(x, 0), max(y, 0), min(x + width, image.shape[1]), min(y + height, image.shape[0]))
        serial = serials.normalize(row["text"])
        yield Plate(image, Region(Kind.PLATE, box), serial, styles[number % len(styles)], half)


def labeled(root: Path, names: list[str]) -> Scenes:
    """Photographs with the boxes of their plates; faces are not labeled in them."""
    scenes = Scenes([], [], [], [(CATEGORY_IDS[Kind.FACE],)] * len(names))
    for name in names:
        image = images.read(root / "images" / name)
        rows = np.loadtxt((root / "annotations" / name).with_suffix(".txt"), ndmin=2).reshape(-1, 5)
        middle, size = rows[rows[:, 0] == 1, 1:3], rows[rows[:, 0] == 1, 3:5]
        corners = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
        scenes.images.append(image)
        scenes.boxes.append((corners * np.tile(image.shape[1::-1], 2)).astype(np.float32))
        scenes.labels.append(np.full(len(corners), CATEGORY_IDS[Kind.PLATE]))
    return scenes


def fitted_on_boxes(root: Path, judged_half: int) -> DetectorJudge:
    """The shipped detector, further trained on the boxes of all photographs but those of one half."""
    names = [row["image"] for row, half in rows_of(root) if half != judged_half]
    names += [f"romania/{file.name}" for file in sorted((root / "images" / "romania").iterdir())]
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(FIT_STEPS, judged_half, torch.device("cpu"), Path(folder) / "state", learning_rate=8e-4)
        start = load_shipped_detector().requires_grad_(True)
        return LoadedDetector(fit_detector("detector", labeled(root, names), plan, batch=8, crop_px=320, start=start))


def seen(
    panel: Judges, fitted: list[DetectorJudge], image_rgb: np.ndarray, plate: Plate, intended: str
) -> dict[str, bool]:
    """What each detector and reader says of one picture."""
    said = {}
    own = {"real_boxes": fitted[plate.half]} if fitted else {}
    for name, detector in (panel.detectors | own).items():
        found = judges.found_above(detector, [image_rgb], THRESHOLD)[0]
        plates = np.array([one.box_xyxy for one in found if one.kind is Kind.PLATE], np.float32).reshape(-1, 4)
        said[f"found/{name}"] = bool((boxes.iou(plates, np.array([plate.region.box_xyxy], np.float32)) >= IOU).any())
    crop = plate_crop(image_rgb, plate.region)
    for name, reader in panel.readers.items():
        text = serials.normalize(reader.read([crop])[0].text)
        said[f"original_read/{name}"] = serials.edit_distance(text, plate.serial) <= 1
        said[f"intended_read/{name}"] = text == serials.normalize(intended)
    return said


def measured(
    plates: Iterator[Plate], panel: Judges, fitted: list[DetectorJudge] | None = None
) -> dict[str, dict[str, float]]:
    """Shares before and after, by the plates' width; of what is found, also how many are lost and how many won."""
    styles, rows = load_styles(), []
    for number, plate in enumerate(plates):
        rng = np.random.default_rng(number)
        style = styles[plate.style]
        new = Drawn(style, serials.draw(style, rng, avoid=[plate.serial]), 0.65, number)
        before, after = (
            seen(panel, fitted or [], image, plate, new.serial)
            for image in (plate.image_rgb, replace(plate.image_rgb, plate.region, new)[0])
        )
        rows.append((plate.region.size_wh[0], before, after))
    result = {}
    for low, high in WIDTHS:
        own = [(before, after) for width, before, after in rows if low <= width < high]
        if own:
            shares = {
                f"{name}/{when}": round(float(np.mean([pair[place][name] for pair in own])), 3)
                for name in own[0][0]
                for place, when in enumerate(("before", "after"))
                if not (name.startswith("intended") and when == "before")
            }
            changes = {
                f"{name}/{word}": sum(pair[first][name] and not pair[1 - first][name] for pair in own)
                for name in own[0][0]
                if name.startswith("found")
                for word, first in (("lost", 0), ("won", 1))
            }
            key = f"{low} px or wider" + (f", below {high}" if high < 10_000 else "")
            result[key] = {"plates": len(own)} | shares | changes
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--real", type=Path)
    options = parser.parse_args()
    config = loading.load([project.find("configs/demo.yaml")], [])
    panel = judges.load_without_checkpoint(config, torch.device("cpu"))
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if options.real is not None:
        fitted = [fitted_on_boxes(options.real, half) for half in (0, 1)]
        results["photographs"] = measured(photographs(options.real), panel, fitted)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        results["procedural streets"] = measured(street(Path(folder), options.scenes), panel)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

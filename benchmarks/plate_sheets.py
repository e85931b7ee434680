"""The pictures of ``docs/plates.md``, and how well outlines are found in procedural streets.

``python benchmarks/plate_sheets.py`` writes ``docs/plates/*.png`` and ``benchmarks/results/plate_quads.json``.
Procedural pictures only. Styles with another script need their fonts (the log names the packages).
"""

import argparse
import itertools
import json
import tempfile
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets.streetscape import writer
from anony_pipeline.ops import images
from anony_pipeline.plates import fit, render, serials
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets.plates import Drawn, replace

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "plate_quads.json"
WIDTHS = (16, 32, 64, 128, 10_000)
SCENES = 60


def styles_sheet() -> np.ndarray:
    """A plate of every style, in each of its shapes."""
    rng = np.random.default_rng(3)
    cells = []
    for key, style in load_styles().items():
        cell = np.full((56, 480, 3), 246, np.uint8)
        cv2.putText(cell, key, (4, 33), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
        serial, left = serials.draw(style, rng), 112
        for shape in style.shapes.values():
            width = round(46 * shape.size_mm[0] / shape.size_mm[1])
            cell[5:51, left : left + width] = render.render(shape, serial, (46, width))[:, : 480 - left]
            left += width + 6
            if left > 400:
                break
        cells.append(cell)
    blank = np.full_like(cells[0], 246)
    columns = [cells[n::3] for n in range(3)]
    tallest = max(map(len, columns))
    return np.concatenate([np.concatenate(c + [blank] * (tallest - len(c))) for c in columns], axis=1)


def finish_sheet() -> np.ndarray:
    """Three plates, flat, with each trait of a finish alone, and with finishes as in the street."""
    traits = {trait.name: Finish(**{trait.name: 4 if trait.name == "screws" else 0.8}) for trait in fields(Finish)}
    sampled = {f"sampled {n}": Finish.sample(np.random.default_rng(n)) for n in (11, 12, 13)}
    rows = []
    for name, finish in {"flat": Finish(), **traits, **sampled}.items():
        label = np.full((48, 112, 3), 255, np.uint8)
        cv2.putText(label, name, (4, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
        cells = [label]
        for key in ("FR", "US_CA", "BR_MERCOSUR"):
            style = load_styles()[key]
            width = round(46 * style.size_mm[0] / style.size_mm[1])
            serial = serials.draw(style, np.random.default_rng(1))
            plate = render.render(style, serial, (46, width), rng=np.random.default_rng(3), finish=finish)
            cells.append(np.pad(plate, ((1, 1), (3, 3), (0, 0)), constant_values=255))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def street(folder: Path) -> list[tuple[np.ndarray, Region]]:
    """Procedural photographs, each with one plate whose outline is known."""
    writer.write(
        Streetscape(seed=77, people=8, scenes=SCENES, family="base"), folder / "widerface", folder / "pp4av", workers=2
    )
    truth = json.loads((folder / "pp4av" / "ground_truth.json").read_text())["images"]
    found = []
    for name, entry in sorted(truth.items()):
        file = next(path for path in (folder / "pp4av" / name, *folder.rglob(Path(name).name)) if path.is_file())
        image = images.read(file)
        for region in entry["regions"]:
            if region["kind"] == Kind.PLATE.value and region.get("quad"):
                x, y, width, height = region["bbox"]
                quad = tuple((float(a), float(b)) for a, b in region["quad"])
                found.append((image, Region(Kind.PLATE, (x, y, x + width, y + height), quad=quad)))
    return found


def without_quad(region: Region) -> Region:
    """The region as a data set's box gives it."""
    return Region(region.kind, region.box_xyxy)


def corner_errors(plates: list[tuple[np.ndarray, Region]]) -> dict[str, dict[str, float]]:
    """Mean corner error of found outlines and of the boxes, by the plate's width."""
    rows = []
    for image, region in plates:
        truth, box = np.array(region.quad), np.array(region.box_xyxy)
        if (truth < 0).any() or (truth > image.shape[1::-1]).any():
            continue  # cut by the image's edge: its corners are not to be seen
        found = fit.find_quad(image, without_quad(region))
        square = np.array([box[[0, 1]], box[[2, 1]], box[[2, 3]], box[[0, 3]]])
        errors = [np.hypot(*(corners - truth).T).mean() for corners in (found.corners, square)]
        rows.append((box[2] - box[0], found.score, *errors))
    table = np.array(rows)
    result = {}
    for low, high in itertools.pairwise(WIDTHS):
        own = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        seen = own[own[:, 1] > 0]
        if len(own):
            result[f"{low} px or wider" + (f", below {high}" if high < 10_000 else "")] = {
                "plates": len(own),
                "found_share": round(len(seen) / len(own), 3),
                "corner_error_px_of_found": round(float(seen[:, 2].mean()), 2) if len(seen) else None,
                "corner_error_px_of_boxes": round(float(own[:, 3].mean()), 2),
                "over_1.5_px_or_3_percent": round(float((seen[:, 2] > np.maximum(1.5, 0.03 * seen[:, 0])).mean()), 3),
            }
    return result


def replaced_sheet(plates: list[tuple[np.ndarray, Region]]) -> np.ndarray:
    """Before and after, twelve plates from narrow to wide; outlines are found, not given."""
    wide = sorted((p for p in plates if p[1].size_wh[0] >= 24), key=lambda p: p[1].size_wh[0])
    known = [style for key, style in load_styles().items() if key != "unspecified"]
    cells = []
    for n, place in enumerate(np.linspace(0, len(wide) - 1, 12).astype(int)):
        image, region = wide[place]
        style = known[(5 * n) % len(known)]
        drawn = Drawn(style, serials.draw(style, np.random.default_rng(n)), 0.65, n)
        new, _ = replace(image, without_quad(region), drawn)
        width, height = region.size_wh
        margin = max(0.4 * width, height)
        x_min, y_min, x_max, y_max = region.box_xyxy
        rows = slice(max(0, round(y_min - margin)), round(y_max + margin))
        columns = slice(max(0, round(x_min - margin)), round(x_max + margin))
        cells += [images.resize(np.ascontiguousarray(picture[rows, columns]), (88, 152)) for picture in (image, new)]
    return images.sheet(cells, (88, 152), columns=6)


def write(file: Path, page: np.ndarray) -> None:
    """A small PNG of 256 colors."""
    Image.fromarray(page).quantize(256).save(file, optimize=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    folder = ROOT / "docs" / "plates"
    folder.mkdir(exist_ok=True)
    write(folder / "styles.png", styles_sheet())
    write(folder / "finish.png", finish_sheet())
    with tempfile.TemporaryDirectory() as place:
        plates = street(Path(place))
    RESULT.write_text(json.dumps(corner_errors(plates), indent=2) + "\n")
    print(RESULT.read_text())
    write(folder / "replaced.png", replaced_sheet(plates))


if __name__ == "__main__":
    main()

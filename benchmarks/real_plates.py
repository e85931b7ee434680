"""Does a reader that learned from rendered plates read real ones? The renderer's realism is what this measures.

``python benchmarks/real_plates.py --real DIR [--steps N] [--plates N] [--name WHAT]``: ``DIR`` holds ``images`` and
``plate_texts.csv`` (image, x, y, w, h, text, country). Takes the shipped reader, fits it further on rendered plates,
and writes character error rate and exact reads of both, by the plates' height, to ``benchmarks/results/``, and which
characters are taken for which. Aggregates alone are written: neither a real text nor what was read of one.

``--steps 0`` judges the shipped reader alone. Where a GPU is and no photographs are, ``--device cuda --keep FILE``
fits a reader anew and keeps it (rendering 30,000 plates is most of it: 16 cores, three minutes);
``--real DIR --network FILE`` judges it elsewhere.
"""

import argparse
import csv
import difflib
import itertools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from anony_pipeline.fitting import reader, rendering
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.models import weights
from anony_pipeline.models.reader import INPUT_HW, PlateNet, ReaderTwin, decode_ctc, load_reader_twin
from anony_pipeline.ops import images
from anony_pipeline.plates import serials

RESULT = Path(__file__).parent / "results" / "real_plates.json"
HEIGHTS = ((0, 20), (20, 40), (40, 10_000))
MARGIN = 0.06


def real_plates(root: Path) -> list[tuple[np.ndarray, str, str, float]]:
    """Crop, text, country and height in px of each labeled plate."""
    found = []
    with (root / "plate_texts.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            image = images.read(root / "images" / row["image"])
            x, y, width, height = (float(row[name]) for name in "xywh")
            off = MARGIN * height
            left, top = max(0, round(x - off)), max(0, round(y - off))
            crop = image[top : round(y + height + off), left : round(x + width + off)]
            found.append((crop, serials.normalize(row["text"]), row["country"], height))
    return found


def judged(twin: torch.nn.Module, plates: list[tuple[np.ndarray, str, str, float]]) -> dict[str, dict[str, float]]:
    """Exact reads and character error rate, by height and by country, and how often which character is misread."""
    twin.eval()
    rows = []
    taken: Counter[str] = Counter()
    with torch.no_grad():
        for crop, text, country, height in plates:
            pixels = images.to_tensor([crop])
            pixels = F.interpolate(pixels, INPUT_HW, mode="bilinear", antialias=True)
            read = decode_ctc(twin(pixels))[0].text
            rows.append((country, height, read == text, serials.edit_distance(read, text), len(text)))
            taken.update(confusions(text, read))
    groups = {
        f"{low} px or more, below {high}" if high < 10_000 else f"{low} px or more": (low, high)
        for low, high in HEIGHTS
    }
    result = {}
    for country in ("all", *sorted({row[0] for row in rows})):
        for name, (low, high) in groups.items():
            own = [row for row in rows if low <= row[1] < high and country in ("all", row[0])]
            if own:
                errors, characters = sum(row[3] for row in own), sum(row[4] for row in own)
                result[f"{country}, {name}"] = {
                    "plates": len(own),
                    "exact": round(sum(row[2] for row in own) / len(own), 3),
                    "character_error_rate": round(errors / characters, 3),
                }
    return result | {"taken for another, often": {pair: count for pair, count in taken.most_common(15) if count > 2}}


def confusions(text: str, read: str) -> list[str]:
    """Which characters were read as which; ``-`` stands for none."""
    pairs = []
    for operation, a, b, c, d in difflib.SequenceMatcher(None, text, read, autojunk=False).get_opcodes():
        if operation != "equal":
            pairs += [f"{old} as {new}" for old, new in itertools.zip_longest(text[a:b], read[c:d], fillvalue="-")]
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--plates", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--name", default="fitted on all styles")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, help="fit a reader anew and keep it here")
    parser.add_argument("--network", type=Path, help="judge what was kept")
    options = parser.parse_args()
    if options.keep:
        weights.save_half(options.keep, fitted(options, None)[0].cpu())
        return
    if options.real is None:
        parser.error("--real is needed to judge")
    plates = real_plates(options.real)
    twin = load_reader_twin()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if options.network:
        network = weights.load_into(PlateNet(), weights.load_safetensors(options.network), options.network)
        results[options.name] = judged(ReaderTwin(network), plates)
    else:
        results["shipped reader"] = judged(twin, plates)
        print(json.dumps(results["shipped reader"], indent=1), flush=True)
        if options.steps:
            network, how = fitted(options, twin.network)
            results[options.name] = judged(ReaderTwin(network.cpu()), plates) | {"how": how}
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def fitted(options: argparse.Namespace, start: torch.nn.Module | None) -> tuple[torch.nn.Module, dict[str, int]]:
    """A reader that learned from rendered plates, and how."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rendered = rendering.render_plates(options.plates, Path(folder), seed=71)
        print(f"rendered in {time.perf_counter() - begin:.0f} s", flush=True)
        rate = 2e-3 if start is None else 7e-4
        plan = Plan(options.steps, 5, torch.device(options.device), Path(folder) / "state", learning_rate=rate)
        network = reader.fit_reader("reader", rendered, plan, batch=options.batch, start=start)
    how = {"steps": options.steps, "batch": options.batch, "rendered_plates": options.plates}
    return network, how | {"seconds": round(time.perf_counter() - begin)}


if __name__ == "__main__":
    main()

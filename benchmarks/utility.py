"""What anonymized images are worth for training: a detector trained on them, tested on originals.

Run:   make demo; python benchmarks/utility.py [--checkpoint DIR] [--methods ...] [--device cuda]
Takes: half a minute a fit on a large GPU, ten times as long on one core; what is in the result file already is not
       measured again.

The shipped detector, which saw other streets, cameras and plates, goes on learning on the train images as each method
leaves them, with their labels unchanged, and is tested on original val images. Every method
gets the same seeds: equal crops in equal order. So differences are paired by seed, and their 95 % intervals
(Student's t over seeds) say what chance does, and nothing about other data than these procedural scenes.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from anony_pipeline.anonymize.loading import load_anonymizer
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import loaders, raw, unify
from anony_pipeline.datasets.sources import Split
from anony_pipeline.evaluation import baselines
from anony_pipeline.evaluation.methods import Method
from anony_pipeline.evaluation.methods import Scene as Street
from anony_pipeline.fitting.detector import average_precision, fit_detector
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.fitting.rendering import Scenes
from anony_pipeline.models.detector import Detector, load_shipped_detector
from anony_pipeline.structures.regions import CATEGORY_IDS, boxes_of

RESULT = Path(__file__).parent / "results" / "utility.json"
METHODS = ("originals", "anonymizer", "blur", "solid", "pixelate", "inpaint")
BATCH, CROP_PX, STEPS, SEEDS, LEARNING_RATE = 8, 320, 200, 10, 5e-4


def treated(config: Config, split: Split, method: Method | None) -> Scenes:
    """A split as a method leaves it; None leaves it as it is. Crowds are not labelled."""
    found = Scenes([], [], [], [])
    for example in loaders.examples(loaders.open_split(config, split)):
        street = Street(example.image_rgb, example.regions, example.annotations, example.image)
        found.images.append(street.image_rgb if method is None else method.apply([street])[0].image_rgb)
        kept = [r for r, a in zip(example.regions, example.annotations, strict=True) if not a.get("iscrowd")]
        found.boxes.append(boxes_of(kept))
        found.labels.append(np.array([CATEGORY_IDS[region.kind] for region in kept], int))
        found.not_exhaustive.append(tuple(example.image["not_exhaustive_category_ids"]))
    return found


def method_of(name: str, checkpoint: Path) -> Method | None:
    """A method by its name, on the labelled boxes."""
    if name == "originals":
        return None
    if name == "anonymizer":
        return baselines.Generated(load_anonymizer(checkpoint, "cpu", secret=b"benchmark" * 4), "ground_truth")
    return baselines.redaction(name)


def measured(train: Scenes, val: Scenes, seed: int, device: torch.device) -> dict[str, float]:
    """Train one detector and test it."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(STEPS, seed, device, Path(folder) / "state", LEARNING_RATE)
        start = load_shipped_detector(device=str(device)).requires_grad_().train()
        detector = fit_detector("detector", train, plan, batch=BATCH, crop_px=CROP_PX, start=start)
    return tested(detector, val)


def tested(detector: Detector, val: Scenes) -> dict[str, float]:
    """Average precision at an IoU of 0.5 on originals, by kind."""
    return {name: round(value, 4) for name, value in average_precision(detector.eval(), val).items()}


def compared(rows: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, object]]:
    """Means over seeds, and each method's paired difference to the originals."""
    table: dict[str, dict[str, object]] = {}
    for name, by_seed in rows.items():
        table[name] = {}
        for metric in ("ap50_face", "ap50_license_plate"):
            seeds = sorted(by_seed.keys() & rows.get("originals", {}).keys())
            values = np.array([by_seed[seed][metric] for seed in seeds])
            entry: dict[str, object] = {"mean": round(float(values.mean()), 4), "seeds": len(seeds)} if seeds else {}
            if name != "originals" and len(seeds) > 1:
                entry["minus_originals"] = paired(values, [rows["originals"][seed][metric] for seed in seeds])
            table[name][metric] = entry
    return table


def paired(values: np.ndarray, others: Sequence[float]) -> dict[str, float | list[float]]:
    """The mean difference of pairs with its 95 % interval."""
    difference = values - np.array(others)
    half = float(stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference))
    mean = float(difference.mean())
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("outputs/demo/checkpoints/step_000040"), help="the demo's"
    )
    parser.add_argument("--config", default="configs/demo.yaml", help="names the data")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    config = loading.load([options.config])
    raw.provide(config.data, Path(config.paths.cache))
    unify.ensure_unified(config)
    val = treated(config, "val", None)
    settings = {"batch": BATCH, "crop_px": CROP_PX, "steps": STEPS, "learning_rate": LEARNING_RATE}
    settings["device"] = options.device
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    rows = before.get("rows", {}) if before.get("settings") == settings else {}
    untrained = tested(load_shipped_detector(), val)
    trained_on = {name: treated(config, "train", method_of(name, options.checkpoint)) for name in options.methods}
    for seed, name in itertools.product(range(options.seeds), options.methods):
        if str(seed) in rows.get(name, {}):
            continue
        rows.setdefault(name, {})[str(seed)] = measured(trained_on[name], val, seed, device)
        result = {
            "benchmark": "utility",
            "settings": settings,
            "images": {"train": len(trained_on[name].images), "val": len(val.images)},
            "val_regions": {
                kind.value: int(sum((labels == number).sum() for labels in val.labels))
                for kind, number in CATEGORY_IDS.items()
            },
            "before_training": untrained,
            "compared": compared(rows),
            "rows": rows,
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(seed, name, json.dumps(rows[name][str(seed)]), flush=True)


if __name__ == "__main__":
    main()

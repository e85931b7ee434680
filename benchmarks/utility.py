"""What anonymized images are worth for training: a detector trained on them, tested on originals.

Run:   make demo; python -m benchmarks.utility [--checkpoint DIR] [--methods ...] [--seeds 5] [--jobs 8]
                                               [--device cuda:0 cuda:1] [--work DIR]
Takes: half a minute a fit on a large GPU, ten times as long on one core. Each fit is written when it is done, and fits
       that `--work` holds of the same checkpoint are kept: it may be stopped and started again, elsewhere too.

The shipped detector, which saw other streets, cameras and plates, goes on learning on the demo's train images as each
method leaves them, with their labels unchanged, and is tested on original streets that neither it nor the generator was
trained on, the ablation's (`ablation.JUDGED`). Every method gets the same seeds: equal crops in equal order. So
differences are paired by seed, and their 95 % intervals (Student's t over seeds) say what chance does, and nothing
about other data than these procedural scenes.

`anonymizer` is what users get: a face that is still recognized is filled with one color, and its box says "face" all
the same. `unverified` lets all out that was generated, and tells that price apart; `treated` counts it.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from anony_pipeline.anonymize.loading import load_anonymizer
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import loaders, raw, unify
from anony_pipeline.evaluation import baselines
from anony_pipeline.evaluation.methods import Method, Scene
from anony_pipeline.evaluation.run import scenes_of
from anony_pipeline.fitting.detector import average_precision, fit_detector
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.fitting.rendering import Scenes
from anony_pipeline.models.detector import Detector, load_shipped_detector
from anony_pipeline.ops import images
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.structures.regions import CATEGORY_IDS, boxes_of
from benchmarks import ablation

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "utility.json"
METHODS = ("originals", "anonymizer", "unverified", "pixelate", "blur", "inpaint", "solid")
SETTINGS = {"batch": 8, "crop_px": 320, "steps": 200, "learning_rate": 5e-4, "tested_on": ablation.JUDGED}
METRICS = ("ap50_face", "ap50_license_plate")
Rows = dict[str, dict[str, dict[str, float]]]
"""Each fit's figures, by method and seed."""


class Places(NamedTuple):
    """Where test streets are, of all checkpoints, and what is one checkpoint's own."""

    shared: Path
    own: Path

    def treated(self, method: str) -> Path:
        return self.own / "treated" / method


# --- images -----------------------------------------------------------------------------------------------------------


def train_streets(config: Config) -> Iterable[Scene]:
    return scenes_of(loaders.open_split(config, "train"))


def labeled(streets: Iterable[Scene], pictures: Iterable[np.ndarray]) -> Scenes:
    """Images with the labels of the streets that they show. Crowds are not labeled."""
    found = Scenes([], [], [], [])
    for street, picture in zip(streets, pictures, strict=True):
        kept = [r for r, a in zip(street.regions, street.annotations, strict=True) if not a.get("iscrowd")]
        found.images.append(picture)
        found.boxes.append(boxes_of(kept))
        found.labels.append(np.array([CATEGORY_IDS[region.kind] for region in kept], int))
        found.not_exhaustive.append(tuple(street.record["not_exhaustive_category_ids"]))
    return found


def method_of(name: str, checkpoint: Path, device: str) -> Method | None:
    """A method by its name, on the labeled boxes; None leaves images as they are."""
    if name == "originals":
        return None
    if name not in ("anonymizer", "unverified"):
        return baselines.redaction(name)
    anonymizer = load_anonymizer(checkpoint, device, secret=b"benchmark" * 4)
    if name == "unverified":
        anonymizer.verifier = ablation.LetAllOut()
    return baselines.Generated(anonymizer, "ground_truth")


def treat(name: str, checkpoint: Path, config: Config, device: str, folder: Path) -> None:
    """Write the train images as a method leaves them, and how many regions it treated how."""
    method, done = method_of(name, checkpoint, device), Counter[str]()
    with atomic.folder(folder) as part:
        for number, street in enumerate(train_streets(config)):
            picture = street.image_rgb
            if method is not None:
                (treated,) = method.apply([street])
                picture = treated.image_rgb
                done.update(treated.done)
            images.write(part / f"{number:05d}.png", picture)
        atomic.write_json(part / "treated.json", dict(sorted(done.items())))


# --- one fit, in a process of its own ---------------------------------------------------------------------------------


def fitted(name: str, seed: int, device: torch.device, config: Config, places: Places) -> dict[str, float]:
    """Train one detector and test it."""
    pictures = (images.read(path) for path in sorted(places.treated(name).glob("*.png")))
    train = labeled(train_streets(config), pictures)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(SETTINGS["steps"], seed, device, Path(folder) / "state", SETTINGS["learning_rate"])
        start = load_shipped_detector(device=str(device)).requires_grad_().train()
        sizes = {"batch": SETTINGS["batch"], "crop_px": SETTINGS["crop_px"]}
        detector = fit_detector("detector", train, plan, **sizes, start=start)
    return tested(detector, config, places)


def tested(detector: Detector, config: Config, places: Places) -> dict[str, float]:
    """Average precision at an IoU of 0.5 on originals, by kind."""
    found = average_precision(detector.eval(), original_streets(config, places))
    return {name: round(value, 4) for name, value in found.items()}


def original_streets(config: Config, places: Places) -> Scenes:
    """What all detectors are tested on."""
    streets = list(ablation.judged_scenes(ablation.judged_on(config, places.shared)))
    return labeled(streets, [street.image_rgb for street in streets])


# --- comparing --------------------------------------------------------------------------------------------------------


def compared(rows: Rows) -> dict[str, dict[str, Any]]:
    """Means over seeds, and each method's paired difference to the originals and to the anonymizer."""
    table: dict[str, dict[str, Any]] = {}
    for name, by_seed in rows.items():
        table[name] = {}
        for metric in METRICS:
            values = [figures[metric] for figures in by_seed.values()]
            table[name][metric] = {"mean": round(float(np.mean(values)), 4), "seeds": len(values)}
            for other in ("originals", "anonymizer"):
                difference = paired(by_seed, rows.get(other, {}), metric)
                if name != other and difference is not None:
                    table[name][metric][f"minus_{other}"] = difference
    return table


def paired(
    one: dict[str, dict[str, float]], other: dict[str, dict[str, float]], metric: str
) -> dict[str, float | list[float]] | None:
    """The mean difference over the seeds of both with its 95 % interval; None of fewer than two."""
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    difference = np.array([one[seed][metric] - other[seed][metric] for seed in seeds])
    half = float(stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference))
    mean = float(difference.mean())
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)]}


# --- all fits ---------------------------------------------------------------------------------------------------------


def made_with(checkpoint: Path) -> dict[str, Any]:
    """What fits must have in common to be compared."""
    version = manifests.sha256_of(checkpoint / manifests.NAME)
    return {"checkpoint": version, "weights": ablation.made_with()["weights"], "settings": SETTINGS}


def finished(places: Places, common: dict[str, Any]) -> Rows:
    rows: Rows = {}
    for path in sorted((places.own / "fits").glob("*.json")):
        name, seed = path.stem.rsplit("+", 1)
        fit = json.loads(path.read_text())
        if fit["made_with"] == common:
            rows.setdefault(name, {})[seed] = fit["figures"]
    return {name: rows[name] for name in METHODS if name in rows}


def fits_by_device(places: Places) -> dict[str, str]:
    """Which fits were computed where: a fit begun on one machine is ended there, but not all need be."""
    found: dict[str, list[str]] = {}
    for path in sorted((places.own / "fits").glob("*.json")):
        found.setdefault(json.loads(path.read_text())["device"], []).append(path.stem)
    return {device: " ".join(names) for device, names in found.items()}


def facts_of(options: argparse.Namespace, common: dict[str, Any], config: Config, places: Places) -> dict[str, Any]:
    """What is the same in all fits."""
    test = original_streets(config, places)
    return {
        "benchmark": "utility",
        "made_with": common,
        "train_images": len(loaders.open_split(config, "train").images),
        "test_images": len(test.images),
        "test_regions": {
            kind.value: int(sum((labels == number).sum() for labels in test.labels))
            for kind, number in CATEGORY_IDS.items()
        },
        "before_training": tested(load_shipped_detector(device=options.device[0]), config, places),
    }


def write(facts: dict[str, Any], rows: Rows, places: Places) -> None:
    """The result, of the fits that are there."""
    if not rows:
        return
    treated = {name: json.loads((places.treated(name) / "treated.json").read_text()) for name in rows}
    result = {**facts, "fits_by_device": fits_by_device(places), "treated": treated}
    result |= {"compared": compared(rows), "rows": rows}
    atomic.write_text(RESULT, json.dumps(result, indent=1) + "\n")


def run(options: argparse.Namespace, config: Config, common: dict[str, Any], places: Places) -> list[str]:
    """Treat and fit what is missing; returns the fits that failed."""
    for streets in (config, ablation.judged_on(config, places.shared)):
        raw.provide(streets.data, Path(streets.paths.cache))
        unify.ensure_unified(streets)
    known, failed = finished(places, common), []
    missing = [(s, n) for s in range(options.seeds) for n in options.methods if str(s) not in known.get(n, {})]
    given = ["--checkpoint", options.checkpoint, "--config", options.config, "--work", places.shared]
    threads, turns = max(1, (os.cpu_count() or 1) // options.jobs), ablation.Turns(options.device)

    def start(*what: object) -> None:
        turns.alone([str(part) for part in (*what, *given)], threads, __file__)

    with ThreadPoolExecutor(options.jobs) as pool:
        left_over = [name for name in options.methods if not (places.treated(name) / "treated.json").exists()]
        list(pool.map(lambda name: start("--treat", name), left_over))
        facts = facts_of(options, common, config, places)
        waiting = {pool.submit(start, "--fit", name, "--seed", seed): f"{name}, seed {seed}" for seed, name in missing}
        for done in as_completed(waiting):
            failed += [waiting[done]] if done.exception() is not None else []
            print(waiting[done], "done" if done.exception() is None else "failed", flush=True)
            write(facts, finished(places, common), places)
    write(facts, finished(places, common), places)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("outputs/demo/checkpoints/step_000120"), help="the demo's"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"), help="names the data")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="fits of each method; with 0 images are treated, no more")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    parser.add_argument("--device", nargs="+", default=["cpu"], help="several share the fits")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "utility", help="holds images and finished fits"
    )
    parser.add_argument("--treat", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--fit", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.checkpoint, options.config = options.checkpoint.resolve(), options.config.resolve()
    config, common = loading.load([options.config]), made_with(options.checkpoint)
    # What verification lets out depends on the shipped judges, too.
    own = f"{common['checkpoint'][:12]}-{common['weights']}"
    places = Places(options.work.resolve(), options.work.resolve() / own)
    if options.treat:
        treat(options.treat, options.checkpoint, config, options.device[0], places.treated(options.treat))
    elif options.fit:
        figures = fitted(options.fit, options.seed, torch.device(options.device[0]), config, places)
        path = places.own / "fits" / f"{options.fit}+{options.seed}.json"
        where = ablation.device_name(torch.device(options.device[0]))
        atomic.write_json(path, {"made_with": common, "device": where, "figures": figures})
    elif failed := run(options, config, common, places):
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()

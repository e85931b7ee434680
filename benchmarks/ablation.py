"""What each part of joint training is worth, and whether the plan's tuning table comes true.

Run:   python -m benchmarks.ablation [--rows demo no_id ...] [--seeds 3] [--jobs 8] [--device cuda:0 cuda:1]
                                      [--work DIR]
       python -m benchmarks.ablation --tables-only
Takes: a row and seed about four minutes of one CPU core, a long one six. It needs a checkout and the package's
       dependencies, no network and no data. A row is written when it is done, and rows that `--work` holds already are
       kept: it may be stopped and started again, elsewhere too. Long rows come first.

A row is the demo with something changed: trained by the demo's length on the demo's streets, and judged, by judges that
are in no loss, on other streets of the same kind (`JUDGED`): the demo's own 23 val plates tell too little. What the
generator makes is judged as it is: nothing is refused by verification, which would hide what a setting does.

Rows and seeds are pairs: the same judged images, and with equal seeds the same batches and noise. Intervals of 95 %
hold what other images would change (the delete-half jackknife over images; over steps for figures of training) and,
with two seeds or more, what other seeds would (Student's t). Written: results/ablation.json and docs/ablation.md.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from anony_pipeline.anonymize.loading import load_anonymizer, open_checkpoint
from anony_pipeline.anonymize.verifying import Verdict
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import loaders, raw, unify
from anony_pipeline.evaluation import baselines, detection, fid, plate_reading, reidentification
from anony_pipeline.evaluation.judges import Judges, load_judges
from anony_pipeline.evaluation.methods import Scene, Treated
from anony_pipeline.evaluation.observations import Asked, Observed, Observer, Subjects
from anony_pipeline.evaluation.run import IMAGES_AT_ONCE, scenes_of
from anony_pipeline.models import weights
from anony_pipeline.runtime.device import choose_device
from anony_pipeline.storage import atomic
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import journal, loop

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "demo.yaml"
RESULT = ROOT / "benchmarks" / "results" / "ablation.json"
PAGE = ROOT / "docs" / "ablation.md"
JUDGED = {"seed": 1, "people": 80, "scenes": 150}
"""Streets that nobody was trained on (see `judged_scenes`)."""
HALVES = 60
"""Random halves of the images, the same in all rows."""

LONG_STEPS = 200
LONG = [f"training.max_steps={LONG_STEPS}"]
ROWS: dict[str, list[str]] = {
    "demo": [],
    # A rate of next to nothing leaves the base model as it is, and the detector too.
    "base": ["lr.generator=1e-12", "lr.detector=1e-12", "training.pretrain_steps=1", "training.max_steps=2"],
    "no_l1": ["loss.l1_weight=0"],
    "no_perceptual": ["loss.perceptual_weight=0"],
    "no_id": ["loss.id_suppress_weight=0"],
    "no_adv": ["loss.adv_weight=0"],
    "no_detection": ["loss.detection_weight=0"],
    "no_reading": ["loss.reading_weight=0"],
    "no_discriminator": ["model.discriminator.enabled=false"],
    "full_finetuning": ["model.finetune.use_lora=false", "lr.generator=2.0e-4"],
    "detector_frozen": ["alternating.detector=0"],
    "two_steps": ["face_steps=2", "plate_steps=2"],
    "four_steps": ["face_steps=4", "plate_steps=4"],
    "anchor_0.05": ["plate_text_anchor_strength=0.05"],
    "anchor_0.4": ["plate_text_anchor_strength=0.4"],
    "anchor_0.8": ["plate_text_anchor_strength=0.8"],
    "id_0.25": ["loss.id_suppress_weight=0.25"],
    "id_1": ["loss.id_suppress_weight=1.0"],
    "id_10": ["loss.id_suppress_weight=10"],
    # The discriminator begins with random weights and knows nothing after few steps: what it is worth shows later.
    "long": LONG,
    "long_no_adv": [*LONG, "loss.adv_weight=0"],
    "long_adv_0.1": [*LONG, "loss.adv_weight=0.1"],
    "long_adv_1": [*LONG, "loss.adv_weight=1.0"],
    "long_channels_64": [*LONG, "model.discriminator.channels=64"],
    # What the hinge asks for is done with few faces of a batch already: a weaker one may need longer to show.
    "long_no_id": [*LONG, "loss.id_suppress_weight=0"],
    "long_id_1": [*LONG, "loss.id_suppress_weight=1.0"],
    "not_clipped": ["training.max_gradient_norm=1e9"],
    "clipped_at_0.1": ["training.max_gradient_norm=0.1"],
    "rate_2e-3": ["lr.generator=2.0e-3"],
    "rate_2e-4": ["lr.generator=2.0e-4"],
    "discriminator_rate_2e-3": ["lr.discriminator=2.0e-3"],
    "batch_8": ["training.batch_size=8"],
    "batch_2": ["training.batch_size=2"],
    "last_blocks_only": ['model.finetune.learnable_layers=["unet.mid_block", "unet.up_blocks[-1]"]'],
    "small_font": ["plate_text_font_ratio_min=0.35", "plate_text_font_ratio_max=0.45"],
    "large_font": ["plate_text_font_ratio_min=0.75", "plate_text_font_ratio_max=0.85"],
    "half_size": ["model.generator.face_size=64", "model.generator.plate_height=32"],
}

WHOLE = ("demo", "long")
"""What the other rows are compared with: those that train longer with the longer one."""

FIGURES: dict[str, tuple[str, int]] = {
    "similarity": ("similarity", 3),
    "rank1": ("rank-1", 3),
    "kid_faces": ("KID x 100, faces", 2),
    "kid_plates": ("KID x 100, plates", 2),
    "sameness": ("sameness", 3),
    "plate_reads": ("plate reads", 3),
    "plate_cer": ("plate CER", 3),
    "plate_leak": ("plate leak", 3),
    "map_held_out": ("mAP, held-out", 3),
    "map_own": ("mAP, own", 3),
    "unsteadiness": ("unsteadiness", 3),
    "step_seconds": ("s a step", 2),
    "peak_gb": ("peak GB", 2),
}
"""Title and digits of each. The judged ones are the scorecard's, as it defines them, on given boxes; `kid` by kind."""
JUDGED_FIGURES = tuple(FIGURES)[:10]


class Line(NamedTuple):
    """One line of the plan's tuning table (sections 7 and 9): along the rows the figure shall go that way."""

    purpose: str
    knob: str
    rows: tuple[str, ...]
    figure: str
    rises: bool


IDENTITY = "`id_suppress_weight`"
LINES = (
    Line("sharper characters", "more `plate_steps`", ("demo", "two_steps", "four_steps"), "plate_cer", False),
    Line(
        "sharper characters",
        "less `plate_text_anchor_strength`",
        ("anchor_0.8", "anchor_0.4", "demo", "anchor_0.05"),
        "plate_cer",
        False,
    ),
    Line("less similarity", f"more {IDENTITY}", ("no_id", "demo", "id_0.25", "id_1"), "similarity", False),
    Line("its price: distorted faces", f"far more {IDENTITY}", ("demo", "id_1", "id_10"), "kid_faces", True),
    Line("less similarity, later", f"more {IDENTITY}", ("long_no_id", "long", "long_id_1"), "similarity", False),
    Line("more real", "more `adv_weight`", ("long_no_adv", "long", "long_adv_0.1"), "kid_faces", False),
    Line("more real", "a larger discriminator", ("long", "long_channels_64"), "kid_faces", False),
    Line("its price: collapsed modes", "far more `adv_weight`", ("long_adv_0.1", "long_adv_1"), "sameness", True),
    Line("its price: artifacts", "far more `adv_weight`", ("long_adv_0.1", "long_adv_1"), "kid_faces", True),
    Line("steadier training", "clip gradients", ("not_clipped", "demo", "clipped_at_0.1"), "unsteadiness", False),
    Line("steadier training", "less `lr.generator`", ("rate_2e-3", "demo", "rate_2e-4"), "unsteadiness", False),
    Line("steadier training", "less `lr.discriminator`", ("discriminator_rate_2e-3", "demo"), "unsteadiness", False),
    Line("steadier discriminator", "less `adv_weight`", ("long_adv_1", "long_adv_0.1", "long"), "unsteadiness", False),
    Line("less memory", "smaller `training.batch_size`", ("batch_8", "demo", "batch_2"), "peak_gb", False),
    Line("less memory", "LoRA on fewer layers", ("demo", "last_blocks_only"), "peak_gb", False),
    Line("less memory", "no discriminator", ("demo", "no_discriminator"), "peak_gb", False),
    Line("faster", "fewer steps", ("four_steps", "two_steps", "demo"), "step_seconds", False),
    Line("faster", "half the resolution", ("demo", "half_size"), "step_seconds", False),
    Line("characters stay", "larger `plate_text_font_ratio`", ("small_font", "demo", "large_font"), "plate_cer", False),
)


def is_long(name: str) -> bool:
    """Whether a row trains longer than the demo."""
    return ROWS[name][:1] == LONG


# --- one row, in a process of its own ---------------------------------------------------------------------------------


def settings_of(name: str, seed: int, device: str, work: Path) -> Config:
    """The demo with a row's changes, on raw data, targets and caches that all rows share."""
    own, shared = work / "outputs" / f"{name}.{seed}", work / "demo"
    places = [f"paths.{key}={shared / key}" for key in ("unified", "targets", "cache")]
    places += [f"paths.outputs={own}", f"paths.private={own / 'private'}", f"seed={seed}", f"device={device}"]
    # What a row's validations would say is judged better afterwards; the least that there can be is left.
    quiet = ["training.validate_every_steps=1000000", "training.validation_regions=2"]
    return on_streets(loading.load([CONFIG], [*places, *quiet, *ROWS[name]]), shared)


def on_streets(config: Config, folder: Path, **changes: int) -> Config:
    """The configuration with procedural streets that lie elsewhere, or are others."""
    streets = config.data.streetscape.model_copy(update=changes)
    sources = tuple(
        source.model_copy(
            update={"root": str(folder / source.name), "ground_truth": str(folder / source.name / "ground_truth.json")}
        )
        for source in config.data.sources
    )
    return config.model_copy(
        update={"data": config.data.model_copy(update={"streetscape": streets, "sources": sources})}
    )


def judged_on(config: Config, work: Path) -> Config:
    folder = work / "judged"
    paths = config.paths.model_copy(update={key: str(folder / key) for key in ("unified", "targets", "cache")})
    return on_streets(config.model_copy(update={"paths": paths}), folder, **JUDGED)


def prepare(seed: int, device: str, work: Path) -> None:
    """Draw the streets, and make all that the rows of a seed share: two of them would make it at the same time."""
    config = settings_of("demo", seed, device, work)
    for streets in (config, judged_on(config, work)):
        raw.provide(streets.data, Path(streets.paths.cache))
        unify.ensure_unified(streets)
    loop.prepare(config, loaders.open_split(config, "train"))


class Costs:
    """What each action of joint training takes; asked after each one, as `should_stop` is."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.begun, self.counts_memory = device, False, True
        self.seconds: list[float] = []
        self.peaks_gb: list[float] = []

    def on_event(self, event: journal.Event) -> None:
        if event["event"] == "begin":
            self.begun = event["stage"] == "joint"
        if event["event"] != "step":  # that one comes between an action and its count
            self._restart()

    def should_stop(self) -> bool:
        if self.begun:
            self.seconds.append(self._clock() - self.since)
            self.peaks_gb.append(self._peak_bytes() / 1e9)
            self._restart()
        return False

    def _restart(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory is counted from here on
            except OSError:  # not on Linux, or in a container that hides it: then it is not measured
                self.counts_memory = False
        self.since = self._clock()

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def _peak_bytes(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not self.counts_memory:
            return float("nan")
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class LetAllOut:
    """A verifier that refuses nothing."""

    def originals(self, images, regions):
        return [None] * len(regions)

    def verdicts(self, images, results, regions, known):
        return [Verdict(True, None)] * len(regions)


@dataclasses.dataclass
class Seen:
    """What the judges saw of originals and results on the judged images."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    subjects: Subjects
    before: Observed
    after: Observed

    def __post_init__(self) -> None:
        kinds = np.array([kind.value for kind in self.subjects.kinds])
        shown = np.array(self.subjects.images)
        faces, plates = kinds == Kind.FACE.value, kinds == Kind.PLATE.value
        self.of_faces, self.of_plates, self.faces, self.plates = shown[faces], shown[plates], faces, plates
        old, new = (np.asarray(seen.embeddings["held_out"], np.float32) for seen in (self.before, self.after))
        persons = np.array(self.subjects.persons)[faces]
        gallery = reidentification.Faces(old, persons, self.of_faces)
        ranks = reidentification.rank(dataclasses.replace(gallery, embeddings=new), gallery)
        self.embeddings, self.cosines = new, reidentification.cosine(old, new)
        self.hits = np.where(ranks.known, ranks.hits(1), np.nan)
        texts = self.after.readings["held_out"]
        intended = [serial or "" for serial in self.after.intended]
        self.exact = plate_reading.exact(texts, intended)
        self.errors = plate_reading.character_errors(texts, intended)
        known = [self.subjects.serials[number] or "" for number in np.flatnonzero(plates)]
        readable = plate_reading.exact(self.before.readings["held_out"], known)
        self.leaks = np.where(readable, plate_reading.leaks(texts, known), np.nan)
        self.found = {panel: self.after.detected(panel) for panel in ("held_out", "training")}

    def figures(self, chosen: Sequence[int]) -> dict[str, float]:
        """All figures on some of the images."""
        faces, plates = np.isin(self.of_faces, chosen), np.isin(self.of_plates, chosen)
        return {
            "similarity": float(self.cosines[faces].mean()),
            "rank1": float(np.nanmean(self.hits[faces])),
            "kid_faces": 100 * self._kid(self.faces, faces),
            "kid_plates": 100 * self._kid(self.plates, plates),
            "sameness": mean_cosine(self.embeddings[faces]),
            "plate_reads": float(self.exact[plates].mean()),
            "plate_cer": float(self.errors[plates].mean()),
            "plate_leak": float(np.nanmean(self.leaks[plates])),
            "map_held_out": self._map("held_out", chosen),
            "map_own": self._map("training", chosen),
        }

    def _kid(self, of_kind: np.ndarray, chosen: np.ndarray) -> float:
        real, made = (np.asarray(seen.features)[of_kind][chosen] for seen in (self.before, self.after))
        return fid.kid(real, made, np.random.default_rng(0), subsets=1).value

    def _map(self, panel: str, chosen: Sequence[int]) -> float:
        kept = set(chosen)
        return detection.average_precision(
            [image for image in self.images if image["id"] in kept],
            [annotation for annotation in self.annotations if annotation["image_id"] in kept],
            self.found[panel],
        ).map


def mean_cosine(vectors: np.ndarray) -> float:
    """Of two different rows of unit length: the scorecard's `diversity_mean_cosine`."""
    count = len(vectors)
    return float((np.square(vectors.sum(axis=0)).sum() - count) / (count * (count - 1)))


def judged_scenes(config: Config) -> Iterator[Scene]:
    """Images of both splits: all frames of drives, which have plates, and every third of the others, which have faces.

    Ids are made new: the splits' own count from 1 each.
    """
    splits = (scenes_of(loaders.open_split(config, split)) for split in ("train", "val"))
    numbers, others, names = itertools.count(1), itertools.count(), itertools.count(1)
    for scene in itertools.chain(*splits):
        if scene.record["source"] == "pp4av" or next(others) % 3 == 0:
            number = next(numbers)
            marked = [{**a, "id": next(names), "image_id": number} for a in scene.annotations]
            yield dataclasses.replace(scene, record={**scene.record, "id": number}, annotations=marked)


def judge(checkpoint: Path, config: Config, work: Path) -> Seen:
    """Let the checkpoint's generator fill all regions, and the judges look."""
    device = choose_device(config.device)
    opened = open_checkpoint(checkpoint, config)
    loaded = load_judges(config, opened, device)
    judges = Judges(
        {"held_out": loaded.recognizers["held_out"]},
        {"held_out": loaded.readers["held_out"]},
        loaded.detectors,
        loaded.features,
    )
    # The same serials in every row; another seed of training is no other seed of judging.
    anonymizer = load_anonymizer(checkpoint, str(device), secret=b"benchmark" * 4, here=config)
    anonymizer.verifier, anonymizer.seed = LetAllOut(), 0
    method = baselines.Generated(anonymizer, "ground_truth")
    observer, subjects, before, after = Observer(judges), Subjects(), Observed(), Observed()
    images, annotations = [], []
    for scenes in loaders.batches(judged_scenes(judged_on(config, work)), IMAGES_AT_ONCE):
        first = [len(subjects)]
        for scene in scenes:
            subjects.add(scene)
            first.append(len(subjects))
            images.append(scene.record)
            annotations += scene.annotations
        untouched = [Treated(scene.image_rgb) for scene in scenes]
        observer.observe(before, scenes, untouched, first[:-1], asked=Asked(detectors=()), original=True)
        observer.observe(after, scenes, method.apply(scenes), first[:-1])
    return Seen(images, annotations, subjects, before.finished(), after.finished())


def unsteadiness(rows: Sequence[dict[str, float]]) -> float:
    """How much the generator's gradient norm jumps: the spread of its logarithm, within steps of one kind."""
    mark = "id" if any("id" in row for row in rows) else "reading"  # one of the two losses may be switched off
    kinds = [[np.log(row["gradient_norm"]) for row in rows if (mark in row) is has] for has in (True, False)]
    spread = [np.square(np.array(kind) - np.mean(kind)) for kind in kinds if len(kind) > 1]
    return float(np.sqrt(np.concatenate(spread).mean())) if spread else float("nan")


def measured(name: str, seed: int, device: str, work: Path) -> dict[str, Any]:
    """Train and judge one row."""
    config = settings_of(name, seed, device, work)
    # What a row that was stopped has trained already would be missing in what it costs.
    shutil.rmtree(config.paths.outputs, ignore_errors=True)
    costs = Costs(choose_device(config.device))
    begin = time.monotonic()
    report = loop.train(config, mode="auto", on_event=costs.on_event, should_stop=costs.should_stop)
    trained = time.monotonic()
    seen = judge(report.checkpoint, config, work)
    judged = time.monotonic()
    steps = [row for row in journal.read_metrics(report.metrics_file) if "gradient_norm" in row]
    images = [image["id"] for image in seen.images]
    actions = list(zip(costs.seconds, costs.peaks_gb, strict=True))
    actions_a_step = len(actions) / len(steps)
    figures = seen.figures(images) | of_training(steps, actions, actions_a_step)
    halves = [
        seen.figures(half_of(images, number))
        | of_training(half_of(steps, number), half_of(actions, number), actions_a_step)
        for number in range(HALVES)
    ]
    return {
        "changed": ROWS[name],
        "device": device_name(costs.device),
        "trained_parameters": report.trained_parameters,
        "bad_steps": report.bad_steps,
        "seconds": {"training": round(trained - begin), "judging": round(judged - trained)},
        "judged": {"images": len(images), "faces": len(seen.of_faces), "plates": len(seen.of_plates)},
        "figures": {key: rounded(value) for key, value in figures.items()},
        "halves": {key: [rounded(half[key]) for half in halves] for key in figures},
    }


def of_training(
    steps: Sequence[dict[str, float]], actions: Sequence[tuple[float, float]], actions_a_step: float
) -> dict[str, float]:
    """Figures of training itself, of rows of `metrics.csv` and of each action's seconds and peak of memory."""
    seconds, peaks_gb = zip(*actions, strict=True)
    return {
        "unsteadiness": unsteadiness(steps),
        "step_seconds": float(np.mean(seconds)) * actions_a_step,
        "peak_gb": max(peaks_gb),
    }


def half_of(items: Sequence[Any], number: int) -> list[Any]:
    """One of the random halves: the same items in every row that has as many."""
    chosen = np.random.default_rng(number).permutation(len(items))
    return [items[place] for place in chosen[: max(1, len(items) // 2)]]


def rounded(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None


# --- comparing rows ---------------------------------------------------------------------------------------------------

TRUE, FALSE, OPEN, UNKNOWN = "comes true", "doesn't", "can't be told", "not measured"
Found = dict[str, dict[int, dict[str, Any]]]
"""Measured rows by name and seed."""


class Estimate(NamedTuple):
    """A mean over seeds, half of its 95 % interval's width, and how many seeds it is of."""

    mean: float
    half: float
    seeds: int


def estimate(values: np.ndarray, halves: np.ndarray) -> Estimate:
    """From figures of S seeds ``(S,)`` and the same on random halves ``(S, HALVES)``.

    The spread of halves around the whole is that of the whole's own estimate (Shao and Wu, 1989).
    """
    mean, seeds = float(values.mean()), len(values)
    of_images = 1.96 * float(np.sqrt(np.square(halves.mean(axis=0) - mean).mean()))
    of_seeds = float(stats.t.ppf(0.975, seeds - 1) * stats.sem(values)) if seeds > 1 else 0.0
    return Estimate(mean, float(np.hypot(of_images, of_seeds)), seeds)


def figure_of(found: Found, name: str, key: str) -> Estimate | None:
    """A row's figure."""
    known = [row for row in found.get(name, {}).values() if usable(row, key)]
    if not known:
        return None
    return estimate(np.array([row["figures"][key] for row in known]), np.array([row["halves"][key] for row in known]))


def difference(found: Found, first: str, second: str, key: str) -> Estimate | None:
    """The second row's figure minus the first's, paired by seed, image and step, of rows of one device."""
    one, two = found.get(first, {}), found.get(second, {})
    seeds = [
        seed
        for seed in sorted(one.keys() & two.keys())
        if usable(one[seed], key) and usable(two[seed], key) and one[seed]["device"] == two[seed]["device"]
    ]
    if not seeds:
        return None
    whole = [two[seed]["figures"][key] - one[seed]["figures"][key] for seed in seeds]
    halves = [np.subtract(two[seed]["halves"][key], one[seed]["halves"][key]) for seed in seeds]
    return estimate(np.array(whole), np.array(halves))


def usable(row: dict[str, Any], key: str) -> bool:
    return row["figures"].get(key) is not None and None not in row["halves"][key]


def verdict(line: Line, changed: Estimate | None) -> str:
    """What the interval of the last row minus the first says."""
    if changed is None:
        return UNKNOWN
    if abs(changed.mean) <= changed.half:
        return OPEN
    return TRUE if (changed.mean > 0) is line.rises else FALSE


# --- what is written --------------------------------------------------------------------------------------------------


def summary(found: Found) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name in (name for name in ROWS if found.get(name)):
        some = next(iter(found[name].values()))
        rows[name] = {key: some[key] for key in ("changed", "trained_parameters", "judged")}
        rows[name] |= {"seeds": sorted(found[name]), "bad_steps": [row["bad_steps"] for row in found[name].values()]}
        rows[name]["figures"] = {key: as_json(figure_of(found, name, key)) for key in FIGURES}
        if name not in WHOLE:
            with_it = WHOLE[is_long(name)]
            rows[name]["compared_with"] = with_it
            rows[name]["minus_it"] = {key: as_json(difference(found, with_it, name, key)) for key in FIGURES}
    lines = []
    for line in LINES:
        changed = difference(found, line.rows[0], line.rows[-1], line.figure)
        lines.append(line._asdict() | {"last_minus_first": as_json(changed), "verdict": verdict(line, changed)})
    devices = sorted({row["device"] for by_seed in found.values() for row in by_seed.values()})
    return {"benchmark": "ablation", "made_with": made_with(), "devices": devices, "rows": rows, "tuning_table": lines}


def as_json(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    low, high = found.mean - found.half, found.mean + found.half
    return {"mean": round(found.mean, 5), "interval": [round(low, 5), round(high, 5)], "seeds": found.seeds}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


PAGE_TEXT = """\
# What each part is worth

Made by `python -m benchmarks.ablation`, not by hand. Each row is the demo with something changed ({trainings} a row; {device}), judged by judges
that are in no loss on {faces} faces and {plates} plates of {images} images that nobody was trained on, on given boxes and without verification. Intervals are of
95 % and paired: rows have their images, their batches and their noise in common. Of {lines} true lines one may well miss by chance. {alone}The demo
trains for {steps} steps, `long` rows for {long}: what a setting does in a longer run on other data may differ.{since}

## The plan's tuning table

Does the figure go the plan's way, from the first setting to the last? {true} come true, {false} don't, {open} can't be told, {unknown} are not measured.

| for | do | rows | figure | values | last minus first | |
|---|---|---|---|---|---|---|
{tuning}

`plate CER`: character errors of the reading against the intended serial. `similarity`: mean cosine of a face to its original. `sameness`: mean cosine between generated
faces. `unsteadiness`: spread of the logarithm of the generator's gradient norm, within steps of one kind. `peak GB`: the most memory within a step.
`s a step`: the process's own CPU time, on a GPU time on the clock while other rows ran beside it.

## What bounds these effects

Looked at once, by hand, on the last checkpoint of a demo with an earlier base model (seven batches of four crops of each kind, one CPU core). A weight can change no more than its loss's
share of the gradient. Norms of the gradients of the weighted losses: on faces `detection` 0.107, `id` 0.034, `adv` 0.020, `perceptual` 0.019, `l1` 0.008; on plates
`reading` 0.125, `detection` 0.034, `l1` 0.023, `perceptual` 0.006, `adv` 0.0001.

- **`id_suppress_weight`.** The hinge asks for nothing below its margin, what 95 % of strangers stay under (here a cosine of 0.264): few faces of a batch are above it, the loss
  is 0.03 on average, and more weight moves those few alone. Similarity has a floor, hair and outline, that no weight reaches. Its price does not show here.
- **`adv_weight` and the discriminator's capacity.** The discriminator begins with random weights: its loss, which is 2 where it knows nothing, was
  2.00 over steps 1 to 80, 1.96 and 1.91 over the next forties, and 1.87 over steps 161 to 200. So the demo ends before it says anything, and `long` rows see it begin: a larger one
  makes faces more real, and so does one of five times the weight; fifty times is no better than five and less steady. In none of them do faces look more like each other.
- **Longer training** makes plates more real and detectors better (`long`), and faces less: distances to one target of many that would do pull them to a mean.
- **More steps** a face make faces less like their originals and more like each other, no more real, and keep less for detectors (`two_steps`, `four_steps`); characters are as good as after one: the base model was trained to be done in
  one step, and on plates never on what its own first step left.
- **Memory and speed** are those of a model of 5 M parameters, whose activations and critics weigh more than its adapters; on a CPU the peak is the whole process's, in which a
  discriminator of 16 channels is lost.

## Each part in turn

**Bold**: the interval of the difference to `demo`, of `long_` rows to `long`, leaves out 0. `base` is the shipped model, not adapted.

| row | {titles} |
|---{columns}|
{parts}

What each row changes, all figures and their intervals: `benchmarks/results/ablation.json`.
"""  # noqa: E501 - as wide as the other pages


CHANGED_SINCE = """ **The package's weights have
changed since**: these rows are of former ones (`made_with` in the JSON), and `base`
and `demo` have other figures now."""


def page(result: dict[str, Any]) -> str:
    """docs/ablation.md."""
    rows, lines = result["rows"], result["tuning_table"]
    said = [line["verdict"] for line in lines]
    counts = sorted({len(row["seeds"]) for row in rows.values()})
    trainings = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed(s)"
    return PAGE_TEXT.format(
        **next(iter(rows.values()))["judged"],
        trainings=trainings,
        steps=result["made_with"]["steps"],
        long=LONG_STEPS,
        device=", ".join(result["devices"]),
        lines=len(lines),
        alone="With one seed\nthey say nothing about another training run. " if counts[0] == 1 else "",
        since="" if result["made_with"]["weights"] == made_with()["weights"] else CHANGED_SINCE,
        true=said.count(TRUE),
        false=said.count(FALSE),
        open=said.count(OPEN),
        unknown=said.count(UNKNOWN),
        tuning="\n".join(line_of(line, rows) for line in lines),
        titles=" | ".join(FIGURES[key][0] for key in JUDGED_FIGURES),
        columns="|---" * len(JUDGED_FIGURES),
        parts="\n".join(row_of(name, row) for name, row in rows.items()),
    )


def line_of(line: dict[str, Any], rows: dict[str, Any]) -> str:
    title, digits = FIGURES[line["figure"]]
    values = ", ".join(value_of(rows.get(name), line["figure"], digits) for name in line["rows"])
    way = f"{title} {'rises' if line['rises'] else 'falls'}"
    names = ", ".join(f"`{name}`" for name in line["rows"])
    changed = line["last_minus_first"]
    interval = ""
    if changed is not None:
        low, high = changed["interval"]
        interval = f"{changed['mean']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    said = f"**{line['verdict']}**" if line["verdict"] == FALSE else line["verdict"]
    return f"| {line['purpose']} | {line['knob']} | {names} | {way} | {values} | {interval} | {said} |"


def row_of(name: str, row: dict[str, Any]) -> str:
    cells = []
    for key in JUDGED_FIGURES:
        value = value_of(row, key, FIGURES[key][1])
        changed = row.get("minus_it", {}).get(key)
        differs = changed is not None and changed["interval"][0] * changed["interval"][1] > 0
        cells.append(f"**{value}**" if differs else value)
    return f"| `{name}` | {' | '.join(cells)} |"


def value_of(row: dict[str, Any] | None, key: str, digits: int) -> str:
    figure = row["figures"][key] if row is not None else None
    return "-" if figure is None else f"{figure['mean']:.{digits}f}"


# --- all rows ---------------------------------------------------------------------------------------------------------


def made_with() -> dict[str, Any]:
    """What rows must have in common to be compared."""
    config = loading.load([CONFIG])
    streets = config.data.model_dump_json(exclude={"sources"})
    settings = config.model_dump_json(exclude={"paths", "device", "data", "evaluation", "checkpoint"})
    return {
        "weights": loading.fingerprint(json.dumps(weights.shipped_manifest()["files"], sort_keys=True)),
        "settings": loading.fingerprint(settings, streets),
        "steps": config.training.max_steps,
        "judged": JUDGED,
    }


def alone(what: Sequence[str], threads: int, script: str = __file__, more: Mapping[str, str] | None = None) -> None:
    """Run this file again, or another one, in a process of its own, with more in its environment.

    Raises:
        subprocess.CalledProcessError: If it fails; the end of what it said is printed before.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONWARNINGS": "ignore"}
    known = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    paths = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(known)}
    environment = {**os.environ, **quiet, **paths, **(more or {})}
    done = subprocess.run(
        [sys.executable, script, *what],
        check=False,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout[-3000:], flush=True)
        done.check_returncode()


class Turns:
    """Devices for jobs that run beside each other: each job takes the one that has the fewest."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.jobs, self.lock = dict.fromkeys(devices, 0), threading.Lock()

    @contextlib.contextmanager
    def device(self) -> Iterator[str]:
        with self.lock:
            chosen = min(self.jobs, key=self.jobs.__getitem__)
            self.jobs[chosen] += 1
        try:
            yield chosen
        finally:
            with self.lock:
                self.jobs[chosen] -= 1

    def alone(self, what: Sequence[str], threads: int, script: str = __file__) -> None:
        """As `alone`, on such a device, which is the only GPU that the process sees."""
        with self.device() as chosen:
            device, number = chosen.partition(":")[::2]
            alone([*what, "--device", device], threads, script, {"CUDA_VISIBLE_DEVICES": number} if number else {})


def finished(work: Path) -> Found:
    """The rows that the folder holds, of the shipped weights and the demo's settings as they are."""
    found: Found = {}
    common = made_with()
    for path in sorted((work / "rows").glob("*.json")):
        name, seed = path.stem.rsplit("+", 1)
        row = json.loads(path.read_text())
        if name in ROWS and row["made_with"] == common and row["changed"] == ROWS[name]:
            found.setdefault(name, {})[int(seed)] = row
    return found


def run(
    names: Sequence[str], seeds: int, jobs: int, devices: Sequence[str], work: Path, *, prepared: bool = False
) -> list[str]:
    """Measure what is missing, some rows at a time, seed by seed; returns the rows that failed."""
    cores, where, turns = os.cpu_count() or 1, ["--work", str(work)], Turns(devices)
    known, failed = finished(work), []
    missing = [(seed, name) for seed in range(seeds) for name in names if seed not in known.get(name, {})]
    missing.sort(key=lambda row: (row[0], not is_long(row[1])))
    for seed in sorted({seed for seed, _ in missing} if not prepared else ()):
        turns.alone(["--prepare", "--seed", str(seed), *where], cores)
    with ThreadPoolExecutor(jobs) as pool:
        begin = time.monotonic()
        waiting = {
            pool.submit(turns.alone, ["--measure", name, "--seed", str(seed), *where], max(1, cores // jobs)): (
                seed,
                name,
            )
            for seed, name in missing
        }
        for done in as_completed(waiting):
            seed, name = waiting[done]
            if done.exception() is not None:
                failed.append(f"{name}, seed {seed}")
            how = "done" if done.exception() is None else "failed"
            print(f"{time.monotonic() - begin:5.0f} s: {name}, seed {seed} {how}", flush=True)
            write(finished(work))
    write(finished(work))  # of rows that were all there, too
    return failed


def write(found: Found) -> None:
    """The result and the page, of the rows that are there."""
    if found:
        result = summary(found)
        atomic.write_text(RESULT, json.dumps(result, indent=1) + "\n")
        atomic.write_text(PAGE, page(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=1, help="trainings a row")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--device", nargs="+", default=["cpu"], help="several, which must be alike, share the rows")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "ablation", help="holds data and finished rows")
    parser.add_argument("--tables-only", action="store_true", help="of the rows that --work holds")
    parser.add_argument("--prepare", action="store_true", help="of --seed: draw and keep what its rows share, no more")
    parser.add_argument("--prepared", action="store_true", help="all seeds were: don't look")
    parser.add_argument("--measure", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work.resolve()
    if options.prepare:
        prepare(options.seed, options.device[0], work)
    elif options.measure:
        row = measured(options.measure, options.seed, options.device[0], work) | {"made_with": made_with()}
        atomic.write_json(work / "rows" / f"{options.measure}+{options.seed}.json", row)
    elif options.tables_only:
        write(finished(work))
    elif failed := run(options.rows, options.seeds, options.jobs, options.device, work, prepared=options.prepared):
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()

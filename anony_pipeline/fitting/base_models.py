"""Make every file of the package's weights from nothing: render, fit, export, measure, and write down how.

Each model is resumable, and a model that is made already is not made again. What is rendered and where fitting stands
lie beside the output, in ``<output>.work``, which can be removed afterwards.
"""

import functools
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anony_pipeline.errors import ConfigError
from anony_pipeline.fitting import (
    attributes,
    detector,
    distillation,
    generator,
    generator_crops,
    reader,
    recognizer,
    rendering,
    teacher,
)
from anony_pipeline.fitting.crop_store import CropStore
from anony_pipeline.fitting.loop import Clock, Plan, Progress
from anony_pipeline.models import weights
from anony_pipeline.models.demo_pipeline import build_demo_unet
from anony_pipeline.models.recognizer import ArcFaceNet, export_onnx
from anony_pipeline.runtime.device import choose_device
from anony_pipeline.runtime.progress import track
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.structures.regions import Kind

SEED = 20_26
LEGIBLE_PX = 24
SHARE_OF_THE_FORMER = 0.5
"""In the mean of a generator that went on from a former one, and of that (Wortsman et al., Robust Fine-Tuning of
Zero-Shot Models, 2022). It has the better part of both, measured at 0, 0.3, 0.5, 0.7 and 1: see docs/base_models.md."""
UNSEEN = 1_000_000
"""Seeds from here on are of people, plates and scenes that no network is fitted on."""


@dataclass(frozen=True)
class Amounts:
    """What ``scale=1`` renders and how many steps it trains."""

    people: int = 10_000
    views: int = 12
    plates: int = 80_000
    scenes: int = 2400
    recognizer_steps: int = 10_000
    recognizer_batch: int = 512
    reader_steps: int = 6000
    held_out_reader_steps: int = 12_000
    detector_steps: int = 2_800
    feature_steps: int = 10_000
    generator_steps: int = 6_000
    generator_faces: int = 40_000
    generator_plates: int = 13_000
    generator_batch: int = 64
    further_steps: int = 2_400
    teacher_steps: int = 8_000
    teacher_batch: int = 256
    teacher_channels: tuple[int, ...] = teacher.CHANNELS
    taught_faces: int = 38_400
    following_steps: int = 5_000
    distillation_steps: int = 6_000
    distillation_batch: int = 128
    batch: int = 256
    detector_batch: int = 24
    held_out_people: int = 200
    held_out_views: int = 6
    held_out_plates: int = 1000
    held_out_scenes: int = 120

    def scaled(self, scale: float) -> "Amounts":
        """Multiply data by a scale and steps by its root; batches shrink to what a small run can use.

        With a tenth of the steps, too, a reader reads nothing and a teacher draws noise: what must be learned before
        anything shows takes steps, however little there is to learn from. With two fifths of the teacher's width, and
        of its and the detector's batches, neither kept its floors at a tenth: down to there both keep all. So do what
        the teacher makes, which is no data, and the steps that follow it alone: in 3,162 steps, of which all but a
        fifth were sharpened, a generator that came from nothing was farther off the teacher's faces (0.131, on unseen
        crops) than those of two noises are apart (0.103).
        """

        def times(value: int, least: int) -> int:
            return max(least, round(value * scale))

        def taken(steps: int, least: int = 2) -> int:
            return max(least, round(steps * math.sqrt(scale)))

        small, wide = min(1.0, scale * 4), min(1.0, scale * 10)
        return Amounts(
            people=times(self.people, 8),
            views=max(3, round(self.views * min(1.0, scale * 8))),
            plates=times(self.plates, 32),
            scenes=times(self.scenes, 8),
            recognizer_steps=taken(self.recognizer_steps),
            recognizer_batch=max(16, round(self.recognizer_batch * small)),
            reader_steps=taken(self.reader_steps),
            held_out_reader_steps=taken(self.held_out_reader_steps),
            detector_steps=taken(self.detector_steps),
            feature_steps=taken(self.feature_steps),
            generator_steps=taken(self.generator_steps),
            generator_faces=times(self.generator_faces, 40),
            generator_plates=times(self.generator_plates, 24),
            generator_batch=max(4, round(self.generator_batch * small)),
            further_steps=taken(self.further_steps),
            teacher_steps=taken(self.teacher_steps),
            teacher_batch=max(4, round(self.teacher_batch * wide)),
            teacher_channels=tuple(max(32, round(channels * wide / 32) * 32) for channels in self.teacher_channels),
            taught_faces=max(8, round(self.taught_faces * wide)),
            following_steps=max(4, round(self.following_steps * wide)),
            distillation_steps=taken(self.distillation_steps, 4),
            distillation_batch=max(4, round(self.distillation_batch * wide)),
            batch=max(16, round(self.batch * small)),
            detector_batch=max(2, round(self.detector_batch * wide)),
            held_out_people=max(6, round(self.held_out_people * small)),
            held_out_views=max(3, round(self.held_out_views * small)),
            held_out_plates=max(16, round(self.held_out_plates * small)),
            held_out_scenes=max(4, round(self.held_out_scenes * small)),
        )


@dataclass(frozen=True)
class Pace:
    """How fitting goes; see `loop.Plan`.

    Attributes:
        until: Unix time at which fitting is over, in place of the steps of `Amounts`: of one model at a time; the
            generator takes its steps.
        graphed: Capture steps as CUDA graphs, where they can be.
        compiled: Compile the networks of those.
    """

    until: float | None = None
    graphed: bool = True
    compiled: bool = False


class Workshop:
    """What the makers of all models share: amounts, device, progress, and data that is rendered when first needed."""

    def __init__(
        self,
        output: Path,
        work: Path,
        amounts: Amounts,
        device: torch.device,
        progress: Progress = track,
        pace: Pace = Pace(),
        former: Path | None = None,
    ) -> None:
        self.output, self.work, self.amounts, self.device = output, work, amounts, device
        self.progress, self.pace, self.former = progress, pace, former

    def plan(self, name: str, steps: int, learning_rate: float, *, graphed: bool = False) -> Plan:
        """The plan for one model; ``graphed`` says whether its steps can be captured."""
        return Plan(
            steps,
            SEED,
            self.device,
            self.work / f"{name}.state.pt",
            learning_rate=learning_rate,
            progress=self.progress,
            until=self.pace.until,
            graphed=graphed and self.pace.graphed,
            compiled=graphed and self.pace.compiled,
        )

    @cached_property
    def faces(self) -> rendering.Faces:
        """People to fit on."""
        return self._faces(0, self.amounts.people, self.amounts.views)

    @cached_property
    def other_faces(self) -> rendering.Faces:
        """People to fit the held-out recognizer on: nobody of `faces`."""
        return self._faces(self.amounts.people, self.amounts.people, self.amounts.views)

    @cached_property
    def unseen_faces(self) -> rendering.Faces:
        """People to measure on."""
        return self._faces(UNSEEN, self.amounts.held_out_people, self.amounts.held_out_views)

    def _faces(self, first: int, people: int, views: int) -> rendering.Faces:
        seeds = range(first, first + people)
        return rendering.render_faces(seeds, views, self.work, seed=SEED, progress=self.progress)

    @cached_property
    def plates(self) -> rendering.Plates:
        """Plates to fit on, without the serials of `unseen_plates`."""
        return self._plates(SEED)

    @cached_property
    def other_plates(self) -> rendering.Plates:
        """Other plates, to fit the held-out reader on."""
        return self._plates(SEED + 1)

    def _plates(self, seed: int) -> rendering.Plates:
        held_out = set(self.unseen_plates.serials)
        plates = rendering.render_plates(self.amounts.plates, self.work, seed=seed, progress=self.progress)
        kept = [number for number, serial in enumerate(plates.serials) if serial not in held_out]
        serials = [plates.serials[number] for number in kept]
        return rendering.Plates(plates.images[kept], serials, plates.rows[kept], plates.heights[kept])

    @cached_property
    def unseen_plates(self) -> rendering.Plates:
        """Plates to measure on."""
        count = self.amounts.held_out_plates
        return rendering.render_plates(count, self.work, seed=SEED + UNSEEN, progress=self.progress)

    @cached_property
    def scenes(self) -> rendering.Scenes:
        """Scenes to fit on."""
        return rendering.render_scenes(self.amounts.scenes, self.work, seed=SEED, progress=self.progress)

    @cached_property
    def unseen_scenes(self) -> rendering.Scenes:
        """Scenes to measure on."""
        count = self.amounts.held_out_scenes
        return rendering.render_scenes(count, self.work, seed=SEED + UNSEEN, progress=self.progress)


Facts = dict[str, Any]
FILES = {
    "recognizer": ("recognizer.onnx", "recognizer.safetensors"),
    "held_out_recognizer": ("held_out_recognizer.onnx",),
    "reader": ("reader.safetensors",),
    "held_out_reader": ("held_out_reader.safetensors",),
    "detector": ("detector.safetensors",),
    "held_out_detector": ("held_out_detector.safetensors",),
    "features": ("features.safetensors",),
    "generator": (generator.SHIPPED_UNET,),
}
"""The files of each base model."""


def _make_recognizer(shop: Workshop, name: str) -> Facts:
    plan = shop.plan(name, shop.amounts.recognizer_steps, 3e-3, graphed=True)
    clock = Clock(plan)
    faces = shop.faces if name == "recognizer" else shop.other_faces
    network = recognizer.fit_recognizer(name, faces, plan, batch=shop.amounts.recognizer_batch, clock=clock)
    weights.round_to_half(network)
    held_out = recognition(network, shop.unseen_faces, shop.device)
    # Nobody differentiates through the held-out recognizer, so its tensors are not shipped.
    weights.save_half((shop.output if name == "recognizer" else shop.work) / f"{name}.safetensors", network)
    export_onnx(network, shop.output / f"{name}.onnx")
    facts = {**_architecture(network), "people": shop.amounts.people, "views": shop.amounts.views}
    facts |= {"steps": clock.steps, "batch": shop.amounts.recognizer_batch}
    return {**facts, "held_out": {**held_out, "people": shop.amounts.held_out_people}}


def recognition(network: nn.Module, faces: rendering.Faces, device: torch.device) -> Facts:
    """How well people are told apart, aligned by points and by the box, in all pictures and in `recognizer.clear` ones.

    Args:
        network: A recognizer.
        faces: People whom it has not seen.
        device: Where it computes.

    Returns:
        `recognizer.verification`'s figures, each with ``_points`` or ``_box``, and with ``_clear`` of clear pictures;
        None where there are too few; and how many of the pictures are clear.
    """
    chosen = recognizer.clear(faces)
    figures: Facts = {"pictures": len(chosen), "pictures_clear": int(chosen.sum())}
    for by, boxed in (("points", False), ("box", True)):
        vectors = recognizer.embed(network, faces, by_box=boxed, device=device)
        for among, kept in (("", np.ones_like(chosen)), ("_clear", chosen)):
            for figure, value in recognizer.verification(vectors[torch.from_numpy(kept)], faces.people[kept]).items():
                figures[f"{figure}_{by}{among}"] = None if math.isnan(value) else value
    return figures


def _make_reader(shop: Workshop, name: str) -> Facts:
    held = name == "held_out_reader"
    steps = shop.amounts.held_out_reader_steps if held else shop.amounts.reader_steps
    plan = shop.plan(name, steps, 2e-3, graphed=held)
    clock = Clock(plan)
    plates = shop.other_plates if held else shop.plates
    network = reader.fit_reader(name, plates, plan, batch=shop.amounts.batch, clock=clock)
    weights.round_to_half(network)
    unseen = shop.unseen_plates
    wrong, legible = reader.reading_errors(network, unseen, shop.device), unseen.heights >= LEGIBLE_PX
    exact = wrong == 0
    groups = {
        f"exact_from_{LEGIBLE_PX}_px": legible & (unseen.rows == 1),
        "exact_below": ~legible & (unseen.rows == 1),
        f"exact_two_rows_from_{LEGIBLE_PX}_px": legible & (unseen.rows > 1),
    }
    held_out = {group: float(exact[chosen].mean()) if chosen.any() else None for group, chosen in groups.items()}
    held_out["character_errors"] = float(wrong.sum() / sum(map(len, map(reader.legible, unseen.serials))))
    weights.save_half(shop.output / f"{name}.safetensors", network)
    facts = {**_architecture(network), "plates": len(plates.serials), "steps": clock.steps}
    return {**facts, "held_out": {**held_out, "plates": len(exact)}}


def _make_detector(shop: Workshop, name: str) -> Facts:
    plan = shop.plan(name, shop.amounts.detector_steps, 2e-3)
    network = detector.fit_detector(name, shop.scenes, plan, batch=shop.amounts.detector_batch)
    weights.round_to_half(network)
    held_out = detector.average_precision(network, shop.unseen_scenes)
    weights.save_half(shop.output / f"{name}.safetensors", network)
    facts = {**_architecture(network), "architecture": f"torchvision {type(network.model).__name__}, small"}
    return {**facts, "held_out": {**held_out, "scenes": len(shop.unseen_scenes.images)}}


def _make_features(shop: Workshop, name: str) -> Facts:
    code = attributes.AttributeCode.of(shop.faces.attributes)
    plan = shop.plan(name, shop.amounts.feature_steps, 2e-3, graphed=True)
    clock = Clock(plan)
    # Any plates serve, and these were rendered for the held-out reader, which is slow.
    plates = shop.other_plates
    network = attributes.fit_features(shop.faces, plates, code, plan, batch=shop.amounts.batch, clock=clock)
    weights.round_to_half(network)
    held_out = attributes.explained(network, shop.unseen_faces, shop.unseen_plates, code, shop.device)
    weights.save_half(shop.output / f"{name}.safetensors", network)
    return {**_architecture(network), "steps": clock.steps, "held_out": held_out, "columns": list(code.columns)}


def _make_generator(shop: Workshop, name: str) -> Facts:
    if not (path := shop.output / "recognizer.safetensors").exists():
        raise ConfigError(
            "the generator learns under the recognizer's eyes", where=path, do="make the recognizer first"
        )
    network = weights.load_into(ArcFaceNet(), weights.load_safetensors(path), path)
    amounts, work = shop.amounts, shop.work / name
    count = {Kind.FACE: amounts.generator_faces, Kind.PLATE: amounts.generator_plates}
    begun = _begin_generator(shop, network.to(shop.device), work, count)
    crops = generator_crops.render_crops(work / "crops", count=count, seed=SEED)
    stores = {kind: CropStore(crops, kind, shop.device) for kind in Kind}
    flow = teacher.fit_teacher(
        stores[Kind.FACE],
        steps=amounts.teacher_steps,
        seed=SEED,
        work=work,
        batch_size=amounts.teacher_batch,
        channels=amounts.teacher_channels,
    )
    facts = distillation.distill(
        distillation.Guides(flow, network),
        stores,
        former=work / "begun" / generator.SHIPPED_UNET,
        steps=distillation.Steps(amounts.following_steps, amounts.distillation_steps),
        seed=SEED,
        out=shop.output,
        work=work,
        chunks=(max(1, amounts.taught_faces // amounts.distillation_batch), amounts.distillation_batch),
    )
    if shop.former is not None:
        facts |= average(work / "begun" / generator.SHIPPED_UNET, shop.output / generator.SHIPPED_UNET)
    # A picture for whoever made it; it is not shipped.
    (shop.output / distillation.PREVIEW).replace(shop.work / distillation.PREVIEW)
    return {
        **_architecture(build_demo_unet()),
        "begun": begun,
        "teacher_steps": amounts.teacher_steps,
        "teacher_batch_size": amounts.teacher_batch,
        **facts,
    }


def _begin_generator(shop: Workshop, network: nn.Module, work: Path, count: dict[Kind, int]) -> Facts:
    """Make what the distillation goes on from: from nothing, or a former generator with better plates."""
    fit = functools.partial(
        generator.fit_generator,
        seed=SEED,
        out=work / "begun",
        work=work,
        recognizer=network,
        batch_size=shop.amounts.generator_batch,
        crops=count,
    )
    if shop.former is None:
        return fit(steps=shop.amounts.generator_steps)
    known, before = _taken_over(shop.former, work / "former"), work / "former" / generator.SHIPPED_UNET
    facts = fit(steps=shop.amounts.further_steps, former=before)
    return {**facts, "begun": known, **average(before, work / "begun" / generator.SHIPPED_UNET)}


def average(former: Path, became: Path) -> Facts:
    """Replace a generator by the mean of its weights and of those that it began with, `SHARE_OF_THE_FORMER`.

    Args:
        former: Weights of before.
        became: Weights that training made of them; replaced.

    Returns:
        The share, for the manifest.
    """
    before, after = weights.load_safetensors(former), weights.load_safetensors(became)
    mean = {name: after[name].float().lerp(before[name].float(), SHARE_OF_THE_FORMER) for name in after}
    weights.save_half(became, weights.load_into(build_demo_unet(), mean, became))
    return {"share_of_the_former": SHARE_OF_THE_FORMER}


def _taken_over(former: Path, kept: Path) -> Facts:
    """Copy a former generator once, for the output may be where it lies; returns how it was made."""
    if not (file := former / generator.SHIPPED_UNET).is_file():
        raise ConfigError(
            "there is no generator to go on from",
            where="former",
            got=former,
            do=f"name a folder with {generator.SHIPPED_UNET}, or none to begin from nothing",
        )
    if not (kept / generator.SHIPPED_UNET).exists():
        manifest = former / manifests.NAME
        models = json.loads(manifest.read_text())["models"] if manifest.exists() else {}
        atomic.write_json(kept / "made.json", models.get("generator", {}))
        atomic.write_bytes(kept / generator.SHIPPED_UNET, file.read_bytes())
    return json.loads((kept / "made.json").read_text())


MAKERS: dict[str, Callable[[Workshop, str], Facts]] = {
    "recognizer": _make_recognizer,
    "held_out_recognizer": _make_recognizer,
    "reader": _make_reader,
    "held_out_reader": _make_reader,
    "detector": _make_detector,
    "held_out_detector": _make_detector,
    "features": _make_features,
    "generator": _make_generator,
}


def make_all(
    output: Path,
    *,
    scale: float = 1.0,
    device: str = "auto",
    only: Sequence[str] | None = None,
    progress: Progress = track,
    pace: Pace = Pace(),
    former: Path | None = None,
) -> dict[str, Any]:
    """Make all shipped weights, or some, into a folder, and its ``manifest.json``.

    Args:
        output: ``recognizer.onnx``, ``reader.safetensors`` ... are written there.
        scale: Multiplies data, and its root steps (`Amounts.scaled`): 1 is for a large GPU beside many CPU cores, where
            the models took about an hour together (the manifest has their seconds).
        device: ``auto``, ``cpu``, ``cuda``.
        only: Names of `MAKERS`; None makes all. Files of models that are not named stay as they are.
        progress: Shows how far it is.
        pace: Until when, and how.
        former: A folder of weights whose generator the new one goes on from: its plates learn further, and its faces
            from a teacher of their own; None begins from nothing.

    Returns:
        The manifest: ``format``, ``models`` (how each was made and how well it does on what it has never seen) and
        ``files``.

    Raises:
        ConfigError: If ``only`` names a model that there is none of, or ``former`` has no generator.
    """
    names = list(only) if only is not None else list(MAKERS)
    if unknown := sorted(set(names) - set(MAKERS)):
        raise ConfigError(
            "there are no such base models", where="only", got=", ".join(unknown), allowed=", ".join(MAKERS)
        )
    work = output.with_name(f"{output.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    chosen = choose_device(device)
    shop = Workshop(output, work, Amounts().scaled(scale), chosen, progress, pace, former)
    for name in names:
        _make(shop, name, scale)
    manifests.write(output, {"format": weights.FORMAT, "models": _known_models(work, output)})
    return json.loads((output / manifests.NAME).read_text())


def _make(shop: Workshop, name: str, scale: float) -> None:
    record = shop.work / f"{name}.json"
    if record.exists():
        known = json.loads(record.read_text())
        if known["scale"] == scale and known["seed"] == SEED and _is_there(shop.output, name):
            return
    begin = time.monotonic()
    facts = MAKERS[name](shop, name)
    made = {
        **facts,
        "seconds": round(time.monotonic() - begin, 1),
        "hardware": _hardware(shop.device),
        "seed": SEED,
        "scale": scale,
        "code": _code_version(),
        "torch": torch.__version__,
    }
    atomic.write_json(record, json.loads(json.dumps(made, default=float)))


def _is_there(output: Path, name: str) -> bool:
    return all((output / file).is_file() for file in FILES[name])


def _known_models(work: Path, output: Path) -> dict[str, Any]:
    """What is known of each model that is there: from this work folder, or from the manifest that a former one left."""
    former = output / manifests.NAME
    models = json.loads(former.read_text()).get("models", {}) if former.exists() else {}
    for name in MAKERS:
        if (record := work / f"{name}.json").exists():
            models[name] = json.loads(record.read_text())
    return {name: facts for name, facts in models.items() if _is_there(output, name)}


def _architecture(network: nn.Module) -> Facts:
    return {"architecture": type(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _code_version() -> str:
    try:
        return version("anony-pipeline")
    except PackageNotFoundError:  # run from a copy of the sources, as on a lent GPU machine
        return "uninstalled sources"

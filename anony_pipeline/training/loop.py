"""Training from data to checkpoint: pretraining, then joint training; resumed where it stopped."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import folds, integrity, loaders, raw, unify
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import AnonyPipelineError, CheckpointError, ConfigError, DatasetError
from anony_pipeline.losses import identity
from anony_pipeline.models import weights
from anony_pipeline.models.generator import base_version
from anony_pipeline.plates.styles import configured_styles
from anony_pipeline.runtime import processes, sharding
from anony_pipeline.runtime.device import choose_device, choose_dtype, ran_out_of_memory
from anony_pipeline.runtime.processes import Team
from anony_pipeline.storage import locations, locks, named_weights
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets.faces import make_face_targets
from anony_pipeline.targets.plates import make_plate_targets
from anony_pipeline.training import batches, cache, joint, latents, networks, state, summary, validation
from anony_pipeline.training.batches import Batch, Generated
from anony_pipeline.training.cache import TrainingData
from anony_pipeline.training.canaries import Canaries, draw, plant
from anony_pipeline.training.journal import METRICS, Journal, OnEvent, finite, metrics_of
from anony_pipeline.training.networks import Critics
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.pretrain import step_pretrain
from anony_pipeline.training.state import Saved, TrainingState

log = logging.getLogger("anony_pipeline")

Mode = Literal["auto", "pretrain", "joint"]
ShouldStop = Callable[[], bool]

WITHOUT_EFFECT = (
    "max_steps",
    "pretrain_steps",
    "validate_every_steps",
    "validation_regions",
    "accumulation",
    "fsdp",
    "torch_compile",
    "max_bad_steps",
)
"""Keys of `training` by which a step's result changes by rounding alone, or not at all."""

MARGIN_FACES = 256
"""Faces that the identity hinge's margin is measured on."""


@dataclass(frozen=True)
class TrainReport:
    """What training left behind.

    Attributes:
        checkpoint: The last checkpoint's folder.
        manifest_sha256: Its version.
        stage: `pretrain` or `joint`.
        step: Generator steps that it stands for.
        finished: False if it was stopped before the last step.
        resumed_from: The step that this run went on from; 0 if it began anew.
        seconds: Training time, over all parts of the run.
        metrics: The last validation's figures.
        metrics_file: `metrics.csv`.
        samples: Crops trained on, by kind.
        bad_steps: Steps skipped because something was not finite.
        trained_parameters: How many of the generator's weights learned.
        curves: A picture of the losses and figures; `summary.html` lies beside it.
    """

    checkpoint: Path
    manifest_sha256: str
    stage: str
    step: int
    finished: bool
    resumed_from: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_file: Path | None = None
    samples: dict[str, int] = field(default_factory=dict)
    bad_steps: int = 0
    trained_parameters: int = 0
    curves: Path | None = None


def train(
    config: Config,
    *,
    mode: Mode = "auto",
    max_steps: int | None = None,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
) -> TrainReport:
    """Train, going on from the last good checkpoint of the same configuration.

    One run at a time trains into an experiment's outputs; another one waits. The processes that a launcher started
    together are one run.

    Args:
        config: The configuration.
        mode: `pretrain`: pretraining alone. `joint`: joint training, from the pretrained generator if there is one and
            `training.pretrain_steps` is not 0.
            `auto`: both, unless a pretrained generator is there already.
        max_steps: Replaces `training.max_steps`; with `pretrain`, `training.pretrain_steps`.
        on_event: Called with each event: numbers and names, never pixels.
        should_stop: Asked after each action; once it says True, the cycle's round of learners is finished, a checkpoint
            is written, and training returns.

    Raises:
        ConfigError: If `paths.outputs` lies in a remote store or can't be written.
        DatasetError: If there is nothing to train on.
        CheckpointError: If a checkpoint can't be written or read.
        AnonyPipelineError: If too many steps were not finite.
    """
    outputs = locations.local_folder(config.paths.outputs, "paths.outputs")
    locations.writable(outputs)
    team = processes.join(choose_device(config.device))
    with locks.sole_writer(outputs) if team.is_first else contextlib.nullcontext():
        run = _Training(config, team, on_event, should_stop or (lambda: False))
        if mode == "pretrain":
            return run.pretrain(max_steps or config.training.pretrain_steps)
        if mode == "auto" and config.training.pretrain_steps > 0:
            report = run.pretrain(config.training.pretrain_steps)
            if not report.finished:
                return report
        return run.joint(max_steps or config.training.max_steps)


def prepare(config: Config, coco: CocoSet) -> tuple[TrainingData, Canaries | None]:
    """Make what training reads, as far as it is not there: pseudo-targets and the cache of samples.

    Returns:
        The samples, and the canaries of an audit.

    Raises:
        DatasetError: If no region has a target, or an image is of a plate style that does not exist.
    """
    check_styles(coco)
    # Before targets are made: a donor from the fold that is left out would be learned too.
    coco = folds.trained_on(config, coco)
    lot = draw(config, coco)
    faces = make_face_targets(config, coco, no_donors=lot.planted | lot.left_out)
    plates = make_plate_targets(config, coco, list(configured_styles())).values()
    records = [*faces.records, *(record for report in plates for record in report.records)]
    records, planted = plant(config, coco, records, lot)
    data = cache.build(config, coco, records)
    for kind in Kind:
        if kind not in data.samples:
            log.warning("the training split has no %s with a target: the generator learns the other kind alone", kind)
    for reason, count in faces.failed.items():
        log.warning("%d of %d faces have no target (%s) and are not trained on", count, faces.regions, reason)
    return data, planted


def check_styles(coco: CocoSet) -> None:
    """Refuse images of plate styles that nobody can draw.

    Raises:
        DatasetError: If there is no style file of an image's plate style.
    """
    if unknown := integrity.unknown_styles(coco, configured_styles()):
        raise DatasetError(
            "images are of plate styles that there is no file of: their plates would not be learned",
            where=coco.path,
            got="; ".join(unknown),
            do="add a style file to configs/plate_styles, or set these images' plate_style to null",
        )


def fingerprint(config: Config, stage: str, begins_with: str) -> str:
    """The hash of what a stage's result depends on; lengths, paths, intervals and evaluation are not part of it.

    What a step costs is not either (rounding apart): who lowers it because memory ran out goes on where it did.
    Critics count by what is in their files.

    Args:
        config: The configuration.
        stage: `pretrain` depends on fewer keys than `joint`: another `adv_weight` needs no new pretraining.
        begins_with: The version of the weights or data that the stage begins with.
    """
    everything = config.model_dump(mode="json")
    training, model = everything["training"], everything["model"]
    for section, keys in ((training, WITHOUT_EFFECT), (model, ("offline", "plate_style"))):
        for key in keys:
            del section[key]
    for key in ("gradient_checkpointing", "enable_xformers"):
        del model["generator"]["diffusers"][key]
    common = {key: everything[key] for key in ("seed", "precision", "face_steps", "plate_steps", "targets")}
    common |= {key: value for key, value in everything.items() if key.startswith("plate_text_")}
    parts: dict[str, object] = {**common, "training": training, "generator": model["generator"]}
    parts["finetune"], parts["rate"] = model["finetune"], everything["lr"]["generator"]
    losses, named = everything["loss"], named_weights.versions(config)
    if stage == "joint":
        parts |= {key: everything[key] for key in ("model", "loss", "lr", "alternating")}
        parts["judges"] = [named["judges.recognizer"], named["judges.reader"]]
    else:
        parts["loss"] = [losses[key] for key in ("l1_weight", "face_l1_scale", "perceptual_weight")]
    if config.model.lpips is not None:
        parts["lpips"] = [model["lpips"], *(value for key, value in named.items() if key.startswith("model.lpips."))]
    return loading.fingerprint(*(f"{key}={parts[key]}" for key in sorted(parts)), begins_with)


def _shipped_critics() -> str:
    """Names the shipped networks that training begins with or listens to: another version may ship others."""
    files = weights.shipped_manifest()["files"]
    return loading.fingerprint(
        *(files[f"{name}.safetensors"]["sha256"] for name in ("detector", "reader", "recognizer"))
    )


class _Training:
    """One call of `train`: the data and networks that its stages share."""

    def __init__(self, config: Config, team: Team, on_event: OnEvent | None, should_stop: ShouldStop) -> None:
        self.config, self.team, self.on_event, self.should_stop = config, team, on_event, should_stop
        self.device = team.device
        # Refused before minutes of preparation are spent.
        choose_dtype(config.precision, self.device)
        check_shares(config, self.team.size)
        check_sharding(config, self.team.size)
        with self.team.first_goes_ahead():
            if config.data.streetscape is not None and not unify.unified_is_there(config.paths.unified):
                raw.provide(config.data, Path(config.paths.cache))
            unify.ensure_unified(config)
            val = loaders.open_split(config, "val")
            check_styles(val)
            self.data, planted = prepare(config, loaders.open_split(config, "train"))
        faces = self.data.samples.get(Kind.FACE)
        self.validator = validation.Validator(config, val, trained_on=faces, canaries=planted)
        self.begins_with = f"{self.data.key} {base_version(config)} {_shipped_critics()}"
        self.outputs = Path(config.paths.outputs)

    def pretrain(self, steps: int) -> TrainReport:
        if steps == 0:
            raise DatasetError(
                "there is nothing to pretrain", where="training.pretrain_steps", got=0, do="set it, or use mode joint"
            )
        label = fingerprint(self.config, "pretrain", self.begins_with)
        return self._run("pretrain", self.outputs / "pretrained", label, steps, None)

    def joint(self, steps: int) -> TrainReport:
        pretrained = fingerprint(self.config, "pretrain", self.begins_with)
        wanted = self.config.training.pretrain_steps > 0
        begin = state.latest(self.outputs / "pretrained", pretrained) if wanted else None
        if begin is None:
            log.info(
                "joint training begins with the base model: there is no pretrained generator of this configuration"
            )
        label = fingerprint(self.config, "joint", begin.manifest_sha256 if begin else self.begins_with)
        return self._run("joint", self.outputs / "checkpoints", label, steps, begin)

    def _run(self, stage: str, root: Path, label: str, steps: int, begin: Saved | None) -> TrainReport:
        saved = state.latest(root, label)
        if saved is not None and saved.step >= steps:
            log.info("%s: %d steps are done already, in %s", stage, saved.step, saved.path)
            return self._report(stage, saved, steps, saved.step)
        folder = self.outputs if stage == "joint" else root
        with explained_memory(self.config, f"{stage}, before its first step", saved.path if saved else None):
            current, data = self._begin(stage, saved, begin)
            journal = Journal(folder, stage, self.on_event, writes=self.team.is_first, fingerprint=label)
            stage_run = _Stage(self.config, current, data, self.validator, journal, root, label)
        finished = stage_run.go(steps, self.should_stop)
        last = stage_run.saved or saved
        if last is None:
            raise CheckpointError("training was stopped before its first step", where=root, do="start it again")
        return self._report(stage, last, steps, saved.step if saved else 0, current, finished=finished)

    def _begin(self, stage: str, saved: Saved | None, begin: Saved | None) -> tuple[TrainingState, TrainingData]:
        """The state that a stage goes on from, and its data."""
        learning = networks.load_networks(self.config, self.device)
        if begin is not None and saved is None:
            # Pretraining taught the generator alone, and a discriminator may have another capacity by now.
            TrainingState.fresh(self.config, stage, learning).load_generator(begin.path)
        current = TrainingState.fresh(self.config, stage, learning, self.team)
        if saved is not None:
            current.load(saved.path)
            log.info("%s: going on from step %d", stage, saved.step)
        data = replace(self.data, latents=latents.build(self.config, self.data, learning.generator, self.team))
        if self.config.training.fsdp:
            learning.shard_frozen(self.team)
        return current, data

    def _report(
        self,
        stage: str,
        saved: Saved,
        steps: int,
        resumed_from: int,
        current: TrainingState | None = None,
        *,
        finished: bool = True,
    ) -> TrainReport:
        folder = self.outputs if stage == "joint" else self.outputs / "pretrained"
        learned = current.ema.values() if current else ()
        report = TrainReport(
            checkpoint=saved.path,
            manifest_sha256=saved.manifest_sha256,
            stage=stage,
            step=saved.step,
            finished=finished and saved.step >= steps,
            resumed_from=resumed_from,
            seconds=current.progress.seconds if current else 0.0,
            metrics=saved.metrics,
            metrics_file=metrics_of(folder, saved.config_fingerprint),
            samples={kind.value: len(samples) for kind, samples in self.data.samples.items()},
            bad_steps=current.progress.bad_steps if current else 0,
            trained_parameters=sum(value.numel() for value in learned),
        )
        if current is None or not self.team.is_first:
            # Nothing new was learned, or another process says it. Curves are of whoever trained here last.
            mine = report.metrics_file == folder / METRICS
            return replace(report, curves=_if_there(folder / summary.CURVES) if mine else None)
        facts = asdict(report) | {"checkpoint": saved.path.name}
        return replace(report, curves=summary.write(folder, self.config, facts))


class _Stage:
    """One stage from its state to its last checkpoint."""

    def __init__(
        self,
        config: Config,
        current: TrainingState,
        data: TrainingData,
        validator: validation.Validator,
        journal: Journal,
        root: Path,
        label: str,
    ) -> None:
        self.config, self.state, self.data, self.validator = config, current, data, validator
        self.journal, self.root, self.label = journal, root, label
        self.saved: Saved | None = None
        self.metrics: dict[str, float] = {}
        self.validated = self.kept = current.progress.step
        self.cycle = cycle_of(config, current.stage)
        self._actions: dict[str, Callable[[], joint.Scalars]] = {
            "generator": self._generator,
            "discriminator": self._discriminator,
            "detector": self._detector,
        }
        critics = networks.load_critics(config, current.device)
        if current.progress.margin is None:
            current.progress.margin = measure_margin(critics, data, current.device)
        self.objective = Objective(critics, current.networks.discriminator, config.loss, current.progress.margin)

    def go(self, until: int, should_stop: ShouldStop) -> bool:
        """Act until the last step is done or somebody asks to stop; a checkpoint is written at the end in both cases.

        It ends only where the discriminator and the detector have learned from what the generator made last.

        Returns:
            Whether the last step was done.
        """
        progress = self.state.progress
        with self.journal.running(progress.step, until):
            self.journal.event("begin", step=progress.step, until=until, fingerprint=self.label)
            stopped = False
            while not (self._may_rest() and (stopped or progress.step >= until)):
                with self._explained_memory():
                    self._act()
                    self.journal.tell(progress.step, until)
                    # A signal may reach one process alone.
                    stopped = self.state.team.any(stopped or should_stop())
                    if self._may_rest() and progress.step < until and not stopped:
                        self._check()
            with self._explained_memory():
                if not stopped:
                    self._validate()
                self._save()
        self.journal.event("end", step=progress.step, checkpoint=str(self.state.last_saved), stopped=stopped)
        return progress.step >= until

    def _explained_memory(self) -> contextlib.AbstractContextManager[None]:
        where = f"{self.state.stage}, step {self.state.progress.step}"
        return explained_memory(self.config, where, self.state.last_saved)

    def _act(self) -> None:
        progress, begin = self.state.progress, time.monotonic()
        what = self.cycle[progress.cursor % len(self.cycle)]
        scalars = self._actions[what]()
        seconds = time.monotonic() - begin
        progress.seconds += seconds
        progress.cursor += 1
        # A generator's action begins a step; where there is none, a cycle is a step.
        generates = "generator" in self.cycle
        step = progress.step + (what == "generator" or not generates)
        if what == "generator" or (not generates and self._ends_cycle()):
            progress.step = step
        if what == "generator":
            scalars["crops_per_second"] = self.config.training.batch_size / seconds
        if self._ends_cycle():
            self.state.generated = None
        self.journal.record(step, {**scalars, "bad_steps": progress.bad_steps, "seconds": progress.seconds})

    def _generator(self) -> joint.Scalars:
        step = step_pretrain if self.state.stage == "pretrain" else joint.step_generator
        return step(self.state, self._batch(), self.objective)

    def _discriminator(self) -> joint.Scalars:
        if self.state.generated is None:
            self.state.generated = self._generate()
        return joint.step_discriminator(self.state, self.state.generated)

    def _detector(self) -> joint.Scalars:
        batch = batches.draw_detector_batch(
            self.data,
            self.state.generated,
            size=self.config.training.detector_batch_size,
            seed=self.config.seed,
            step=self.state.progress.cursor,
            device=self.state.device,
        )
        return joint.step_detector(self.state, batch)

    def _batch(self) -> Batch:
        return batches.draw_batch(
            self.data,
            self.state.networks.generator,
            size=self.config.training.batch_size,
            seed=self.config.seed,
            stream=self.state.stage,
            step=self.state.progress.step,
            device=self.state.device,
        )

    @torch.no_grad()
    def _generate(self) -> Generated:
        """Crops for the discriminator where there are none: the generator does not learn, or its step was skipped."""
        batch = self._batch()
        outputs = batches.fill(self.state.networks.generator, batch)
        return Generated(batch.kind, batch.indices, batch.originals, batch.masks, outputs)

    def _ends_cycle(self) -> bool:
        return self.state.progress.cursor % len(self.cycle) == 0

    def _may_rest(self) -> bool:
        """Whether the next action needs nothing that is in no checkpoint: the generator's, or a new cycle's first."""
        return self._ends_cycle() or self.cycle[self.state.progress.cursor % len(self.cycle)] == "generator"

    def _check(self) -> None:
        """Validate and save where their intervals say so; figures come first, so that the manifest has them."""
        step, training = self.state.progress.step, self.config.training
        if step // training.validate_every_steps > self.validated // training.validate_every_steps:
            self._validate()
        every = self.config.checkpoint.save_every_steps
        if step // every > self.kept // every:
            self._save()

    def _validate(self) -> None:
        self.validated = self.state.progress.step
        with sharding.gathered(self.state.networks.generator.unet):
            if self.state.team.is_first:
                self._measure()

    def _measure(self) -> None:
        step = self.state.progress.step
        begin = time.monotonic()
        folder = Path(self.config.paths.private) / "val_samples"
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.metrics = self.validator(self.state, folder if self.state.stage == "joint" else folder / "pretrain")
        self.journal.record(step, self.metrics, prefix="val")
        figures = "  ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        log.info("%s step %d: %s (%.0f s)", self.state.stage, step, figures, time.monotonic() - begin)
        self.journal.event("validated", step=step, **finite(self.metrics))

    def _save(self) -> None:
        step = self.state.progress.step
        # Figures of an earlier step are not this checkpoint's.
        metrics = self.metrics if self.validated == step else {}
        self.kept = step
        if self.state.team.is_first:
            # A run that is killed goes on from the checkpoint, and the rows up to it must be there.
            self.journal.write_metrics()
            audit = self.validator.canaries
            self.saved = self.state.save(self.root, self.label, metrics, audit.drawn if audit is not None else ())
            state.prune(self.root, self.label, self.config.checkpoint.keep_last)
            self.journal.event("saved", step=step, checkpoint=str(self.saved.path))
        self.state.team.wait()
        if not self.state.team.is_first:
            self.saved = state.latest(self.root, self.label)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def check_shares(config: Config, count: int) -> None:
    """Refuse a batch that so many processes can't share evenly.

    Raises:
        ConfigError: If `training.batch_size` is no multiple of the number of processes.
    """
    if config.training.batch_size % count:
        raise ConfigError(
            "the processes can't share the batch evenly",
            where="training.batch_size",
            got=f"{config.training.batch_size} crops for {count} processes",
            allowed=f"a multiple of {count}",
            do="batch_size is that of all processes together: set a multiple, or start fewer processes",
        )


def check_sharding(config: Config, count: int) -> None:
    """Refuse to share weights out where nobody is there to take them.

    Raises:
        ConfigError: If `training.fsdp` is on with one process.
    """
    if config.training.fsdp and count == 1:
        raise ConfigError(
            "there is nobody to share the generator's weights with",
            where="training.fsdp",
            got="one process",
            allowed="two processes or more, by accelerate launch or torchrun",
            do="set it to false, or start several processes: docs/how_to/train_on_several_gpus.md",
        )


@contextlib.contextmanager
def explained_memory(config: Config, where: str, last_saved: Path | None) -> Iterator[None]:
    """Within the block, memory that runs out is reported with what takes it and its values.

    Raises:
        AnonyPipelineError: In place of the allocator's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        training, generator = config.training, config.model.generator
        checkpointing = generator.diffusers.gradient_checkpointing
        per_pass = -(-training.batch_size // training.accumulation)
        raise AnonyPipelineError(
            "training ran out of memory",
            where=where,
            got=f"{str(error).splitlines()[0]}\n"
            f"training.batch_size {training.batch_size}, training.accumulation {training.accumulation}: "
            f"{per_pass} crops in a pass\n"
            f"model.generator.diffusers.gradient_checkpointing {str(checkpointing).lower()}\n"
            f"model.generator.face_size {generator.face_size}, plate_height {generator.plate_height}, "
            f"training.detector_image_px {training.detector_image_px}, precision {config.precision}",
            do="raise training.accumulation up to batch_size first (the same steps, fewer crops in a pass), then "
            "switch gradient_checkpointing on, set model.generator.diffusers.tiny_vae, and lower the resolution last; "
            f"the last good checkpoint is {last_saved or 'none yet'}",
        ) from error


def cycle_of(config: Config, stage: str) -> tuple[str, ...]:
    """The actions of one cycle in their order: the generator's come first, because the others learn from its output."""
    if stage == "pretrain":
        return ("generator",)
    counts = config.alternating.model_dump()
    if not config.has_adversary:
        counts["discriminator"] = 0
    return tuple(name for name in ("generator", "discriminator", "detector") for _ in range(counts[name]))


@torch.no_grad()
def measure_margin(critics: Critics, data: TrainingData, device: torch.device) -> float:
    """The identity hinge's margin: what two strangers among the training faces reach in one pair of twenty.

    Where identities are not known, each face counts as somebody else's.
    """
    samples = data.samples.get(Kind.FACE)
    if critics.recognizer is None or samples is None:
        return 0.0
    chosen = range(0, len(samples), max(1, len(samples) // MARGIN_FACES))
    embed, size = critics.recognizer, critics.recognizer.input_size
    embeddings = [
        embed(identity.crop_faces(part.originals, part.thetas, size))
        for part in _batches_of(data, list(chosen), device)
    ]
    names = [samples.rows[index].identity or f"face {samples.rows[index].annotation_id}" for index in chosen]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return identity.impostor_margin(
        torch.cat(embeddings), torch.tensor([numbers[name] for name in names], device=device)
    )


def _batches_of(data: TrainingData, indices: list[int], device: torch.device, size: int = 32) -> Iterator[Batch]:
    samples = data.samples[Kind.FACE]
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        yield batches.assemble(samples, part, samples.masks[part], torch.empty(0), device)

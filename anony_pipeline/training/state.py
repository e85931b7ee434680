"""Everything that a resumed run needs, in one list: saved together, atomically, manifest last; loaded only if complete.

Format ``anony_pipeline.checkpoint/1``; docs/architecture.md fixes what lies in the folder. There are no pickles.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from anony_pipeline.anonymize.loading import FORMAT
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.errors import AnonyPipelineError, CheckpointError
from anony_pipeline.evaluation.canaries import Canary
from anony_pipeline.evaluation.canaries import write as write_canaries
from anony_pipeline.models import lora, weights
from anony_pipeline.runtime.processes import ALONE, Team
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.training.batches import Generated
from anony_pipeline.training.networks import Networks, trainable

log = logging.getLogger("anony_pipeline")

PREFIX = "step_"


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk.

    Attributes:
        path: Its folder.
        step: Generator steps in its stage.
        manifest_sha256: Its version.
        config_fingerprint: Of the configuration that it was trained with.
        metrics: The validation figures of this very step; empty if it was not validated.
    """

    path: Path
    step: int
    manifest_sha256: str
    config_fingerprint: str
    metrics: dict[str, float]


@dataclass
class Progress:
    """How far a stage is, and what was counted on the way.

    Attributes:
        step: Generator steps that are done; of a run in which the generator does not learn, cycles.
        cursor: Actions of the cycle that are done, counted from the beginning.
        updates: Generator updates that took place: not those skipped.
        bad_steps: Updates skipped because a loss or a gradient was not finite.
        margin: The identity hinge's; None until it is measured.
        seconds: Training time, over all parts of the run.
    """

    step: int = 0
    cursor: int = 0
    updates: int = 0
    bad_steps: int = 0
    margin: float | None = None
    seconds: float = 0.0


@dataclass
class TrainingState:
    """One stage of training.

    Attributes:
        stage: `pretrain` or `joint`.
        config: The configuration.
        networks: What learns.
        optimizers: One a network.
        scaler: For fp16 gradients of the generator; passes all through otherwise.
        ema: Moving average of the generator's trainable weights: what is validated and used.
        progress: Counters.
        generated: The generator's last output, within a cycle. It is in no checkpoint: those are written only where the
            next action makes it anew.
        last_saved: The last good checkpoint, for error messages.
        team: The processes that train together; all hold the same state.
    """

    stage: str
    config: Config
    networks: Networks
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    ema: dict[str, torch.Tensor]
    progress: Progress = field(default_factory=Progress)
    generated: Generated | None = None
    last_saved: Path | None = None
    team: Team = ALONE

    @classmethod
    def fresh(cls, config: Config, stage: str, networks: Networks, team: Team = ALONE) -> "TrainingState":
        """Begin a stage: the networks as they are, new optimizers, the average equal to the weights."""
        rates = config.lr.model_dump()
        parameters = trainable(networks)
        return cls(
            stage=stage,
            config=config,
            networks=networks,
            # A GAN's beta_1 is low, so that momentum does not overshoot a moving goal (Radford et al., DCGAN, 2016).
            optimizers={
                name: torch.optim.AdamW(
                    list(found.values()),
                    lr=rates[name],
                    betas=(0.5 if name == "discriminator" else 0.9, 0.999),
                    weight_decay=1e-4 if name == "detector" else 0.0,
                )
                for name, found in parameters.items()
            },
            scaler=torch.amp.GradScaler(networks.generator.device.type, enabled=config.precision == "fp16"),
            ema={name: value.detach().clone() for name, value in parameters["generator"].items()},
            team=team,
        )

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.networks.generator.device

    def apply(self, name: str) -> float:
        """Clip a network's gradients and take its optimizer's step; one that is not finite is skipped and counted.

        Args:
            name: `generator`, `discriminator` or `detector`.

        Returns:
            The gradient's norm before clipping.

        Raises:
            AnonyPipelineError: If more steps were skipped than `training.max_bad_steps` allows.
        """
        optimizer = self.optimizers[name]
        parameters = [value for group in optimizer.param_groups for value in group["params"]]
        # Each process filled its share of the batch. The others' steps are the same in all, and the mean keeps them so
        # where kernels are not deterministic.
        self.team.reduce_gradients(parameters, mean=name != "generator")
        if name == "generator":
            self.scaler.unscale_(optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.training.max_gradient_norm))
        is_finite = norm < float("inf")
        if name == "generator":
            # The scaler skips what it found to be infinite, and lowers its scale.
            if is_finite or self.scaler.is_enabled():
                self.scaler.step(optimizer)
            self.scaler.update()
        elif is_finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if is_finite and name == "generator":
            self._average()
        elif not is_finite and not (name == "generator" and self._finds_its_scale()):
            self.skip(name, f"the gradient's norm is {norm}")
        return norm

    def _finds_its_scale(self) -> bool:
        """Whether fp16's gradients may have been infinite because of their scale: below 1 it is not the reason."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1

    def skip(self, name: str, reason: str) -> None:
        """Count a step that is not taken, and drop its gradients.

        Raises:
            AnonyPipelineError: Above `training.max_bad_steps`; the message names the last good checkpoint.
        """
        self.optimizers[name].zero_grad(set_to_none=True)
        self.progress.bad_steps += 1
        allowed = self.config.training.max_bad_steps
        if self.progress.bad_steps > allowed:
            raise AnonyPipelineError(
                "training stopped: too many steps are not finite",
                where=f"{name}, step {self.progress.step} of {self.stage}",
                got=f"{self.progress.bad_steps} skipped steps; the last one: {reason}",
                allowed=f"{allowed} (training.max_bad_steps)",
                do=f"lower lr.{name}, or use precision: bf16 or fp32; the last good checkpoint is "
                f"{self.last_saved or 'none yet'}",
            )

    def _average(self) -> None:
        self.progress.updates += 1
        # The usual warm-up: early on a long memory would hold on to the untrained weights.
        decay = min(self.config.training.ema_decay, (1 + self.progress.updates) / (10 + self.progress.updates))
        with torch.no_grad():
            for name, value in lora.trainable_parameters(self.networks.generator).items():
                self.ema[name].lerp_(value, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the generator has its averaged weights and is in evaluation mode."""
        parameters = lora.trainable_parameters(self.networks.generator)
        learning = {name: value.detach().clone() for name, value in parameters.items()}
        was_training = self.networks.generator.training
        self.networks.generator.eval()
        _assign(parameters, self.ema)
        try:
            yield
        finally:
            _assign(parameters, learning)
            self.networks.generator.train(was_training)

    def save(
        self, root: Path, fingerprint: str, metrics: Mapping[str, float], canaries: Sequence[Canary] = ()
    ) -> Saved:
        """Write ``<root>/step_XXXXXX``: complete, or not at all.

        Another configuration's checkpoint of that name is kept as ``step_XXXXXX-<its fingerprint>``.

        Args:
            root: The folder of checkpoints.
            fingerprint: Of the configuration, by which a later run finds its checkpoints.
            metrics: Goes into the manifest; figures without pixels.
            canaries: Of an audit.

        Raises:
            CheckpointError: If the disk refuses it. The checkpoints before it stay.
        """
        path = root / f"{PREFIX}{self.progress.step:06d}"
        try:
            _make_room(path, fingerprint)
            with atomic.folder(path) as part:
                self._write(part)
                write_canaries(part, canaries)
                atomic.write_text(part / "config.yaml", loading.dump(self.config, path))
                facts = {
                    "format": FORMAT,
                    "step": self.progress.step,
                    "stage": self.stage,
                    "config_fingerprint": fingerprint,
                    "base_model": self.networks.generator.base_id,
                    "metrics": dict(metrics),
                }
                sha256 = manifests.write(part, facts)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                "the checkpoint can't be written",
                where=path,
                got=str(error),
                do=f"free some space; the last good checkpoint is {self.last_saved or 'none yet'}",
            ) from error
        self.last_saved = path
        return Saved(path, self.progress.step, sha256, fingerprint, dict(metrics))

    def _write(self, folder: Path) -> None:
        with self.averaged():
            lora.save_adapters(self.networks.generator, folder / "adapters")
        _write_tensors(folder / "ema.safetensors", self.ema)
        _write_tensors(folder / "generator.safetensors", lora.trainable_parameters(self.networks.generator))
        _write_tensors(folder / "detector.safetensors", self.networks.detector.state_dict())
        if self.networks.discriminator is not None:
            _write_tensors(folder / "discriminator.safetensors", self.networks.discriminator.state_dict())
        tensors, plain = _flatten_optimizers(self.optimizers)
        _write_tensors(folder / "optimizer.safetensors", tensors)
        atomic.write_json(folder / "optimizer.json", {**plain, "scaler": self.scaler.state_dict()})
        atomic.write_json(folder / "state.json", dataclasses.asdict(self.progress))

    def load(self, folder: Path) -> dict[str, Any]:
        """Take everything from a checkpoint of the same stage: the run goes on as if it had not been interrupted.

        Returns:
            The checkpoint's manifest.

        Raises:
            CheckpointError: If the checkpoint is incomplete, damaged or of other networks.
        """
        manifest = self.load_generator(folder)
        _load_module(self.networks.detector, folder / "detector.safetensors")
        if self.networks.discriminator is not None:
            _load_module(self.networks.discriminator, folder / "discriminator.safetensors")
        _assign_named(self.ema, weights.load_safetensors(folder / "ema.safetensors"), folder)
        plain = json.loads((folder / "optimizer.json").read_text())
        self.scaler.load_state_dict(plain.pop("scaler"))
        _restore_optimizers(self.optimizers, weights.load_safetensors(folder / "optimizer.safetensors"), plain, folder)
        self.progress = Progress(**json.loads((folder / "state.json").read_text()))
        self.generated = None
        self.last_saved = folder
        return manifest

    def load_generator(self, folder: Path) -> dict[str, Any]:
        """Take only the generator from a checkpoint: a stage begins with the weights that another ended with.

        Raises:
            CheckpointError: See `load`.
        """
        manifest = read_manifest(folder)
        if manifest["base_model"] != self.networks.generator.base_id:
            raise CheckpointError(
                "the checkpoint belongs to another base model",
                where=folder,
                got=self.networks.generator.base_id,
                allowed=manifest["base_model"],
                do="set model.generator.diffusers.model_id to that one, or train anew in another paths.outputs",
            )
        parameters = lora.trainable_parameters(self.networks.generator)
        _assign_named(parameters, weights.load_safetensors(folder / "generator.safetensors"), folder)
        self.ema = {name: value.detach().clone() for name, value in parameters.items()}
        return manifest


def _make_room(path: Path, fingerprint: str) -> None:
    """Set another configuration's checkpoint aside: nobody asked to lose it. One that is damaged is replaced."""
    for former in list_checkpoints(path.parent):
        if former.path == path and former.config_fingerprint != fingerprint:
            kept = path.with_name(f"{path.name}-{former.config_fingerprint[:8]}")
            shutil.rmtree(kept, ignore_errors=True)  # of the same configuration and step, and older
            path.rename(kept)
            log.info("the checkpoint of another configuration is kept as %s", kept)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and verify a checkpoint's manifest: every file is there, with its sha256.

    Raises:
        CheckpointError: If there is none, a file is damaged, or the format is another.
    """
    manifest = manifests.read(folder)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            "the checkpoint has another format",
            where=folder,
            got=manifest.get("format"),
            allowed=FORMAT,
            do="train anew, or use the version of the package that wrote it",
        )
    return manifest


def list_checkpoints(root: Path, fingerprint: str | None = None) -> list[Saved]:
    """The complete checkpoints below a folder, by step; one of which a file is missing or cut is left out, saying so.

    Args:
        root: The folder; it need not be there.
        fingerprint: Only those of this configuration.
    """
    found = []
    for path in sorted(root.glob(f"{PREFIX}*")):
        file = path / manifests.NAME
        if not file.exists():
            continue
        try:
            manifest = manifests.read(path, verify=False)
        except CheckpointError as error:
            log.warning("a checkpoint is left out: %s", error)
            continue
        if manifest.get("format") == FORMAT and fingerprint in (None, manifest["config_fingerprint"]):
            found.append(
                Saved(
                    path,
                    manifest["step"],
                    manifests.sha256_of(file),
                    manifest["config_fingerprint"],
                    manifest["metrics"],
                )
            )
    return sorted(found, key=lambda saved: saved.step)


def latest(root: Path, fingerprint: str | None = None) -> Saved | None:
    """The last good checkpoint: of one configuration that with the most steps, of any that written last.

    Sums are compared: after a power cut the newest may be damaged, and then the one before it is taken, saying so.
    """
    found = list_checkpoints(root, fingerprint)
    if not fingerprint:
        found.sort(key=lambda saved: (saved.path / manifests.NAME).stat().st_mtime_ns)
    for saved in reversed(found):
        try:
            manifests.read(saved.path)
        except CheckpointError as error:
            log.warning("a checkpoint is left out: %s", error)
        else:
            return saved
    return None


def prune(root: Path, fingerprint: str, keep_last: int) -> list[Path]:
    """Remove this configuration's older checkpoints, but for the last ones and the best: that with the lowest `fid`.

    Checkpoints of other configurations are left alone: nobody asked to lose them.
    """
    found = list_checkpoints(root, fingerprint)
    judged = [saved for saved in found if "fid" in saved.metrics]
    kept = {saved.path for saved in found[-keep_last:]}
    if judged:
        kept.add(min(judged, key=lambda saved: saved.metrics["fid"]).path)
    removed = [saved.path for saved in found if saved.path not in kept]
    for path in removed:
        # Without its manifest a folder is no checkpoint: a removal that is interrupted leaves nothing to be loaded.
        (path / manifests.NAME).unlink()
        shutil.rmtree(path)
    return removed


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    atomic.write_bytes(path, safetensors.torch.save(plain))


def _assign(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def _assign_named(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], folder: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    if shapes != {name: tuple(value.shape) for name, value in values.items()}:
        different = sorted(
            name
            for name in shapes.keys() | values.keys()
            if name not in values or shapes.get(name) != tuple(values[name].shape)
        )
        raise CheckpointError(
            "the checkpoint's trained weights are of other layers",
            where=folder,
            got=f"{len(different)} that differ, {different[0]} first",
            do="keep model.finetune as it was, or train anew in another paths.outputs",
        )
    _assign(parameters, values)


def _load_module(module: torch.nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(weights.load_safetensors(path))
    except RuntimeError as error:
        raise CheckpointError(
            "the checkpoint's weights are of another architecture",
            where=path,
            got=str(error).splitlines()[-1].strip(),
            do="keep model.* as it was, or train anew in another paths.outputs",
        ) from error


def _flatten_optimizers(
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split optimizers' states into tensors, named ``network/index/key``, and plain JSON values."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        plain[name] = {"param_groups": state["param_groups"]}
        for index, entries in state["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in entries.items()}
    return tensors, plain


def _restore_optimizers(
    optimizers: Mapping[str, torch.optim.Optimizer],
    tensors: Mapping[str, torch.Tensor],
    plain: Mapping[str, Any],
    folder: Path,
) -> None:
    states: dict[str, dict[int, dict[str, torch.Tensor]]] = {name: {} for name in optimizers}
    if set(plain) != set(optimizers):
        raise CheckpointError(
            "the checkpoint has optimizers of other networks",
            where=folder / "optimizer.json",
            got=", ".join(sorted(plain)),
            allowed=", ".join(sorted(optimizers)),
            do="keep model.discriminator.enabled and loss.adv_weight as they were, or train anew in another "
            "paths.outputs",
        )
    for path, value in tensors.items():
        name, index, key = path.split("/")
        states[name].setdefault(int(index), {})[key] = value
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict({"state": states[name], "param_groups": plain[name]["param_groups"]})

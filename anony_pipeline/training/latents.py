"""What the frozen autoencoder says of every training crop, computed once and memory-mapped.

An inpainting step encodes the masked crop, and for plates their anchor: at Stable Diffusion's size more work than the
UNet's own step. Masks grow at random in training, so each crop has a fixed number of them (`training.mask_variants`).

The processes of one machine encode a share each. A build that was killed goes on: the folder keeps what is done, and
gets its manifest when all is.
"""

import contextlib
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin

from anony_pipeline.config.schema import Config
from anony_pipeline.models.generator import Generator, halved
from anony_pipeline.ops import images
from anony_pipeline.runtime import progress
from anony_pipeline.runtime.processes import ALONE, Team
from anony_pipeline.storage import disk, locks, manifests, private
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets.store import key_of
from anony_pipeline.training import batches, cache
from anony_pipeline.training.cache import LatentSet, SampleSet, TrainingData

log = logging.getLogger("anony_pipeline")
FORMAT = "anony_pipeline.latents/1"
VERSION = 1
"""Of the code below: a change of what it makes raises it."""

MARKED_TOGETHER = 64
"""Crops between two marks: what a kill costs, against waiting for the disk at each crop."""

STORED = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.int16}
"""NumPy knows no bfloat16: its bits are kept as integers."""


def build(config: Config, data: TrainingData, generator: Generator, team: Team = ALONE) -> dict[Kind, LatentSet]:
    """Open the latents of a training set, making first what is not there; none if `training.mask_variants` is 0.

    Args:
        config: With paths, seed and `training.mask_variants`.
        data: The samples.
        generator: Its autoencoder encodes, in its dtype and on its device.
        team: All its processes call this; on several machines the first of each encodes alone.

    Raises:
        DatasetError: If the disk has no room for them.
    """
    variants = config.training.mask_variants
    if variants == 0:
        return {}
    key = key_of(
        version=VERSION,
        samples=data.key,
        autoencoder=identity_of(generator.vae),
        dtype=str(generator.dtype),
        variants=variants,
        growth=batches.MASK_GROWTH,
        seed=config.seed,
        **({"small_crops": True} if generator.has_small_crops else {}),
    )
    root = private.folder(
        Path(config.paths.cache) / "latents",
        retention_days=config.paths.retention_days,
        holds="latents of training crops, from which the crops' surroundings can be decoded",
    )
    folder = root / key
    if team.any(not (folder / manifests.NAME).exists()):
        folder.mkdir(mode=0o700, exist_ok=True)
        if team.is_on_one_machine:
            _make(_Writer(data, generator, folder, variants, config.seed, team))
        else:
            with team.first_goes_ahead():
                _make(_Writer(data, generator, folder, variants, config.seed))
    manifests.read(folder, verify=False)
    return {kind: _opened(folder, kind, variants, config.seed, generator.dtype) for kind in data.samples}


def _make(writer: "_Writer") -> None:
    """Let the writers of a team write a folder, unless another run has made it while this one waited."""
    with locks.sole_writer(writer.folder.parent) if writer.team.is_first else contextlib.nullcontext():
        writer.team.wait()
        if not (writer.folder / manifests.NAME).exists():
            writer.write()


def identity_of(autoencoder: ModelMixin) -> str:
    """The sha256 of an autoencoder's class, settings and weights: another one gives other latents."""
    # Keys with an underscore say where it was loaded from and by which version.
    settings = {key: value for key, value in autoencoder.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(type(autoencoder).__name__.encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


class _Writer:
    """Fills a process's share of the arrays of one folder, crop by crop, from where an earlier one was interrupted."""

    def __init__(
        self, data: TrainingData, generator: Generator, folder: Path, variants: int, seed: int, team: Team = ALONE
    ) -> None:
        self.data, self.generator, self.folder = data, generator, folder
        self.variants, self.seed, self.team = variants, seed, team

    def write(self) -> None:
        if self.team.is_first:
            self._lay_out()
        self.team.wait()
        for kind, samples in self.data.samples.items():
            self._write_kind(kind, samples)
        self.team.wait()
        if self.team.is_first:
            for path in self.folder.glob("*_done.npy"):
                path.unlink()
            manifests.write(self.folder, {"format": FORMAT})
        self.team.wait()

    def _lay_out(self) -> None:
        """Say how large the arrays will be, and make those that are not there."""
        total = sum(self._bytes(kind) for kind in self.data.samples)
        there = sum(path.stat().st_blocks * 512 for path in self.folder.glob("*.npy"))
        crops = sum(len(samples) for samples in self.data.samples.values())
        log.info("latents of %d crops under %d masks each: %.0f MB", crops, self.variants, total / 1e6)
        do = "lower training.mask_variants (0 encodes at every step), or set paths.cache to another disk"
        disk.check_room(self.folder, total - there, "the latents of the training crops", do)
        for kind in self.data.samples:
            self._arrays(kind)

    def _arrays(self, kind: Kind) -> tuple[dict[str, np.memmap], np.memmap]:
        """The arrays of one kind by name, and which of its crops are done."""
        names = ("masked", "anchored") if kind is Kind.PLATE else ("masked",)
        dtype = STORED[self.generator.dtype]
        arrays = {name: self._array(f"{kind.value}_{name}", self._shape(kind), dtype) for name in names}
        return arrays, self._array(f"{kind.value}_done", (len(self.data.samples[kind]),), np.bool_)

    def _write_kind(self, kind: Kind, samples: SampleSet) -> None:
        arrays, done = self._arrays(kind)
        waiting: list[int] = []
        # By the crop's number: what is done already another process may have marked just now.
        left = [int(index) for index in np.flatnonzero(~done) if index % self.team.size == self.team.rank]
        for index in progress.track(left, f"latents: {kind.value}") if self.team.is_first else left:
            for name, values in self._encode(samples, index).items():
                # Of a small crop in the first quarter.
                arrays[name][index, ..., : values.shape[-2], : values.shape[-1]] = values
            waiting.append(index)
            if len(waiting) == MARKED_TOGETHER or index == left[-1]:
                # What is marked as done must be on the disk before its mark.
                for array in arrays.values():
                    array.flush()
                done[waiting] = True
                done.flush()
                waiting = []

    @torch.no_grad()
    def _encode(self, samples: SampleSet, index: int) -> dict[str, np.ndarray]:
        """The latents of one crop under all its masks."""
        masks = [batches.variant_mask(samples, index, number, self.seed) for number in range(self.variants)]
        device = self.generator.device

        def tensor(array: np.ndarray) -> torch.Tensor:
            return images.to_tensor([array[index]] * self.variants, device=device)

        crops = (
            tensor(samples.originals),
            torch.from_numpy(np.stack(masks).astype(np.float32))[:, None].to(device),
            None if samples.anchors is None else tensor(samples.anchors),
        )
        height, width = samples.masks.shape[1:]
        if self.generator.is_small(samples.rows[index].window, (height, width)):
            crops = halved(*crops)
        encoded = self.generator.encode_crops(*crops)
        found = {"masked": encoded.masked, "anchored": encoded.anchored}
        return {name: _to_array(values) for name, values in found.items() if values is not None}

    def _shape(self, kind: Kind) -> tuple[int, ...]:
        samples = self.data.samples[kind]
        height, width = samples.masks.shape[1:]
        return (len(samples), *self.generator.noise_shape(self.variants, (height, width)))

    def _bytes(self, kind: Kind) -> int:
        arrays = 2 if kind is Kind.PLATE else 1
        return arrays * int(np.prod(self._shape(kind))) * np.dtype(STORED[self.generator.dtype]).itemsize

    def _array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.memmap:
        path = self.folder / f"{name}.npy"
        cache.reserve(path, shape, dtype)
        return np.lib.format.open_memmap(path, mode="r+")


def _opened(folder: Path, kind: Kind, variants: int, seed: int, dtype: torch.dtype) -> LatentSet:
    def array(name: str) -> np.ndarray:
        return np.load(folder / f"{kind.value}_{name}.npy", mmap_mode="r", allow_pickle=False)

    return LatentSet(variants, seed, dtype, array("masked"), array("anchored") if kind is Kind.PLATE else None)


def _to_array(values: torch.Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()

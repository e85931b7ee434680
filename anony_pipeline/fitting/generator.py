"""Begin the demo's base generator, on procedural crops alone: one step from noise to a face of nobody.

The first third of the steps learns by pixel distances alone; then an adversary and its features take over, and the
pixel distance stays full on plates, whose target is known, and low on faces, of which many would do: neither the
original's, nor the same for every noise, as a recognizer has it. `fitting.distillation` goes on from here.

A training that goes on from former weights learns plates further, and holds faces where they are.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anony_pipeline.config.schema import Generator as GeneratorSettings
from anony_pipeline.fitting import likeness
from anony_pipeline.fitting.crop_store import Batch, CropStore
from anony_pipeline.fitting.generator_crops import render_crops
from anony_pipeline.fitting.loop import take_steps
from anony_pipeline.losses import adversarial, perceptual, reconstruction
from anony_pipeline.models import weights
from anony_pipeline.models.demo_pipeline import build_demo_pipeline
from anony_pipeline.models.discriminator import Discriminator
from anony_pipeline.models.generator import LAST_TIMESTEP, SHIPPED_UNET, Generator, with_coarse_of
from anony_pipeline.ops import images
from anony_pipeline.runtime.progress import log
from anony_pipeline.runtime.seeding import numpy_generator, seed_for
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import Kind

STATE = "generator_state.pt"
PREVIEW = "generator_preview.png"
LEARNING_RATE = 4e-4
LAST_LEARNING_RATE = 2e-5
FURTHER_LEARNING_RATE = 2e-4
"""The highest of a training that goes on from weights: more would forget what they know."""
ADVERSARY_ALONE = 300
"""Steps, at most an eighth of all, in which a new adversary meets weights that have learned, before they follow it."""
DISCRIMINATOR_LEARNING_RATE = 2e-4
EMA_DECAY = 0.999
R1_EVERY = 16
R1_WEIGHT = 5.0
# Share of a batch that is there twice, with other noise: the pairs that must differ (see `likeness.to_strangers`).
TWIN_SHARE = 0.25
LIKENESS_OF_ALL = 0.3
"""The loss from which on it has its full weight: about that of faces which all look alike."""
CROPS = {Kind.FACE: 27_000, Kind.PLATE: 13_000}


@dataclass(frozen=True)
class Mix:
    """Weights of the losses' gradients, each scaled to the length of the pixel distance's gradient."""

    pixel: float
    edges: float
    features: float
    adversary: float
    likeness: float


BEGINNING = Mix(pixel=1.0, edges=1.0, features=0.0, adversary=0.0, likeness=0.0)
LATER = {
    Kind.FACE: Mix(pixel=0.2, edges=0.1, features=0.6, adversary=0.5, likeness=0.15),
    Kind.PLATE: Mix(pixel=1.0, edges=0.5, features=0.4, adversary=0.2, likeness=0.0),
}
FURTHER = Mix(pixel=0.4, edges=0.3, features=0.6, adversary=0.6, likeness=0.0)
"""Of plates that learn further from former weights: distances to one photograph, which no anchor meets to the pixel,
had made their strokes soft."""
TURNS = (Kind.FACE, Kind.PLATE)
"""Whose step it is. Plates stay as they become here; one blurred face for all noises is soon learned, and unlearned
later."""
FURTHER_TURNS = (Kind.PLATE, Kind.PLATE, Kind.PLATE, Kind.FACE)
"""The same where faces are held to former weights, which is learned at once."""
PLATE_STRENGTHS = (0.02, 0.6)
"""Of the anchors' noise, as ``plate_text_anchor_strength``; above, no text that is not drawn again survives."""


class _Trainer:
    """All that learns, and one step of it."""

    def __init__(
        self, steps: int, seed: int, device: torch.device, recognizer: nn.Module, former: Path | None = None
    ) -> None:
        torch.manual_seed(seed_for(seed, "generator/weights"))
        self.steps, self.seed, self.device = steps, seed, device
        self.began_with = None if former is None else manifests.sha256_of(former)
        self.generator = demo_generator().to(device)
        if former is not None:
            weights.load_into(self.generator.unet, weights.load_safetensors(former), former)
        self.former = None if former is None else copy.deepcopy(self.generator.unet).requires_grad_(False)
        self.unet = self.generator.unet.requires_grad_(True).train()
        self.recognizer = recognizer.to(device).requires_grad_(False).eval()
        self.discriminator = Discriminator(channels=48).to(device)
        if device.type == "cuda":
            for unet in filter(None, (self.unet, self.former)):
                unet.to(memory_format=torch.channels_last)
            self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no hint
        self.ema = copy.deepcopy(self.unet).requires_grad_(False)
        fused = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), LEARNING_RATE, betas=(0.9, 0.99), fused=fused)
        self.adversary = torch.optim.Adam(
            self.discriminator.parameters(), DISCRIMINATOR_LEARNING_RATE, betas=(0.0, 0.99), fused=fused
        )
        self.step = 0

    @property
    def adversarial(self) -> bool:
        """Whether the first third is over, which weights that have learned before don't need."""
        return self.former is not None or self.step >= self.steps // 3

    @property
    def turns(self) -> tuple[Kind, ...]:
        """Whose step it is, over and over."""
        return TURNS if self.former is None else FURTHER_TURNS

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One step of whose turn it is; losses by name."""
        if self.former is not None and batch.kind is Kind.FACE:
            losses = self._hold(batch, self.former)
        else:
            losses = self._learn(batch)
        self.step += 1
        self._average()
        return losses

    def _learn(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One step of the generator and, after the first third, of its adversary."""
        alone = self.former is not None and self.step < min(ADVERSARY_ALONE, self.steps // 8)
        with self._half(), torch.set_grad_enabled(not alone):
            outputs = self._completed(batch, *self._latents(batch))
        losses: dict[str, torch.Tensor] = {}
        if not alone:
            gradient, losses = self._gradient(outputs.detach(), batch)
            losses["gradient_norm"] = self._update(outputs, gradient)
        # The adversary stays in float32: it is small, and spectral normalization mixes dtypes under autocast.
        if self.adversarial:
            losses |= self._train_discriminator(outputs.detach().float(), batch)
        return losses

    def _hold(self, batch: Batch, former: nn.Module) -> dict[str, torch.Tensor]:
        """One step towards what a former UNet makes of the same latents."""
        with self._half():
            latents, timesteps = self._latents(batch)
            with torch.no_grad(), with_unet(self.generator, former):
                wanted = self._completed(batch, latents, timesteps).float()
            outputs = self._completed(batch, latents, timesteps)
        fixed = outputs.detach().float().requires_grad_(True)
        losses = {
            "pixel": reconstruction.masked_l1(fixed, wanted, batch.masks),
            "edges": reconstruction.gradient_l1(fixed, wanted, batch.masks),
        }
        (gradient,) = torch.autograd.grad(losses["pixel"] + losses["edges"], fixed)
        self._update(outputs, gradient)
        return {f"held_{name}": loss.detach() for name, loss in losses.items()}

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _update(self, outputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Follow a gradient at the outputs; returns the length of the weights' gradient."""
        highest = LEARNING_RATE if self.former is None else FURTHER_LEARNING_RATE
        for group in self.optimizer.param_groups:
            group["lr"] = warm_cosine(self.step, self.steps, highest)
        self.optimizer.zero_grad(set_to_none=True)
        outputs.backward(gradient.to(outputs.dtype))
        length = nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        return length

    def _latents(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What completing begins with, and its timesteps: pure noise or an earlier step's result for faces, anchors."""
        generator, count = self.generator, len(batch.images)
        noise_rng = torch.Generator(self.device).manual_seed(seed_for(self.seed, "generator/noise", self.step))
        shape = generator.noise_shape(count, (batch.images.shape[2], batch.images.shape[3]))
        noise = torch.randn(shape, generator=noise_rng, device=self.device)
        rng = numpy_generator(self.seed, "generator/timestep", self.step)
        if batch.anchors is not None:
            strengths = torch.from_numpy(rng.uniform(*PLATE_STRENGTHS, count)).to(self.device, non_blocking=True)
            timesteps = (strengths * LAST_TIMESTEP).round().long()
            anchored = generator.encode(torch.where(batch.masks > 0.5, batch.anchors, batch.images))
            latents = generator.add_noise(anchored, noise, timesteps)
            if rng.random() < 0.05:
                latents, timesteps = noise, torch.full_like(timesteps, LAST_TIMESTEP)
        else:
            latents, timesteps = noise, torch.full((count,), LAST_TIMESTEP, device=self.device)
            if rng.random() < 0.2:
                # The later steps of a sampler that takes several: they start from what the first one made.
                condition = generator.condition(batch.images, batch.masks)
                with torch.no_grad():
                    clean = generator.predict_clean(latents, timesteps, condition, batch.kind).float()
                timesteps = torch.full_like(timesteps, int(rng.choice([249, 499, 749])))
                latents = generator.add_noise(
                    clean, torch.randn(shape, generator=noise_rng, device=self.device), timesteps
                )
        return latents, timesteps

    def _completed(self, batch: Batch, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Crops with what the generator makes of latents under their masks, as in use."""
        generator = self.generator
        condition = generator.condition(batch.images, batch.masks)
        clean = generator.predict_clean(latents, timesteps, condition, batch.kind)
        filled = generator.decode(clean.float())
        if batch.anchors is not None:
            filled = with_coarse_of(batch.anchors, filled, batch.masks)
        return torch.where(batch.masks > 0.5, filled, batch.images)

    def _gradient(self, fixed: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mixed gradient at the outputs, and the losses.

        Each loss's gradient is brought to the length of the pixel distance's, as Esser et al., Taming Transformers,
        2021, equation 7, do it at the last layer: then a weight means the same in every phase and for every kind.
        """
        outputs = fixed.float().requires_grad_(True)
        later = LATER[batch.kind] if self.former is None else FURTHER
        mix = later if self.adversarial else BEGINNING
        losses = {"pixel": reconstruction.masked_l1(outputs, batch.images, batch.masks)}
        reference = torch.autograd.grad(losses["pixel"], outputs)[0]
        length, total = reference.norm(), mix.pixel * reference
        for name, loss in self._further_losses(outputs, batch, mix):
            losses[name] = loss
            gradient = torch.autograd.grad(loss, outputs)[0].float()
            # A hinge that few pairs still touch must not push those few with the strength of all.
            share = (loss.detach() / LIKENESS_OF_ALL).clamp(max=1) if name == "likeness" else 1.0
            scale = (length / gradient.norm().clamp(min=1e-12)).clamp(max=1e6)
            total = total + getattr(mix, name) * share * scale * gradient
        return total, {name: loss.detach() for name, loss in losses.items()}

    def _further_losses(self, outputs: torch.Tensor, batch: Batch, mix: Mix) -> Iterator[tuple[str, torch.Tensor]]:
        if mix.edges:
            yield "edges", reconstruction.gradient_l1(outputs, batch.images, batch.masks)
        if mix.features:
            # Not the attribute network's features: it judges (KID), and who sat in a loss must not judge alone.
            yield (
                "features",
                perceptual.perceptual_distance(
                    lambda pixels: self.discriminator.features(pixels, batch.masks), outputs, batch.images
                ),
            )
        if mix.adversary:
            yield "adversary", adversarial.generator_loss(self.discriminator(outputs, batch.masks, batch.kind))
        if mix.likeness and batch.twins:
            randomness = torch.Generator(self.device).manual_seed(seed_for(self.seed, "generator/likeness", self.step))
            yield "likeness", likeness.to_strangers(outputs, batch, self.recognizer, randomness)

    def _train_discriminator(self, fakes: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        penalize = self.step % R1_EVERY < len(self.turns)  # every kind has its turn, so all are penalized
        real = batch.images.detach().requires_grad_(penalize)
        real_scores = self.discriminator(real, batch.masks, batch.kind)
        fake_scores = self.discriminator(fakes, batch.masks, batch.kind)
        losses = {"discriminator": adversarial.discriminator_loss(real_scores, fake_scores)}
        total = losses["discriminator"]
        if penalize:
            losses["r1"] = adversarial.r1_penalty(real_scores, real)
            total = total + R1_WEIGHT * R1_EVERY / 2 * losses["r1"]
        self.adversary.zero_grad(set_to_none=True)
        total.backward()
        self.adversary.step()
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.unet.parameters()), 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "steps": self.steps,
            "seed": self.seed,
            "began_with": self.began_with,
            "unet": self.unet.state_dict(),
            "ema": self.ema.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "adversary": self.adversary.state_dict(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, if it is of this training."""
        if other := [name for name in ("steps", "seed", "began_with") if state[name] != getattr(self, name)]:
            log.warning("the generator's training is begun anew: another was saved, by %s", ", ".join(other))
            return
        self.step = state["step"]
        for name in ("unet", "ema", "discriminator", "optimizer", "adversary"):
            getattr(self, name).load_state_dict(state[name])


@contextlib.contextmanager
def with_unet(generator: Generator, unet: nn.Module) -> Iterator[None]:
    """A generator with another UNet for a while."""
    own, generator.unet = generator.unet, unet
    try:
        yield
    finally:
        generator.unet = own


def demo_generator() -> Generator:
    """The demo's generator with random weights, in the default prompts and steps."""
    settings = GeneratorSettings()
    return Generator(
        build_demo_pipeline(),
        prompts={Kind.FACE: settings.face_prompt, Kind.PLATE: settings.plate_prompt},
        steps=dict.fromkeys(Kind, 1),
        anchor_strength=0.4,
        base_id="demo",
    )


def fit_generator(
    *,
    steps: int,
    seed: int,
    out: Path,
    work: Path,
    recognizer: nn.Module,
    batch_size: int = 64,
    crops: Mapping[Kind, int] = CROPS,
    former: Path | None = None,
) -> dict[str, Any]:
    """Train the base UNet and write its moving average as fp16 safetensors; a broken run goes on where it was saved.

    Args:
        steps: Faces and plates take turns (`TURNS`).
        seed: Of crops, weights and noise.
        out: Folder of ``generator_unet.safetensors`` and of a picture of validation crops before and after.
        work: Folder of rendered crops and training state, from which a run of the same steps, seed and beginning goes
            on; can be removed when all is done.
        recognizer: ``(N, 3, 112, 112)`` in ``[-1, 1]`` -> ``(N, D)``: who must not be seen in faces, see
            `likeness.to_strangers`; on the device that trains.
        batch_size: Crops a step.
        crops: How many of each kind are rendered; a face's is about 50 kB, a plate's 75 kB.
        former: Weights of a former training to begin with in place of random ones: plates learn further, faces stay.

    Returns:
        Facts for the weights' manifest: steps, seconds, and the pixel distances on held-out crops.
    """
    begin = time.monotonic()
    rendered = render_crops(work / "crops", count=crops, seed=seed)
    trainer = _Trainer(steps, seed, next(recognizer.parameters()).device, recognizer, former)
    stores = {kind: CropStore(rendered, kind, trainer.device) for kind in Kind}
    chosen = torch.backends.cudnn.benchmark
    # Two shapes alternate over thousands of steps: looking for the fastest convolutions once pays.
    torch.backends.cudnn.benchmark = True
    try:
        take_steps("the generator", trainer, steps, lambda: _train_step(trainer, stores, batch_size), work / STATE)
    finally:
        torch.backends.cudnn.benchmark = chosen
    weights.save_half(out / SHIPPED_UNET, trainer.ema)
    return {
        "steps": steps,
        "seconds_of_last_slice": round(time.monotonic() - begin, 1),
        "seed": seed,
        "batch_size": batch_size,
        "crops": {kind.value: count for kind, count in crops.items()},
        "began_with_sha256": trainer.began_with,
        **_validate(trainer, stores, out / PREVIEW),
    }


def _train_step(
    trainer: _Trainer, stores: Mapping[Kind, CropStore], batch_size: int
) -> dict[str, dict[str, torch.Tensor]]:
    """One step of whose turn it is; losses by kind."""
    store = stores[trainer.turns[trainer.step % len(trainer.turns)]]
    twins = round(batch_size * TWIN_SHARE) if store.kind is Kind.FACE else 0
    batch = store.draw(batch_size, numpy_generator(trainer.seed, "generator/batch", trainer.step), twins)
    return {store.kind.value: trainer.train_step(batch)}


@torch.no_grad()
def _validate(trainer: _Trainer, stores: Mapping[Kind, CropStore], preview: Path) -> dict[str, float]:
    """Pixel distances of the averaged generator on held-out crops, and a picture: original, masked, two fillings."""
    generator = trainer.generator
    trained, generator.unet = generator.unet, trainer.ema.eval()
    facts, sheets = {}, []
    for store in stores.values():
        batch = store.validation(48)
        rng = torch.Generator().manual_seed(seed_for(trainer.seed, "generator/validation"))
        shape = generator.noise_shape(len(batch.images), (batch.images.shape[2], batch.images.shape[3]))
        filled = [
            generator.fill(
                batch.images, batch.masks, batch.kind, noise=torch.randn(shape, generator=rng), anchors=batch.anchors
            )
            for _ in range(2)
        ]
        name = store.kind.value
        facts[f"{name}_l1"] = round(float(reconstruction.masked_l1(filled[0], batch.images, batch.masks)), 4)
        difference = reconstruction.masked_l1(filled[0], filled[1], batch.masks)
        facts[f"{name}_l1_between_two_noises"] = round(float(difference), 4)
        masked = batch.images.masked_fill(batch.masks > 0.5, 0)
        shown = [batch.images, masked if batch.anchors is None else batch.anchors, *filled]
        sheets.append(_sheet([images.to_images(row[:12]) for row in shown]))
    generator.unet = trained
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0))) for sheet in sheets]
    images.write(preview, np.concatenate(padded))
    return facts


def _sheet(rows: list[list[np.ndarray]]) -> np.ndarray:
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def warm_cosine(step: int, steps: int, highest: float) -> float:
    """Rise linearly over the first tenth, at most 200 steps, then fall as a half cosine."""
    warm = min(1.0, (step + 1) / max(1, min(200, steps // 10)))
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    return warm * (LAST_LEARNING_RATE + (highest - LAST_LEARNING_RATE) * cosine)

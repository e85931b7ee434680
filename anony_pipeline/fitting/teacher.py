"""The base generator's teacher: many steps of flow matching from noise to a face, too slow and too large to ship.

What takes a network of one step's size thousands of adversarial steps to miss, a larger one learns plainly when it may
take many steps: another person of every noise. `fitting.distillation` brings that into one step.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import nn

from anony_pipeline.fitting.crop_store import CropStore
from anony_pipeline.fitting.generator import warm_cosine
from anony_pipeline.fitting.loop import take_steps
from anony_pipeline.ops import images
from anony_pipeline.runtime.progress import log
from anony_pipeline.runtime.seeding import numpy_generator, seed_for

STATE = "teacher_state.pt"
PREVIEW = "teacher_preview.png"
PATCH = 4
CHANNELS = (160, 288, 448)
LEARNING_RATE = 3e-4
EMA_DECAY = 0.999
SAMPLING_STEPS = 8
"""Of two evaluations each."""
SHIFT = 3.0
"""How much more of the time goes to much noise, in training and on the way to a face. A face's mean color is that of
thousands of pixels, so noise hides it only above t = 0.9, where it must be taken from the neck: of unshifted times one
in seventy lies there, and one in seven of these."""


class FlowNet(nn.Module):
    """Velocity of faces under masks, on patches of 4 px: a UNet of three levels with attention in the lower two.

    Args:
        channels: Of each level; multiples of 32.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        low = len(channels) - 1
        self.unet = UNet2DModel(
            in_channels=7 * PATCH**2,
            out_channels=3 * PATCH**2,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * low,
            up_block_types=("AttnUpBlock2D",) * low + ("UpBlock2D",),
            layers_per_block=2,
            attention_head_dim=32,
        )

    def forward(
        self, noisy: torch.Tensor, times: torch.Tensor, pictures: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Velocity ``(N, 3, H, W)``, noise minus picture; it means nothing outside of the masks.

        Args:
            noisy: ``(N, 3, H, W)``, ``(1 - t) * picture + t * noise``; only what is under the masks counts.
            times: ``(N,)`` t in ``[0, 1]``.
            pictures: ``(N, 3, H, W)`` in ``[-1, 1]``; what is under the masks has no influence.
            masks: ``(N, 1, H, W)``, 0 or 1.
        """
        patches = self.unet(_patches(noisy, pictures, masks), times * 1000).sample
        return F.pixel_shuffle(patches, PATCH)

    def maps(
        self, noisy: torch.Tensor, times: torch.Tensor, pictures: torch.Tensor, masks: torch.Tensor
    ) -> list[torch.Tensor]:
        """What the way down sees, from patches to the whole: of each level ``(N, C, h, w)``, before it is halved.

        Args:
            noisy: As in `forward`, like all others.
            times: ``(N,)``.
            pictures: ``(N, 3, H, W)``.
            masks: ``(N, 1, H, W)``.
        """
        when = self.unet.time_embedding(self.unet.time_proj(times * 1000))
        seen, found = self.unet.conv_in(_patches(noisy, pictures, masks)), []
        for block in self.unet.down_blocks:
            seen, inner = block(hidden_states=seen, temb=when)
            found.append(inner[len(block.resnets) - 1])
        return found


def _patches(noisy: torch.Tensor, pictures: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The network's input: what is noisy under the masks, what is known outside, and the masks."""
    inside = masks > 0.5
    given = torch.cat([noisy.masked_fill(~inside, 0.0), pictures.masked_fill(inside, 0.0), masks], dim=1)
    return F.pixel_unshuffle(given, PATCH)


def flow_loss(
    net: nn.Module,
    pictures: torch.Tensor,
    masks: torch.Tensor,
    times: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Conditional flow matching on straight paths (Lipman et al., Flow Matching for Generative Modeling, 2023, eq. 23).

    Args:
        net: Like `FlowNet`.
        pictures: ``(N, 3, H, W)`` in ``[-1, 1]``.
        masks: ``(N, 1, H, W)``: where it counts.
        times: ``(N,)`` in ``[0, 1]``.
        noise: ``(N, 3, H, W)`` standard normal.

    Returns:
        The mean squared error of the velocity under the masks, a scalar.
    """
    t = times.view(-1, 1, 1, 1)
    velocity = net((1 - t) * pictures + t * noise, times, pictures, masks).float()
    return ((velocity - (noise - pictures)).square() * masks).sum() / (3 * masks.sum()).clamp(min=1)


def shifted(times: torch.Tensor) -> torch.Tensor:
    """Times moved to where more is noise (Esser et al., Scaling Rectified Flow Transformers, 2024, equation 23)."""
    return SHIFT * times / (1 + (SHIFT - 1) * times)


def random_times(count: int, randomness: torch.Generator) -> torch.Tensor:
    """``(count,)`` logit-normal times (Esser et al., section 3.1), shifted."""
    return shifted(torch.randn(count, generator=randomness, device=randomness.device).sigmoid())


@torch.no_grad()
def draw(
    net: nn.Module, noise: torch.Tensor, pictures: torch.Tensor, masks: torch.Tensor, steps: int = SAMPLING_STEPS
) -> torch.Tensor:
    """Follow the flow from noise to faces by the midpoint method, whose last evaluation is half a step from the end.

    The steps' times are `shifted`: where much is noise they are short.

    Args:
        net: Like `FlowNet`.
        noise: ``(N, 3, H, W)`` standard normal: which face.
        pictures: ``(N, 3, H, W)`` in ``[-1, 1]``; what is under the masks has no influence.
        masks: ``(N, 1, H, W)``.
        steps: Of two evaluations each.

    Returns:
        ``(N, 3, H, W)`` float32: made under the masks, ``pictures`` to the bit outside.
    """
    made, count = noise.float(), noise.shape[:1]
    # Twice as many times as steps: each begins at one, looks at the next, and ends at the one after that.
    times = shifted(torch.linspace(1, 0, 2 * steps + 1)).tolist()
    for now, midway, then in zip(times[:-2:2], times[1:-1:2], times[2::2], strict=True):
        velocity = net(made, made.new_full(count, now), pictures, masks).float()
        velocity = net(made - (now - midway) * velocity, made.new_full(count, midway), pictures, masks).float()
        made = made - (now - then) * velocity
    return torch.where(masks > 0.5, made.clamp(-1, 1), pictures)


@dataclass
class Learner:
    """All that learns.

    Attributes:
        net: What is trained.
        ema: Its moving average.
        optimizer: Of ``net``.
        asked: What the training is a function of; a state of another one is not gone on from.
        step: Updates that were made.
    """

    net: FlowNet
    ema: FlowNet
    optimizer: torch.optim.Optimizer
    asked: dict[str, Any]
    step: int = 0

    @property
    def device(self) -> torch.device:
        """That it trains on."""
        return next(self.net.parameters()).device

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        parts = {name: getattr(self, name).state_dict() for name in ("net", "ema", "optimizer")}
        return {"asked": self.asked, "step": self.step, **parts}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, if it is of this training."""
        if state["asked"] != self.asked:
            log.warning("the teacher's training is begun anew: another was saved, %s", state["asked"])
            return
        self.step = state["step"]
        for name in ("net", "ema", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


def fit_teacher(
    store: CropStore,
    *,
    steps: int,
    seed: int,
    work: Path,
    batch_size: int = 128,
    channels: tuple[int, ...] = CHANNELS,
) -> FlowNet:
    """Train a teacher of faces; a broken run goes on where it was saved.

    Args:
        store: Face crops, on the device that trains.
        steps: Updates.
        seed: Of weights, batches and noise.
        work: Folder of the training state and of a picture of held-out crops: masked, three faces for each, original.
        batch_size: Crops a step.
        channels: Of `FlowNet`.

    Returns:
        The moving average, frozen.
    """
    learner = begin(store.device, seed, channels)
    learner.asked |= {"steps": steps, "batch_size": batch_size, "crops": len(store.images)}

    def one() -> dict[str, dict[str, torch.Tensor]]:
        return {"faces": {"flow": train_step(learner, store, steps=steps, seed=seed, batch_size=batch_size)}}

    take_steps("the teacher", learner, steps, one, work / STATE)
    net = learner.ema.requires_grad_(False).eval()
    preview(net, store, seed, work / PREVIEW)
    return net


def begin(device: torch.device, seed: int, channels: tuple[int, ...] = CHANNELS) -> Learner:
    """A teacher that has learned nothing."""
    torch.manual_seed(seed_for(seed, "teacher/weights"))
    net = FlowNet(channels).to(device)
    if device.type == "cuda":
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no hint
    ema = copy.deepcopy(net).requires_grad_(False)
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=fused)
    if device.type == "cuda":
        net.compile(dynamic=False)
    return Learner(net, ema, optimizer, {"seed": seed, "channels": list(channels)})


def train_step(learner: Learner, store: CropStore, *, steps: int, seed: int, batch_size: int) -> torch.Tensor:
    """One update; returns its loss."""
    step = learner.step
    for group in learner.optimizer.param_groups:
        group["lr"] = warm_cosine(step, steps, LEARNING_RATE)
    batch = store.draw(batch_size, numpy_generator(seed, "teacher/batch", step))
    randomness = torch.Generator(store.device).manual_seed(seed_for(seed, "teacher/noise", step))
    noise = torch.randn(batch.images.shape, generator=randomness, device=store.device)
    times = random_times(len(noise), randomness)
    with torch.autocast(store.device.type, torch.bfloat16, enabled=store.device.type == "cuda"):
        loss = flow_loss(learner.net, batch.images, batch.masks, times, noise)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.net.parameters(), 1.0)
    learner.optimizer.step()
    learner.step += 1
    with torch.no_grad():
        decay = min(EMA_DECAY, (1 + learner.step) / (10 + learner.step))
        torch._foreach_lerp_(list(learner.ema.parameters()), list(learner.net.parameters()), 1 - decay)
    return loss.detach()


def preview(net: nn.Module, store: CropStore, seed: int, path: Path, shown: int = 16) -> None:
    """Write a picture of held-out crops: masked, made of three noises, and as drawn."""
    batch = store.validation(shown)
    randomness = torch.Generator(store.device).manual_seed(seed_for(seed, "teacher/preview"))
    rows = [batch.images.masked_fill(batch.masks > 0.5, 0)]
    for _ in range(3):
        noise = torch.randn(batch.images.shape, generator=randomness, device=store.device)
        rows.append(draw(net, noise, batch.images, batch.masks))
    rows.append(batch.images)
    images.write(path, np.concatenate([np.concatenate(images.to_images(row), axis=1) for row in rows]))

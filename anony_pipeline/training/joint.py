"""Joint training: generator, discriminator and detector learn in turn, and share one pass of the generator.

Each step reads like the algorithm: what it is given, what it computes, which weights it changes. It returns named
numbers.
"""

import math
from dataclasses import replace

import torch

from anony_pipeline.losses import adversarial
from anony_pipeline.models.discriminator import Discriminator
from anony_pipeline.training.batches import Batch, DetectorBatch, Generated, fill, small_of
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState

Scalars = dict[str, float]


def step_generator(state: TrainingState, batch: Batch, objective: Objective) -> Scalars:
    """Let the generator fill the batch once, and move it down the gradient of all its losses.

    What it made is kept, detached, in ``state.generated``: the discriminator and the detector learn from it. Where
    several processes train, each fills its share of the batch, and all end with the same gradient and the same outputs.

    Args:
        state: Its generator, optimizer and average change.
        batch: Crops of one kind, the same in each process; its share's `training.accumulation` parts are computed one
            after the other, and crops of different adapters or sizes apart.
        objective: The losses.

    Returns:
        Each loss by name, and `gradient_norm`.
    """
    _hold_still(state.networks.discriminator)
    places, parts = _parts(state, batch)
    outputs: list[torch.Tensor] = []
    scalars: Scalars = {}
    for part in parts:
        filled = fill(state.networks.generator, part)
        total, losses = objective(part, filled, state.stage)
        share = len(part) / len(batch)
        state.scaler.scale(total * share).backward()
        outputs.append(filled.detach())
        for name, value in losses.items():
            scalars[name] = scalars.get(name, 0.0) + share * value.item()
    # Asked once, at the end: the processes' shares may have different numbers of parts.
    if state.team.any(not all(math.isfinite(value) for value in scalars.values())):
        state.generated = None
        state.skip("generator", f"the losses are {scalars}")
        return scalars
    made = state.team.gather(torch.cat(outputs)[places.argsort()])
    state.generated = Generated(batch.kind, batch.indices, batch.originals, batch.masks, made)
    return {**state.team.sum_scalars(scalars), "gradient_norm": state.apply("generator")}


def step_discriminator(state: TrainingState, batch: Generated) -> Scalars:
    """Teach the discriminator to tell original crops from those that the generator made last.

    Args:
        state: Its discriminator and optimizer change.
        batch: `state.generated`: no new pass of the generator.

    Returns:
        `discriminator`, the hinge loss, and `r1`, the gradient penalty on real crops.
    """
    critic = state.networks.discriminator
    if critic is None:
        raise ValueError("the discriminator is switched off, and can't learn")
    critic.requires_grad_(True).train()
    weight = state.config.loss.r1_weight
    real = batch.originals.clone().requires_grad_(weight > 0)
    on_real = critic(real, batch.masks, batch.kind)
    on_fake = critic(batch.outputs, batch.masks, batch.kind)
    loss = adversarial.discriminator_loss(on_real, on_fake)
    scalars = {"discriminator": loss.item()}
    if weight > 0:
        penalty = adversarial.r1_penalty(on_real, real)
        scalars["r1"] = penalty.item()
        loss = loss + weight / 2 * penalty
    if not torch.isfinite(loss):
        state.skip("discriminator", f"the loss is {loss.item()}")
        return scalars
    loss.backward()
    state.apply("discriminator")
    return scalars


def step_detector(state: TrainingState, batch: DetectorBatch) -> Scalars:
    """Teach the detector to find regions in images and in their anonymized versions.

    Args:
        state: Its detector and optimizer change.
        batch: Whole images; kinds that an image does not label are never negatives in it.

    Returns:
        `detector`, the sum of the detector's losses.
    """
    losses = state.networks.detector(batch.images, batch.targets, batch.not_exhaustive)
    loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        state.skip("detector", f"the loss is {loss.item()}")
        return {"detector": loss.item()}
    loss.backward()
    state.apply("detector")
    return {"detector": loss.item()}


def _hold_still(adversary: Discriminator | None) -> None:
    """Let it judge without learning; spectral norms that moved with each look would depend on the number of parts."""
    if adversary is not None:
        adversary.requires_grad_(False).eval()


def _parts(state: TrainingState, batch: Batch) -> tuple[torch.Tensor, list[Batch]]:
    """The parts of this process's share that one pass each can fill, and the places of all their crops in the batch."""
    team = state.team
    parts = _passes(state, batch, range(len(batch))[team.share(len(batch))])
    if state.config.training.fsdp:
        # Each pass gathers weights from all processes: they must make equally many.
        shares = [replace(team, rank=rank).share(len(batch)) for rank in range(team.size)]
        parts = _split(parts, max(len(_passes(state, batch, range(len(batch))[share])) for share in shares))
    return torch.tensor([place for part in parts for place in part]), [batch.part(part) for part in parts]


def _passes(state: TrainingState, batch: Batch, share: range) -> list[list[int]]:
    """The places of a share by pass: `training.accumulation` chunks, each by the adapters and the size of its crops."""
    generator = state.networks.generator
    size = -(-len(share) // state.config.training.accumulation)
    styles, small = batch.styles, small_of(generator, batch)
    parts = []
    for start in range(0, len(share), size):
        chunk = share[start : start + size]
        passes = generator.passes(batch.kind, [styles[place] for place in chunk], [small[place] for place in chunk])
        parts += [[chunk[number] for number in numbers] for numbers in passes]
    return parts


def _split(parts: list[list[int]], count: int) -> list[list[int]]:
    """The same crops in so many parts, at least as many as there are and at most one a crop."""
    parts = list(parts)
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda number: len(parts[number]))
        half = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:half], parts[largest][half:]]
    return parts

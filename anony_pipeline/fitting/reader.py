"""Fit the plate readers on procedural plates, and measure them on serials that they have never seen."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.loop import Clock, Plan, fit
from anony_pipeline.fitting.rendering import Plates
from anony_pipeline.models.reader import (
    ALPHABET,
    INPUT_HW,
    MAX_CHARACTERS,
    HeldOutPlateNet,
    PlateNet,
    ReaderTwin,
    decode_ctc,
    decode_places,
    encode,
)
from anony_pipeline.plates.serials import edit_distance
from anony_pipeline.runtime import seeding

ARCHITECTURES: dict[str, type[nn.Module]] = {"reader": PlateNet, "held_out_reader": HeldOutPlateNet}


def fit_reader(
    name: str,
    plates: Plates,
    plan: Plan,
    *,
    batch: int = 256,
    start: nn.Module | None = None,
    clock: Clock | None = None,
) -> nn.Module:
    """Fit one of the shipped readers.

    Args:
        name: ``reader`` (read by CTC) or ``held_out_reader`` (a class at each place).
        plates: Crops and their serials.
        plan: How long and where; CTC waits for the device at each step, so only the held-out reader can be graphed.
        batch: Crops a step.
        start: A fitted network of the same architecture that is fitted further, in place; a new one if None.
        clock: As in `loop.fit`.

    Returns:
        The network, in evaluation mode, on the plan's device.
    """
    torch.manual_seed(seeding.seed_for(plan.seed, f"{name} start"))
    network = (ARCHITECTURES[name]() if start is None else start).requires_grad_(True)
    twin = ReaderTwin(network).to(plan.device) if isinstance(network, PlateNet) else None
    pixels = torch.from_numpy(plates.images).to(plan.device)
    forward = plan.forward(network)
    places, lengths = (table.to(plan.device) for table in serial_table(plates.serials))

    def step(_number: int, randomness: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(pixels), (batch,), generator=randomness, device=plan.device)
        crops = disturbed(pixels[chosen], randomness)
        wanted = places[chosen]
        if twin is None:
            return F.cross_entropy(forward(crops).float().flatten(0, 1), wanted.flatten())
        steps = twin(crops)
        read = torch.full((batch,), len(steps), device=plan.device)
        # Connectionist temporal classification (Graves et al., 2006).
        return F.ctc_loss(steps, wanted, read, lengths[chosen], zero_infinity=True)

    fit(name, {"network": network}, step, plan, clock)
    return network


def serial_table(serials: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Serials as ``(N, MAX_CHARACTERS)`` classes, 0 where there is no character, and their ``(N,)`` lengths.

    Characters outside the readers' alphabet are left out: a judge reads letters and digits.
    """
    known = [legible(serial)[:MAX_CHARACTERS] for serial in serials]
    table = torch.zeros(len(known), MAX_CHARACTERS, dtype=torch.long)
    for row, serial in zip(table, known, strict=True):
        row[: len(serial)] = encode([serial])[0]
    return table, torch.tensor([len(serial) for serial in known])


def disturbed(images_u8: torch.Tensor, randomness: torch.Generator) -> torch.Tensor:
    """Make ``(N, 3, 64, 192)`` crops as a reader meets them: boxes that are off, small plates, noise, other light."""
    count, height, width = images_u8.shape[:3]
    matrices = augmentation.stretch(count, (height, width), INPUT_HW, images_u8.device)
    matrices = augmentation.jitter(matrices, INPUT_HW, randomness, scale=0.08, turn=0.06, shift=0.04)
    crops = augmentation.warp(augmentation.to_pixels(images_u8), matrices, INPUT_HW)
    crops = augmentation.light(crops, randomness)
    crops, _ = augmentation.coarsen(crops, randomness, lowest=0.7)
    return augmentation.add_noise(crops, randomness)[0]


@torch.no_grad()
def reading_errors(network: nn.Module, plates: Plates, device: torch.device) -> np.ndarray:
    """How many characters of each plate are read wrongly, missed or made up, undisturbed: ``(N,)`` int."""
    twin = ReaderTwin(network).to(device).eval() if isinstance(network, PlateNet) else None
    readings = []
    for part in torch.from_numpy(plates.images).split(256):
        crops = F.interpolate(augmentation.to_pixels(part.to(device)), INPUT_HW, mode="bilinear", antialias=True)
        readings += decode_ctc(twin(crops)) if twin else decode_places(network(crops))
    return np.array([edit_distance(one.text, legible(s)) for one, s in zip(readings, plates.serials, strict=True)])


def legible(serial: str) -> str:
    """What a reader can read of a serial: the letters and digits of its alphabet."""
    return "".join(c for c in serial.upper() if c in ALPHABET)

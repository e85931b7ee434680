"""Fit the attribute network whose features FID and KID compare: what a region looks like, never who it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.loop import Plan, fit
from anony_pipeline.fitting.rendering import Faces, Plates
from anony_pipeline.models.features import INPUT_SIZE, FeatureNet
from anony_pipeline.runtime import seeding

OWN = 5
"""Values that are known of every crop: plate or face, blur, noise, brightness, contrast."""
IDENTITY_WORDS = ("identity", "seed", "name", "person")
"""Attributes whose names hold one of these say who somebody is and are left out."""


@dataclass(frozen=True)
class AttributeCode:
    """How attributes become numbers: one column for each number or truth value, one for each value of each word.

    Attributes:
        columns: ``name`` of a number, or ``name=value`` of a word.
        mean: ``(D,)`` of the attributes that the code was made of.
        spread: ``(D,)`` their standard deviation.
    """

    columns: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, attributes: Sequence[dict[str, Any]]) -> "AttributeCode":
        """Make the code of some faces' attributes; what never varies among them is left out."""
        flat = [_flat(one) for one in attributes]
        columns = tuple(sorted({name for one in flat for name in one}))
        table = _table(flat, columns)
        spread = np.nanstd(table, axis=0)
        kept = spread > 1e-6
        names = tuple(name for name, keep in zip(columns, kept, strict=True) if keep)
        return cls(names, np.nanmean(table[:, kept], axis=0), spread[kept])

    def encode(self, attributes: Sequence[dict[str, Any]]) -> np.ndarray:
        """``(N, D)`` float32 with about mean 0 and deviation 1; NaN where a face has no such number."""
        table = _table([_flat(one) for one in attributes], self.columns)
        return ((table - self.mean) / self.spread).astype(np.float32)


def _flat(attributes: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in attributes.items():
        if any(word in name.lower() for word in IDENTITY_WORDS):
            continue
        if isinstance(value, str):
            found[f"{name}={value}"] = 1.0
        elif isinstance(value, bool | int | float):
            found[name] = float(value)
    return found


def _table(flat: Sequence[dict[str, float]], columns: Sequence[str]) -> np.ndarray:
    # A word that is not there is a zero; a number that is not there is unknown.
    missing = {name: 0.0 if "=" in name else np.nan for name in columns}
    return np.array([[one.get(name, missing[name]) for name in columns] for one in flat]).reshape(
        len(flat), len(columns)
    )


class _Mixed:
    """Faces and plates as one set of batches with known blur and noise."""

    def __init__(self, faces: Faces, plates: Plates, code: AttributeCode, device: torch.device) -> None:
        table = code.encode(faces.attributes)
        self._device = device
        self._faces = torch.from_numpy(faces.images).to(device)
        self._plates = torch.from_numpy(plates.images).to(device)
        self._table = torch.from_numpy(table).to(device)
        self.outputs = OWN + table.shape[1]

    def batch(self, count: int, randomness: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """``(count, 3, 96, 96)`` pixels and ``(count, outputs)`` wanted values, NaN where unknown."""
        half = count // 2
        size = (INPUT_SIZE, INPUT_SIZE)
        parts, rows = [], []
        for images in (self._faces, self._plates):
            chosen = torch.randint(len(images), (half,), generator=randomness, device=self._device)
            rows.append(chosen)
            height, width = images.shape[1:3]
            whole = torch.tensor([[INPUT_SIZE / width, 0, 0], [0, INPUT_SIZE / height, 0]], device=self._device)
            matrices = augmentation.jitter(
                whole.expand(half, -1, -1), size, randomness, scale=0.15, turn=0.1, shift=0.08
            )
            parts.append(augmentation.warp(augmentation.to_pixels(images[chosen]), matrices, size))
        # Interleaved, so that each group of the blur holds faces and plates.
        order = torch.randperm(2 * half, generator=randomness, device=self._device)
        pixels = augmentation.light(torch.cat(parts)[order], randomness)
        shine = torch.stack([pixels.mean(dim=(1, 2, 3)), pixels.std(dim=(1, 2, 3)) * 2 - 1], 1)
        pixels, share = augmentation.coarsen(pixels, randomness, lowest=0.12, groups=8)
        pixels, sigma = augmentation.add_noise(pixels, randomness)
        unknown = torch.full((half, self._table.shape[1]), torch.nan, device=self._device)
        known = torch.cat([self._table[rows[0]], unknown])[order]
        plate = (order >= half).float() * 2 - 1
        own = torch.stack([plate, share.log2() + 1, sigma * 20 - 1], 1)
        return pixels, torch.cat([own, shine, known], 1)


def fit_features(faces: Faces, plates: Plates, code: AttributeCode, plan: Plan, *, batch: int = 256) -> FeatureNet:
    """Fit the attribute network: squared error to every known value.

    Args:
        faces: With attributes.
        plates: Crops.
        code: Turns the attributes into the values that are learned.
        plan: How long and where.
        batch: Crops a step, half of them plates.

    Returns:
        The network, in evaluation mode, on the plan's device.
    """
    torch.manual_seed(seeding.seed_for(plan.seed, "features start"))
    mixed = _Mixed(faces, plates, code, plan.device)
    network = FeatureNet(mixed.outputs)

    def step(_number: int, randomness: torch.Generator) -> torch.Tensor:
        pixels, wanted = mixed.batch(batch, randomness)
        known = ~torch.isnan(wanted)
        return ((network(pixels).float() - wanted.nan_to_num()) ** 2)[known].mean()

    fit("features", {"network": network}, step, plan)
    return network


@torch.no_grad()
def explained(
    network: nn.Module, faces: Faces, plates: Plates, code: AttributeCode, device: torch.device
) -> dict[str, float]:
    """The share of each group's variance that the network explains on other faces and plates: 1 is all, 0 none."""
    mixed = _Mixed(faces, plates, code, device)
    pixels, wanted = mixed.batch(min(512, 2 * len(faces.images)), torch.Generator(device).manual_seed(0))
    known = ~torch.isnan(wanted)
    error = torch.where(known, network(pixels).float() - wanted.nan_to_num(), 0) ** 2
    center = wanted.nanmean(dim=0)
    spread = torch.where(known, wanted - center, 0) ** 2
    share = 1 - error.sum(0) / spread.sum(0).clamp(min=1e-6)
    # What hardly varies among these faces can't be explained.
    varied = share[OWN:][spread.sum(0)[OWN:] > 1]
    return {
        "plate_or_face": float(share[0]),
        "blur": float(share[1]),
        "noise": float(share[2]),
        "attributes_mean": float(varied.mean()),
    }

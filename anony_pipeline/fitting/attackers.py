"""Networks that an attacker trains on anonymized faces: one to recognize people in them, one to undo them.

They learn in memory, from crops of other regions than they are tried on, and are thrown away with the run.
"""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.fitting.loop import Plan, fit
from anony_pipeline.fitting.recognizer import ArcMargin
from anony_pipeline.ops import images

BATCH = 16
MARGIN = 0.2


@dataclass(frozen=True)
class Budget:
    """What an attacker may spend.

    Attributes:
        steps: Updates of the network, of `BATCH` crops each.
        seed: All randomness is a function of it.
        device: Where it computes.
    """

    steps: int
    seed: int
    device: torch.device


class Restorer(nn.Module):
    """A small U-Net that adds what it thinks is missing: ``(N, 3, S, S)`` in ``[-1, 1]`` -> the same, 4 dividing S.

    Its output starts as its input: the last layer begins at zero.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        sizes = [channels, 2 * channels, 4 * channels]
        self.enter = _block(3, sizes[0])
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in itertools.pairwise(sizes))
        self.bottom = _block(sizes[-1], sizes[-1])
        self.up = nn.ModuleList(_block(a + b, b) for a, b in zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.leave = nn.Conv2d(channels, 3, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        levels = [self.enter(pixels)]
        for layer in self.down:
            levels.append(layer(levels[-1]))
        found = self.bottom(levels.pop())
        for layer in self.up:
            found = layer(torch.cat([F.interpolate(found, scale_factor=2.0), levels.pop()], dim=1))
        return pixels + self.leave(found)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(inplace=True)
    )


def fit_parrot(network: nn.Module, crops_rgb: Sequence[np.ndarray], people: np.ndarray, budget: Budget) -> nn.Module:
    """Retrain a recognizer on anonymized faces whose people the attacker knows.

    Args:
        network: ``(N, 3, S, S)`` in ``[-1, 1]`` -> ``(N, D)``; is changed in place.
        crops_rgb: ``(S, S, 3)`` uint8 aligned anonymized faces.
        people: ``(N,)`` whole numbers.
        budget: What the attacker may spend.

    Returns:
        The network, in evaluation mode.
    """
    known, labels = np.unique(people, return_inverse=True)
    pixels, owners = _stacked(crops_rgb, budget), torch.from_numpy(labels).to(budget.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        margin = ArcMargin(len(known))

    def step(number: int, randomness: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(pixels), (BATCH,), generator=randomness, device=budget.device)
        return margin(network(_varied(pixels[chosen], randomness)), owners[chosen], MARGIN)

    for parameter in network.parameters():
        parameter.requires_grad = True
    with _plan(budget) as plan:
        fit("parrot", {"network": network, "margin": margin}, step, plan)
    return network


def fit_restorer(anonymized_rgb: Sequence[np.ndarray], originals_rgb: Sequence[np.ndarray], budget: Budget) -> Restorer:
    """Train a network to undo an anonymizer, from pairs that the attacker made with it.

    Args:
        anonymized_rgb: ``(S, S, 3)`` uint8 aligned faces.
        originals_rgb: What they were.
        budget: What the attacker may spend.

    Returns:
        The network, in evaluation mode.
    """
    after, before = _stacked(anonymized_rgb, budget), _stacked(originals_rgb, budget)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        network = Restorer()

    def step(number: int, randomness: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(after), (BATCH,), generator=randomness, device=budget.device)
        both = torch.cat([after[chosen], before[chosen]], dim=1)
        flipped = torch.rand(len(both), generator=randomness, device=budget.device) < 0.5
        seen, wanted = torch.where(flipped[:, None, None, None], both.flip(3), both).split(3, dim=1)
        return F.l1_loss(network(seen), wanted)

    with _plan(budget) as plan:
        fit("restoration", {"network": network}, step, plan)
    return network


@torch.no_grad()
def embed(network: nn.Module, crops_rgb: Sequence[np.ndarray], budget: Budget) -> np.ndarray:
    """Embed crops with a recognizer network, each beside its mirror image; ``(N, D)`` float32 of unit length."""
    parts = [
        F.normalize(network(part).float() + network(part.flip(3)).float(), dim=1)
        for part in _stacked(crops_rgb, budget).split(BATCH)
    ]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def restore(network: Restorer, crops_rgb: Sequence[np.ndarray], budget: Budget) -> list[np.ndarray]:
    """Undo an anonymizer; crops in, ``(S, S, 3)`` uint8 crops out."""
    parts = [network(part).cpu() for part in _stacked(crops_rgb, budget).split(BATCH)]
    return images.to_images(torch.cat(parts))


def _stacked(crops_rgb: Sequence[np.ndarray], budget: Budget) -> torch.Tensor:
    return images.to_tensor(crops_rgb, device=budget.device)


def _varied(pixels: torch.Tensor, randomness: torch.Generator) -> torch.Tensor:
    """Mirrored and moved by up to four pixels: all that a few photographs a person can teach."""
    flipped = torch.rand(len(pixels), generator=randomness, device=pixels.device) < 0.5
    mirrored = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
    down, right = torch.randint(-4, 5, (2,), generator=randomness, device=pixels.device).tolist()
    return mirrored.roll((down, right), dims=(2, 3))


@contextmanager
def _plan(budget: Budget) -> Iterator[Plan]:
    with tempfile.TemporaryDirectory() as folder:
        yield Plan(budget.steps, budget.seed, budget.device, Path(folder) / "state", learning_rate=1e-3)

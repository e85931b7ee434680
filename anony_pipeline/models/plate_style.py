"""Which of the configured plate styles a plate in a picture is of, with a confidence."""

import itertools
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights
from anony_pipeline.ops import images
from anony_pipeline.plates.styles import NEUTRAL
from anony_pipeline.storage import atomic

INPUT_HW = (48, 144)
MIN_CONFIDENCE = 0.6
"""Below it a plate is left neutral: a wrong country is worse than none."""


@dataclass(frozen=True)
class StyleGuess:
    """A plate's likeliest style.

    Attributes:
        style: Its key; the neutral one where the confidence is too low.
        confidence: Of the likeliest style, in ``[0, 1]``.
    """

    style: str
    confidence: float


class PlateStyleNet(nn.Module):
    """A small convolutional network.

    ``forward``: ``(N, 3, 48, 144)`` in ``[-1, 1]`` and the crops' ``(N,)`` width over height -> ``(N, styles)`` logits.
    """

    def __init__(self, styles: int, channels: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (3, channels // 4, channels // 2, channels, channels)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        # Nine columns and three rows are left; where a band or a caption is tells the country.
        self.classify = nn.Sequential(
            nn.Linear(3 * 9 * channels + 1, channels), nn.ReLU(inplace=True), nn.Linear(channels, styles)
        )

    def forward(self, pixels: torch.Tensor, aspects: torch.Tensor) -> torch.Tensor:
        """See the class."""
        features = self.features(pixels).flatten(1)
        return self.classify(torch.cat([features, torch.log(aspects)[:, None]], dim=1))


class StyleClassifier:
    """A fitted network and the styles that it knows."""

    def __init__(self, network: PlateStyleNet, styles: Sequence[str]) -> None:
        """Keep them.

        Args:
            network: With one class a style.
            styles: Their keys, in the order of the classes.
        """
        self.network = network.eval()
        self.styles = tuple(styles)

    @torch.no_grad()
    def choose(self, plates_rgb: Sequence[np.ndarray], among: Collection[str] | None = None) -> list[StyleGuess]:
        """Guess the styles of ``(H, W, 3)`` uint8 crops, each filled by one plate up to a small margin.

        Args:
            plates_rgb: Crops of any size.
            among: The styles that may be chosen; all that the network knows if None.

        Returns:
            One guess a crop. If none of ``among`` is known, all guesses are neutral with confidence 0.
        """
        allowed = [style in among if among is not None else True for style in self.styles]
        if not plates_rgb or not any(allowed):
            return [StyleGuess(NEUTRAL, 0.0) for _ in plates_rgb]
        pixels = torch.cat(
            [
                F.interpolate(images.to_tensor([plate]), INPUT_HW, mode="bilinear", antialias=True)
                for plate in plates_rgb
            ]
        )
        aspects = torch.tensor([plate.shape[1] / plate.shape[0] for plate in plates_rgb])
        logits = self.network(pixels, aspects)
        logits[:, ~torch.tensor(allowed)] = -math.inf
        confidences, classes = torch.softmax(logits, dim=1).max(dim=1)
        return [
            StyleGuess(self.styles[number] if confidence >= MIN_CONFIDENCE else NEUTRAL, confidence)
            for confidence, number in zip(confidences.tolist(), classes.tolist(), strict=True)
        ]

    def write(self, path: Path) -> None:
        """Write the weights and the styles' keys as one safetensors file."""
        tensors = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        atomic.write_bytes(path, save(tensors, metadata={"styles": json.dumps(self.styles)}))


def load_style_classifier(path: Path) -> StyleClassifier:
    """Read what `StyleClassifier.write` wrote.

    Raises:
        WeightsError: If the file is missing, damaged, or no style classifier.
    """
    state = weights.load_safetensors(path)
    with safetensors.safe_open(path, "pt") as file:
        styles = json.loads((file.metadata() or {}).get("styles", "[]"))
    if not styles:
        raise WeightsError(
            "the file is no classifier of plate styles", where=path, do="make one by the job `plate_style`"
        )
    return StyleClassifier(weights.load_into(PlateStyleNet(len(styles)), state, path), styles)

"""The generator's adversary."""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from anony_pipeline.structures.regions import Kind

SCALES = 2
KIND_INDEX = {Kind.FACE: 0, Kind.PLATE: 1}


class PatchScores(NamedTuple):
    """One scale's judgment.

    Attributes:
        logits: ``(N, 1, h, w)``; higher is more real.
        weights: ``(N, 1, h, w)``, 1 where the patch touches the mask and 0 elsewhere, where both sides show the same
            pixels.
    """

    logits: torch.Tensor
    weights: torch.Tensor


class PatchCritic(nn.Module):
    """Judge patches of one scale.

    (Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, 2017, section 3.2.2.)

    Args:
        channels: Of the first layer; each of the next two doubles them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (4, channels, channels * 2, channels * 4)
        # Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018.
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(below, above, 4, stride=2, padding=1)) for below, above in pairwise(widths)
        )
        self.last = spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1))
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))
        # Miyato and Koyama, cGANs with Projection Discriminator, 2018, equation 3: the kind's vector on each patch's
        # features.
        self.kinds = nn.Embedding(len(KIND_INDEX), widths[-1])
        nn.init.normal_(self.kinds.weight, std=0.02)

    def features(self, images: torch.Tensor, masks: torch.Tensor) -> list[torch.Tensor]:
        """The maps after each layer, finest first."""
        maps = []
        current = torch.cat([images, masks], dim=1)
        for layer in [*self.layers, self.last]:
            current = F.leaky_relu(layer(current), 0.2)
            maps.append(current)
        return maps

    def forward(self, images: torch.Tensor, masks: torch.Tensor, kind: Kind) -> PatchScores:
        """Score each patch."""
        features = self.features(images, masks)[-1]
        vector = self.kinds.weight[KIND_INDEX[kind]].view(1, -1, 1, 1)
        logits = self.head(features) + (features * vector).sum(dim=1, keepdim=True)
        return PatchScores(logits, F.adaptive_max_pool2d(masks, logits.shape[-2:]))


class Discriminator(nn.Module):
    """Tell real crops from completed ones, at full and at half size.

    (Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs, 2018, section 3.2.)

    Args:
        channels: Capacity: the width of the first layer.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.critics = nn.ModuleList(PatchCritic(channels) for _ in range(SCALES))

    def forward(self, images: torch.Tensor, masks: torch.Tensor, kind: Kind) -> list[PatchScores]:
        """Score the patches of crops.

        Args:
            images: ``(N, 3, H, W)`` in ``[-1, 1]``, real or completed.
            masks: ``(N, 1, H, W)``, 1 where a completed image is generated.
            kind: What the crops show; one kind in a batch.

        Returns:
            One `PatchScores` for each scale, the finest first.
        """
        return [critic(*scaled, kind) for critic, scaled in zip(self.critics, _pyramid(images, masks), strict=True)]

    def features(self, images: torch.Tensor, masks: torch.Tensor) -> list[torch.Tensor]:
        """The maps of all layers and scales, for a feature-matching loss; arguments as in `forward`."""
        return [
            feature
            for critic, scaled in zip(self.critics, _pyramid(images, masks), strict=True)
            if isinstance(critic, PatchCritic)
            for feature in critic.features(*scaled)
        ]


def _pyramid(images: torch.Tensor, masks: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    scales = [(images, masks)]
    for _ in range(SCALES - 1):
        images, masks = F.avg_pool2d(images, 2), F.max_pool2d(masks, 2)
        scales.append((images, masks))
    return scales

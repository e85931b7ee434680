"""LPIPS: a perceptual distance that was fitted to what people see, with weights that the user gives.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018. The published parts are a
classifier of torchvision, trained on ImageNet, and one weight a channel for each of its layers; both are read in the
files' own formats.
"""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from anony_pipeline.config.schema import Lpips as Settings
from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights


@dataclass(frozen=True)
class Backbone:
    """A classifier of torchvision, and where the paper's authors look at it.

    Attributes:
        make: Builds it.
        taps: The places among its `features` after which maps are taken.
        channels: Of those maps.
    """

    make: Callable[..., Any]
    taps: tuple[int, ...]
    channels: tuple[int, ...]


BACKBONES = {
    "alex": Backbone(torchvision.models.alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "vgg": Backbone(torchvision.models.vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
    "squeeze": Backbone(torchvision.models.squeezenet1_1, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}
FITTED = re.compile(r"lin(\d+)\.model\.1\.weight")


class Lpips(nn.Module):
    """The frozen network and its fitted weights.

    Args:
        features: A classifier's layers.
        taps: After which of them maps are taken.
        fitted: For each tap ``(C,)``, the weights of its channels' squared differences.
    """

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], fitted: list[torch.Tensor]) -> None:
        super().__init__()
        self.features = nn.Sequential(*list(features)[: taps[-1] + 1])
        self.taps = taps
        self.fitted = nn.ParameterList(fitted)
        # ImageNet's mean and deviation, for pixels in [-1, 1].
        self.shift: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def maps(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The layers' maps ``(N, C, h, w)`` of images ``(N, 3, H, W)`` in ``[-1, 1]``."""
        found, seen = [], (pixels - self.shift) / self.scale
        for place, layer in enumerate(self.features):
            seen = layer(seen)
            if place in self.taps:
                found.append(seen)
        return found


def load_lpips(settings: Settings, *, weights_dir: Path, device: str = "cpu") -> Lpips:
    """Load the network from the given files, frozen.

    Args:
        settings: Which network, and where its files are.
        weights_dir: ``paths.weights``: where a file without a folder lies.
        device: Where it computes.

    Raises:
        WeightsError: If a file is missing, has another sha256, holds more than tensors, or is another network's.
    """
    backbone = BACKBONES[settings.network]
    path = weights.resolve(settings.backbone, weights_dir, offline=True)
    state = weights.load_state(path, settings.backbone_sha256)
    # Without storage: a classifier's head would take half a gigabyte, and is not needed.
    with torch.device("meta"):
        features = backbone.make(weights=None).features
    layers = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    _check_layers(features, layers, path, settings.network)
    features.load_state_dict(layers, assign=True)
    network = Lpips(features, backbone.taps, _fitted(settings, backbone.channels, weights_dir))
    return network.float().to(device).eval().requires_grad_(False)


def _fitted(settings: Settings, channels: tuple[int, ...], weights_dir: Path) -> list[torch.Tensor]:
    path = (
        weights.resolve(settings.fitted, weights_dir, offline=True)
        if settings.fitted
        else _torchmetrics() / "functional" / "image" / "lpips_models" / f"{settings.network}.pth"
    )
    state = weights.load_state(path, settings.fitted_sha256)
    found = {int(match[1]): value for name, value in state.items() if (match := FITTED.fullmatch(name))}
    shapes = [tuple(found[number].shape) for number in sorted(found)]
    wanted = [(1, count, 1, 1) for count in channels]
    if shapes != wanted:
        raise WeightsError(
            "the fitted weights are another network's",
            where=path,
            got=f"{len(shapes)} layers of {', '.join(str(shape[1]) for shape in shapes)} channels"
            if shapes
            else "none",
            allowed=f"{len(wanted)} layers of {', '.join(map(str, channels))} channels, lin0.model.1.weight and so on",
            do=f"take {settings.network}.pth of lpips' weights v0.1, or set fitted to null for torchmetrics' copy",
        )
    return [found[number].float().flatten() for number in range(len(found))]


def _torchmetrics() -> Path:
    # The folder alone: importing it takes a second.
    spec = importlib.util.find_spec("torchmetrics")
    return Path(spec.origin or "").parent if spec else Path()


def _check_layers(features: nn.Module, layers: dict[str, torch.Tensor], path: Path, network: str) -> None:
    wanted = {name: tuple(value.shape) for name, value in features.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in layers.items()}
    if wanted != got:
        different = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
        raise WeightsError(
            "the backbone's weights are another network's",
            where=path,
            got=f"{len(different)} layers that differ, features.{different[0]} first",
            allowed=f"torchvision's state dict of {BACKBONES[network].make.__name__}",
            do="name the file that belongs to model.lpips.network",
        )

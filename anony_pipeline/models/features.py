"""Features of regions for FID and KID: an attribute network that also knows blur and noise, and no identities."""

import pickle
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.ops import images

INPUT_SIZE = 96
FEATURES = 224
BATCH = 64
DINO_PX = 224
IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureExtractor(Protocol):
    """What turns crops into the features whose distributions are compared."""

    judge: JudgeCard

    def extract(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """Turn ``(H, W, 3)`` uint8 RGB crops of any size into ``(N, D)`` float32 features."""


def _stage(*channels: int) -> nn.Sequential:
    """Convolutions from each number of channels to the next, the first of which halves the map."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, 2 if number == 0 else 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class FeatureNet(nn.Module):
    """Predicts what a region looks like: attributes, pose, landmarks, blur, noise, face or plate; never who it is.

    It also tells whether, and how, a face was spoilt. Its features are means over places of its early and late maps:
    the early ones see sharpness and noise, the late ones shape.

    ``forward``: ``(N, 3, 96, 96)`` in ``[-1, 1]`` -> ``(N, outputs)``. ``features``: -> ``(N, 224)``.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        # Between a stage's ends it is wider than what is averaged.
        channels = [(3, 24, 24, 24), (24, 64, 64, 40), (40, 112, 112, 64), (64, 160, 160, 96)]
        self.stages = nn.ModuleList([_stage(*one) for one in channels])
        self.classify = nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, outputs))

    def maps(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The four stages' maps, of strides 2, 4, 8 and 16."""
        found = []
        for stage in self.stages:
            pixels = stage(pixels)
            found.append(pixels)
        return found

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(N, 224)``: the means of all maps over their places."""
        return torch.cat([one.mean(dim=(2, 3)) for one in self.maps(pixels)], dim=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.classify(self.features(pixels))


class AttributeFeatures:
    """The shipped features."""

    def __init__(self, network: FeatureNet, judge: JudgeCard, device: str) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self.judge = judge

    @torch.no_grad()
    def extract(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """See `FeatureExtractor.extract`. At most `BATCH` crops are computed at once."""
        parts = [np.zeros((0, FEATURES), np.float32)]
        for start in range(0, len(crops_rgb), BATCH):
            resized = [images.resize(crop, (INPUT_SIZE, INPUT_SIZE)) for crop in crops_rgb[start : start + BATCH]]
            parts.append(self._network.features(images.to_tensor(resized, device=self._device)).float().cpu().numpy())
        return np.concatenate(parts)


class InceptionFeatures:
    """Inception v3's pool features as FID defines them, by torchmetrics and torch-fidelity from a local file."""

    def __init__(self, path: Path, device: str) -> None:
        """Load it.

        Args:
            path: torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``.
            device: Where it computes.

        Raises:
            WeightsError: If it is another file.
        """
        # torchmetrics brings seconds of imports that the shipped features don't need.
        from torchmetrics.image.fid import NoTrainInceptionV3  # noqa: PLC0415

        sha256 = weights.check_sha256(path, None)
        try:
            # torch-fidelity unpickles whatever stands in the file: it gets to see only one that holds tensors alone.
            torch.load(path, map_location="cpu", weights_only=True)
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError) as error:
            raise WeightsError(
                "the file holds no weights of Inception v3 as FID defines it",
                where=path,
                got=f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else 'nothing'}",
                allowed="torch-fidelity's weights-inception-2015-12-05-6726825d.pth",
                do="fetch that file, or set judges.features to `shipped` or a folder with a DINOv2",
            ) from error
        self._network = network.to(device).eval()
        self._device = device
        self.judge = JudgeCard(
            "features", "inception-v3-compat", f"torch-fidelity {version('torch-fidelity')}", path.name, sha256
        )

    @torch.no_grad()
    def extract(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """See `FeatureExtractor.extract`; each crop is resized to 299 px by area or bicubic."""
        parts = [np.zeros((0, 2048), np.float32)]
        for start in range(0, len(crops_rgb), BATCH):
            resized = np.stack([images.resize(crop, (299, 299)) for crop in crops_rgb[start : start + BATCH]])
            batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self._device)
            parts.append(self._network(batch).reshape(len(resized), -1).float().cpu().numpy())
        return np.concatenate(parts)


class DinoFeatures:
    """DINOv2's class token, as Stein et al. propose for Fréchet distances ("Exposing flaws of generative model
    evaluation metrics", arXiv:2306.04675): Inception sees textures where people see faces.
    """  # noqa: D205 - the paper's title needs the line

    def __init__(self, folder: Path, device: str) -> None:
        """Load it by transformers.

        Args:
            folder: ``config.json`` and ``model.safetensors``.
            device: Where it computes.

        Raises:
            WeightsError: If it is no DINOv2.
        """
        # transformers brings seconds of imports that the shipped features don't need.
        from transformers import AutoConfig, Dinov2Model  # noqa: PLC0415

        file = folder / "model.safetensors"
        sha256 = weights.check_sha256(file, None)
        try:
            kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if kind != "dinov2":
                raise ValueError(f"a model of type {kind}")
            network = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise WeightsError(
                "the folder holds no DINOv2 of transformers",
                where=folder,
                got=str(error).splitlines()[0],
                allowed="config.json of model_type dinov2 and model.safetensors",
                do="fetch facebook/dinov2-large, or name another folder",
            ) from error
        self._network = network.to(device).eval()
        self._device = device
        self.judge = JudgeCard("features", "dinov2", f"transformers {version('transformers')}", folder.name, sha256)

    @torch.no_grad()
    def extract(self, crops_rgb: Sequence[np.ndarray]) -> np.ndarray:
        """See `FeatureExtractor.extract`; each crop is resized to 224 px by area or bicubic."""
        parts = [np.zeros((0, self._network.config.hidden_size), np.float32)]
        mean, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_SPREAD))
        for start in range(0, len(crops_rgb), BATCH):
            resized = [images.resize(crop, (DINO_PX, DINO_PX)) for crop in crops_rgb[start : start + BATCH]]
            batch = ((images.to_tensor(resized, "0..1") - mean) / spread).to(self._device)
            parts.append(self._network(batch).pooler_output.float().cpu().numpy())
        return np.concatenate(parts)


def load_features(
    which: str, *, weights_dir: Path | None = None, offline: bool = True, device: str = "cpu"
) -> FeatureExtractor:
    """Load what turns regions into features.

    Args:
        which: ``shipped``, ``inception`` with its file under ``weights_dir``, ``dinov2`` or a folder with one.
        weights_dir: ``paths.weights``.
        offline: Never ask a network.
        device: Where it computes.

    Raises:
        WeightsError: If the weights are missing or damaged.
    """
    if which == "shipped":
        path = weights.shipped("features.safetensors")
        card = JudgeCard(
            "features", "FeatureNet", f"torch {torch.__version__}", path.name, weights.check_sha256(path, None)
        )
        state = weights.load_safetensors(path)
        network = weights.load_into(FeatureNet(len(state["classify.2.bias"])), state, path)
        return AttributeFeatures(network, card, device)
    found = weights.resolve(which, weights_dir or Path(), offline=offline)
    if (found / "config.json").is_file():
        return DinoFeatures(found, device)
    return InceptionFeatures(next(iter(sorted(found.glob("*.pth"))), found) if found.is_dir() else found, device)

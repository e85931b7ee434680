"""The judges of a run, in three panels: held out, second, and training. Only the held-out one makes the headline."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from anony_pipeline.anonymize.loading import Checkpoint, find, load_verifiers
from anony_pipeline.config.schema import Config
from anony_pipeline.evaluation.schema import Panel
from anony_pipeline.models import detector as detectors
from anony_pipeline.models import weights
from anony_pipeline.models.detector import Detector, YuNet
from anony_pipeline.models.features import FeatureExtractor, load_features
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.models.reader import Reader, load_reader
from anony_pipeline.models.recognizer import Recognizer, load_recognizer
from anony_pipeline.structures.regions import CATEGORY_IDS, KINDS_BY_CATEGORY, Kind, Region

LOWEST_SCORE = 0.05
"""Average precision needs detections far below the threshold that regions are anonymized at."""

PANELS: tuple[Panel, ...] = ("held_out", "second", "training")


class DetectorJudge(Protocol):
    """What finds faces and plates."""

    judge: JudgeCard
    kinds: frozenset[Kind]

    def find(self, images_rgb: Sequence[np.ndarray], *, keep: bool = False) -> list[list[Region]]:
        """Find regions with their scores in ``(H, W, 3)`` uint8 images, however low the scores are.

        Args:
            images_rgb: Of any sizes.
            keep: These images may be asked about again, so what is found is worth keeping.
        """


class LoadedDetector:
    """A detector network, or YuNet, as a judge."""

    def __init__(self, detector: Detector | YuNet) -> None:
        """Keep it.

        Args:
            detector: With its judge card.
        """
        if detector.judge is None:
            raise ValueError("a detector without a card can't judge")
        if isinstance(detector, Detector):
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        self._detector = detector
        self.judge = detector.judge
        self.kinds = frozenset(Kind) if isinstance(detector, Detector) else frozenset({Kind.FACE})
        self._kept: dict[bytes, np.ndarray] = {}

    def find(self, images_rgb: Sequence[np.ndarray], *, keep: bool = False) -> list[list[Region]]:
        """See `DetectorJudge.find`. Pixels that were kept are not looked at again, in whatever array they come."""
        digests = [digest(image) for image in images_rgb]
        new = {digest: image for digest, image in zip(digests, images_rgb, strict=True) if digest not in self._kept}
        looked = find(self._detector, list(new.values()), LOWEST_SCORE) if new else []
        found = {digest: as_rows(regions) for digest, regions in zip(new, looked, strict=True)}
        if keep:
            self._kept |= found
        return [_as_regions(found[digest] if digest in found else self._kept[digest]) for digest in digests]


def digest(image_rgb: np.ndarray) -> bytes:
    """Sixteen bytes that name the pixels of an image."""
    found = hashlib.blake2b(repr(image_rgb.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(image_rgb).data)
    return found.digest()


def as_rows(regions: Sequence[Region]) -> np.ndarray:
    """``(N, 6)`` float32 of category, box and score: a thirtieth of the objects' memory, and detectors know no more."""
    rows = [(CATEGORY_IDS[region.kind], *region.box_xyxy, region.score) for region in regions]
    return np.array(rows, np.float32).reshape(-1, 6)


def _as_regions(rows: np.ndarray) -> list[Region]:
    return [
        Region(KINDS_BY_CATEGORY[int(category)], (x_min, y_min, x_max, y_max), score=score)
        for category, x_min, y_min, x_max, y_max, score in rows.tolist()
    ]


def found_above(detector: DetectorJudge, images_rgb: Sequence[np.ndarray], threshold: float) -> list[list[Region]]:
    """What an anonymizer with this detector replaces: regions from a score on."""
    return [[region for region in found if region.score >= threshold] for found in detector.find(images_rgb)]


@dataclass(frozen=True)
class Judges:
    """Who measures.

    Attributes:
        recognizers: By panel; a panel may lack one.
        readers: By panel.
        detectors: By panel; the training one is the checkpoint's own.
        features: For FID and KID.
    """

    recognizers: dict[Panel, Recognizer] = field(default_factory=dict)
    readers: dict[Panel, Reader] = field(default_factory=dict)
    detectors: dict[Panel, DetectorJudge] = field(default_factory=dict)
    features: FeatureExtractor | None = None

    def cards(self) -> dict[str, tuple[JudgeCard, Panel]]:
        """All cards by the keys that figures name them by, ``recognizer/held_out``."""
        found: dict[str, tuple[JudgeCard, Panel]] = {}
        for kind, group in (("recognizer", self.recognizers), ("reader", self.readers), ("detector", self.detectors)):
            for panel, judge in group.items():
                found[f"{kind}/{panel}"] = (judge.judge, panel)
        if self.features is not None:
            found["features/held_out"] = (self.features.judge, "held_out")
        return found


def load_judges(config: Config, checkpoint: Checkpoint, device: torch.device) -> Judges:
    """Load every judge that the configuration names.

    Args:
        config: Its `judges` section.
        checkpoint: Whose detector is the training panel's.
        device: Where they compute.

    Raises:
        WeightsError: If a configured judge is not there.
    """
    own = detectors.load_detector(checkpoint.folder / "detector.safetensors", device=str(device))
    return _with_training_panel(config, own, device)


def load_without_checkpoint(config: Config, device: torch.device) -> Judges:
    """Load every judge that needs no checkpoint; as the training panel's detector stands the one that is shipped.

    Args:
        config: Its `judges` section.
        device: Where they compute.

    Raises:
        WeightsError: If a configured judge is not there.
    """
    return _with_training_panel(config, detectors.load_shipped_detector(device=str(device)), device)


def _with_training_panel(config: Config, detector: Detector, device: torch.device) -> Judges:
    recognizer, reader = load_verifiers(config, device)
    held_out = load_held_out(config, device)
    return Judges(
        {"training": recognizer, **held_out.recognizers},
        {"training": reader, **held_out.readers},
        {"training": LoadedDetector(detector), **held_out.detectors},
        held_out.features,
    )


def load_held_out(config: Config, device: torch.device) -> Judges:
    """Load the panels that were in no loss, which need no checkpoint (see `load_judges`)."""
    options = weights.loader_options(config, device)
    names = config.judges
    found = Judges(features=load_features(names.features, **options))
    if names.held_out_recognizer is not None:
        found.recognizers["held_out"] = load_recognizer(names.held_out_recognizer, held_out=True, **options)
    if names.held_out_reader is not None:
        cache = Path(config.paths.cache)
        found.readers["held_out"] = load_reader(names.held_out_reader, cache=cache, held_out=True, **options)
    if names.held_out_detector is not None:
        found.detectors["held_out"] = LoadedDetector(_held_out_detector(names.held_out_detector, str(device)))
    if names.second_recognizer is not None:
        found.recognizers["second"] = load_recognizer(names.second_recognizer, **options)
    if names.second_reader is not None:
        found.readers["second"] = load_reader(names.second_reader, cache=Path(config.paths.cache), **options)
    if names.second_detector is not None:
        found.detectors["second"] = LoadedDetector(_held_out_detector(names.second_detector, str(device)))
    return found


def _held_out_detector(which: str, device: str) -> Detector | YuNet:
    if which == "shipped":
        return detectors.load_shipped_detector(held_out=True, device=device)
    return YuNet(Path(which))

"""From a checkpoint folder to an anonymizer that is ready to work."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anony_pipeline.anonymize.anonymizer import Anonymizer, Detect
from anony_pipeline.anonymize.filling import Filler
from anony_pipeline.anonymize.policy import TREATMENTS, Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.config import loading as config_loading
from anony_pipeline.config.schema import Config, Profile
from anony_pipeline.errors import CheckpointError, ConfigError
from anony_pipeline.models import detector as detectors
from anony_pipeline.models import generator as generators
from anony_pipeline.models import lora, weights
from anony_pipeline.models.detector import Detector, YuNet
from anony_pipeline.models.generator import Generator
from anony_pipeline.models.plate_style import load_style_classifier
from anony_pipeline.models.reader import Reader, load_reader
from anony_pipeline.models.recognizer import Recognizer, load_recognizer
from anony_pipeline.plates.styles import configured_styles
from anony_pipeline.runtime import device as devices
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import Region

FORMAT = "anony_pipeline.checkpoint/1"
"""Of the checkpoints that `training.state` writes."""

FACE_SCALES = (1.0, 2.0, 4.0)
"""A further face detector sees each image so enlarged: small faces are found in the largest."""
LARGEST_VIEW_PX = 12_000_000
"""No enlargement goes beyond so many pixels, about 1 GB of YuNet's maps."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that was checked against its manifest.

    Attributes:
        folder: Where it lies.
        config: The configuration that it was trained with.
        manifest: The manifest's content.
        sha256: Of the manifest: the checkpoint's version.
    """

    folder: Path
    config: Config
    manifest: dict[str, Any]
    sha256: str

    @property
    def step(self) -> int:
        """Generator steps of joint training."""
        return int(self.manifest.get("step", 0))


def open_checkpoint(folder: Path, here: Config | None = None) -> Checkpoint:
    """Read a checkpoint's manifest and configuration, and check every file's sha256.

    Args:
        folder: Where it lies.
        here: Says where weights lie on this machine, and by which names; the checkpoint's own configuration if None,
            whose places are right where it was trained.

    Raises:
        CheckpointError: If it is not there, incomplete, damaged, or of another format.
    """
    if not folder.is_dir():
        raise CheckpointError("there is no such checkpoint", where=folder, do="name a folder checkpoints/step_XXXXXX")
    manifest = manifests.read(folder)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            "the folder is no checkpoint of this version", where=folder, got=manifest.get("format"), allowed=FORMAT
        )
    config = config_loading.load([folder / "config.yaml"])
    if here is not None:
        # Another base model under the same name is refused when the adapters are loaded.
        base = config.model.generator.model_copy(update={"diffusers": here.model.generator.diffusers})
        model = config.model.model_copy(update={"generator": base, "plate_style": here.model.plate_style})
        config = config.model_copy(update={"paths": here.paths, "judges": here.judges, "model": model})
    return Checkpoint(folder, config, manifest, manifests.sha256_of(folder / manifests.NAME))


def load_anonymizer(
    checkpoint: Path,
    device: str = "auto",
    *,
    profile: Profile | None = None,
    secret: bytes | None = None,
    face_detector: Path | None = None,
    here: Config | None = None,
) -> Anonymizer:
    """Load the anonymizer of a checkpoint: its detector, its adapters on their base model, and the judges that verify.

    A profile that generates nothing has nothing to verify: it needs neither the base model nor a judge.

    Args:
        checkpoint: A folder ``checkpoints/step_XXXXXX``.
        device: ``auto``, ``cpu``, ``cuda`` ...
        profile: ``realistic``, ``blur`` or ``solid``; the configuration's if None.
        secret: Plates get their serials by it; drawn anew if None, and then nobody can repeat the assignment.
        face_detector: YuNet's ONNX file; what it finds is replaced beside what the checkpoint's detector finds.
        here: See `open_checkpoint`.

    Raises:
        CheckpointError: See `open_checkpoint`.
        WeightsError: If the base model or a judge is not there.
    """
    opened = open_checkpoint(checkpoint, here)
    config = opened.config.model_copy(update={"profile": profile or opened.config.profile})
    chosen = devices.choose_device(device)
    generates = TREATMENTS[config.profile] == "generate"
    recognizer, reader = load_verifiers(config, chosen) if generates else (None, None)
    detect = load_detect(opened, chosen)
    return assemble(
        config,
        load_adapted(opened, chosen) if generates else None,
        detect if face_detector is None else with_faces(detect, face_detector),
        Verifier(recognizer, reader, Policy().max_similarity),
        secret=secret or secrets.token_bytes(32),
    )


def assemble(
    config: Config,
    generator: Generator | None,
    detect: Detect | None,
    verifier: Verifier,
    *,
    secret: bytes,
) -> Anonymizer:
    """Put an anonymizer together from loaded parts.

    Args:
        config: For the profile, sizes, ratios, the threshold and the seed.
        generator: With or without adapters; None if the profile generates nothing.
        detect: Finds regions; None if they will be given.
        verifier: Lets results out.
        secret: At least 16 bytes.
    """
    settings = config.evaluation
    policy = Policy(
        treatment=TREATMENTS[config.profile],
        tiny="texture" if config.profile == "realistic" else "solid",
        threshold=settings.detection_threshold,
        plate_threshold=settings.plate_detection_threshold,
        min_region_px=config.data.min_region_px,
    )
    filler = None
    if generator is not None:
        classifier = load_style_classifier(Path(config.model.plate_style)) if config.model.plate_style else None
        filler = Filler(generator, config, configured_styles(), secret, classifier)
    return Anonymizer(filler, verifier, detect=detect, policy=policy, seed=config.seed)


def load_adapted(checkpoint: Checkpoint, device: torch.device) -> Generator:
    """The base model with the checkpoint's adapters.

    What suits the machine that trained is left behind: a checkpoint is usable on any, only slower on some.
    """
    model = checkpoint.config.model
    # xFormers changes time alone, and the tiny autoencoder decodes in training alone.
    source = model.generator.diffusers.model_copy(update={"enable_xformers": False, "tiny_vae": None})
    shown = model.generator.model_copy(update={"diffusers": source})
    config = checkpoint.config.model_copy(update={"model": model.model_copy(update={"generator": shown})})
    generator = generators.load_generator(config, device=device, dtype=_dtype(config, device))
    lora.load_adapters(generator, checkpoint.folder / "adapters")
    return generator.eval()


def load_verifiers(config: Config, device: torch.device) -> tuple[Recognizer, Reader]:
    """The configured first recognizer and reader."""
    options = weights.loader_options(config, device)
    return (
        load_recognizer(config.judges.recognizer, **options),
        load_reader(config.judges.reader, cache=Path(config.paths.cache), **options),
    )


def load_detect(checkpoint: Checkpoint, device: torch.device) -> Detect:
    """The checkpoint's own detector as a function."""
    network = detectors.load_detector(checkpoint.folder / "detector.safetensors", device=str(device))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    return partial(find, network)


def with_faces(detect: Detect, path: Path) -> Detect:
    """Find more faces: what YuNet sees at `FACE_SCALES`, beside what another detector finds.

    Args:
        detect: The other one.
        path: YuNet's ONNX file.

    Returns:
        Finds regions of both; the anonymizer joins those that overlap.

    Raises:
        WeightsError: See `YuNet`.
    """
    views = [(scale, YuNet(path, scale=scale)) for scale in FACE_SCALES]

    def find_all(images_rgb: Sequence[np.ndarray], threshold: float) -> list[list[Region]]:
        found = detect(images_rgb, threshold)
        for image, regions in zip(images_rgb, found, strict=True):
            pixels = image.shape[0] * image.shape[1]
            for scale, yunet in views:
                if scale == 1 or scale**2 * pixels <= LARGEST_VIEW_PX:
                    regions.extend(find(yunet, [image], threshold)[0])
        return found

    return find_all


def find(detector: Detector | YuNet, images_rgb: Sequence[np.ndarray], threshold: float) -> list[list[Region]]:
    """What a detector finds, in the batches that suit its device.

    Args:
        detector: A network or an adapter.
        images_rgb: ``(H, W, 3)`` uint8.
        threshold: Least score.
    """
    if isinstance(detector, Detector) and next(detector.parameters()).device.type == "cpu":
        # A batch of large maps leaves a CPU's cache: one by one takes a fifth less time and a quarter of the memory.
        return [detectors.detect(detector, [image], threshold)[0] for image in images_rgb]
    return detectors.detect(detector, list(images_rgb), threshold)


def _dtype(config: Config, device: torch.device) -> torch.dtype:
    """The precision that a checkpoint was trained in, or float32 where the device does not have it."""
    try:
        return devices.choose_dtype(config.precision, device)
    except ConfigError:
        return torch.float32

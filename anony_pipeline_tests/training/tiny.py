"""A tiny data set, configuration and set of networks: small enough to train for a few steps in a test."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import coco
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.models import lora
from anony_pipeline.models.demo_pipeline import build_demo_pipeline
from anony_pipeline.models.detector import build_detector
from anony_pipeline.models.discriminator import Discriminator
from anony_pipeline.models.generator import Generator
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.models.reader import ALPHABET, PlateNet, ReaderTwin, Reading, frozen
from anony_pipeline.models.recognizer import ArcFaceNet, RecognizerTwin
from anony_pipeline.ops import images
from anony_pipeline.plates import render
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training.networks import Critics, Networks

IMAGE_HW = (120, 160)


class ColorRecognizer:
    """Tells faces apart by their mean color, which is how `face` draws them."""

    judge = JudgeCard("recognizer", "color", "test", "none", "0" * 64)
    input_size = 32

    def embed(self, crops_rgb):
        colors = np.array([crop[8:24, 8:24].reshape(-1, 3).mean(axis=0) - 128 for crop in crops_rgb], np.float32)
        return colors.reshape(-1, 3) / np.maximum(np.linalg.norm(colors.reshape(-1, 3), axis=1, keepdims=True), 1e-6)


class NoReader:
    """Reads nothing."""

    judge = JudgeCard("reader", "none", "test", "none", "0" * 64)
    alphabet = ALPHABET

    def read(self, plates_rgb):
        return [Reading("", 0.0) for _ in plates_rgb]


class MeanFeatures:
    """Mean colors of a crop's quarters."""

    judge = JudgeCard("features", "means", "test", "none", "0" * 64)

    def extract(self, crops_rgb):
        return np.array([images.resize(crop, (2, 2)).reshape(-1) / 255 for crop in crops_rgb], np.float32)


def face(image: np.ndarray, box_xywh: tuple[int, int, int, int], rng: np.random.Generator) -> list[list[float]]:
    """Draw a face of a random color into an image; returns its five landmarks."""
    x, y, width, height = box_xywh
    color = tuple(int(value) for value in rng.choice([60, 210], 3) + rng.integers(-20, 20, 3))
    center = (x + width // 2, y + height // 2)
    cv2.ellipse(image, center, (width // 2, height // 2), 0, 0, 360, color, -1)
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    marks = [[x + px * width, y + py * height] for px, py in points]
    for point_x, point_y in marks:
        cv2.circle(image, (round(point_x), round(point_y)), 2, (20, 20, 20), -1)
    return marks


def make_coco(
    root: Path,
    count: int = 6,
    *,
    faces: bool = True,
    plates: bool = True,
    seed: int = 0,
    styles: tuple[str, ...] = ("FR",),
) -> CocoSet:
    """Write images with two faces and one plate each, and their COCO file; images take the plate styles in turn."""
    rng = np.random.default_rng(seed)
    records, annotations = [], []
    for number in range(count):
        image = np.clip(rng.normal(128, 20, (*IMAGE_HW, 3)), 0, 255).astype(np.uint8)
        image = cv2.GaussianBlur(image, (0, 0), 1)
        record = {"id": number + 1, "file_name": f"images/{number:03d}.png", "width": 160, "height": 120}
        key = styles[number % len(styles)]
        records.append({**record, "source": "tiny", "group": "paris", "plate_style": key})
        records[-1]["not_exhaustive_category_ids"] = [2] if number % 2 and not plates else []
        if faces:
            for offset in (8, 100):
                box = (offset + int(rng.integers(0, 8)), 10 + int(rng.integers(0, 8)), 36, 44)
                marks = face(image, box, rng)
                person = {"identity": f"person-{number % 4}-{offset}", "landmarks": marks}
                annotations.append(annotation(len(annotations) + 1, number + 1, 1, box) | person)
        if plates:
            box = (40 + int(rng.integers(0, 20)), 84, 78, 18)
            serial = f"AA-{100 + number}-BB"
            image[84:102, box[0] : box[0] + 78] = render.render(load_styles()[key], serial, (18, 78))
            annotations.append(annotation(len(annotations) + 1, number + 1, 2, box) | {"serial": serial})
        images.write(root / record["file_name"], image)
    path = root / "unified_train.json"
    coco.save(path, {"sources": {"tiny": {"root": "."}}}, records, annotations)
    return coco.load(path)


def annotation(number: int, image_id: int, category: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, width, height = (float(value) for value in box)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def make_config(root: Path, **changes: Any) -> Config:
    """The tiny configuration; ``changes`` are dotted keys with ``__`` for the dot."""
    values: dict[str, Any] = {
        "name": "tiny",
        "device": "cpu",
        "paths": {name: str(root / name) for name in ("outputs", "unified", "targets", "cache", "private", "weights")},
        "data": {"sources": [{"name": "tiny", "layout": "widerface", "root": str(root), "exhaustive": ["face"]}]},
        "model": {
            "generator": {"face_size": 32, "plate_height": 32},
            "discriminator": {"channels": 4},
            "finetune": {"lora_rank": 2, "learnable_layers": ["unet.mid_block"]},
        },
        "targets": {"min_donor_distance": 0.2},
        "training": {
            "max_steps": 2,
            "pretrain_steps": 1,
            "batch_size": 2,
            "detector_batch_size": 1,
            "detector_image_px": 96,
            "validate_every_steps": 100,
            "validation_regions": 8,
        },
        "checkpoint": {"save_every_steps": 100},
        "alternating": {"detector": 1, "generator": 1, "discriminator": 1},
        "loss": {"read_suppress_weight": 0.1},
    }
    for key, value in changes.items():
        place = values
        *path, last = key.split("__")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return Config.model_validate(values)


def make_generator(config: Config) -> Generator:
    """The demo's generator with seeded random weights; the zero-initialized last layers are made random too."""
    torch.manual_seed(1)
    return Generator(
        build_demo_pipeline(),
        prompts={Kind.FACE: "a face", Kind.PLATE: "a licence plate"},
        steps={Kind.FACE: config.face_steps, Kind.PLATE: config.plate_steps},
        anchor_strength=config.plate_text_anchor_strength,
        base_id="tiny@random",
        has_small_crops=config.model.generator.small_crops,
    )


def make_networks(config: Config, device: torch.device | None = None) -> Networks:
    """What learns, with seeded random weights."""
    del device
    generator = make_generator(config)
    torch.manual_seed(2)
    lora.make_trainable(generator, config.model.finetune)
    discriminator = Discriminator(config.model.discriminator.channels) if config.has_adversary else None
    return Networks(generator.train(), discriminator, build_detector())


def make_critics(config: Config, device: torch.device | None = None) -> Critics:
    """Frozen critics with seeded random weights."""
    del config, device
    torch.manual_seed(3)
    critics = Critics(
        recognizer=RecognizerTwin(ArcFaceNet()).eval(),
        reader=frozen(ReaderTwin(PlateNet())),
        detector=build_detector(),
    )
    for critic in (critics.recognizer, critics.reader, critics.detector):
        critic.requires_grad_(False)
    return critics

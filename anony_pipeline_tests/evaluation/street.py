"""A street where fake judges see perfectly: a face is a pattern of its person, a plate a grid of bits of its serial."""

from dataclasses import replace

import cv2
import numpy as np
import torch

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import coco
from anony_pipeline.evaluation.judges import Judges
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.models.reader import ALPHABET, Reading
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Kind, Region

HEIGHT, WIDTH = 120, 200
CHARACTERS, BITS = 7, 6


def card(kind, name):
    return JudgeCard(kind, name, "test", "none", "0" * 64)


class PatternRecognizer:
    """The coarse pattern of a crop is the person."""

    judge = card("recognizer", "pattern")
    input_size = 48

    def embed(self, crops_rgb):
        small = np.array([images.resize(crop[10:38, 10:38], (4, 4)).reshape(-1) for crop in crops_rgb], np.float32)
        small = small.reshape(len(crops_rgb), -1) - small.mean(axis=1, keepdims=True) if len(small) else small
        return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)


class BlindRecognizer(PatternRecognizer):
    """Everybody looks the same."""

    judge = card("recognizer", "blind")

    def embed(self, crops_rgb):
        return np.full((len(crops_rgb), 4), 0.5, np.float32)


class BitReader:
    """Reads the grid of bits."""

    judge = card("reader", "bits")
    alphabet = ALPHABET

    def read(self, plates_rgb):
        return [Reading(self._read(plate), 1.0) for plate in plates_rgb]

    def _read(self, plate):
        gray = cv2.cvtColor(plate, cv2.COLOR_RGB2GRAY)
        inner = gray[3:-3, 8:-8]
        bits = images.resize(inner, (BITS, CHARACTERS)) > 128
        codes = (bits * (1 << np.arange(BITS))[:, None]).sum(axis=0)
        return "".join(ALPHABET[code] if code < len(ALPHABET) else "" for code in codes)


class BlindReader(BitReader):
    judge = card("reader", "blind")

    def read(self, plates_rgb):
        return [Reading("", 0.0) for _ in plates_rgb]


class MeanFeatures:
    judge = card("features", "means")

    def extract(self, crops_rgb):
        return np.array([images.resize(crop, (3, 3)).reshape(-1) / 255 for crop in crops_rgb], np.float32)


class KnowingDetector:
    """Knows where the regions of each image are (by a number in its corner), and sees those that are not black."""

    judge = card("detector", "knowing")
    kinds = frozenset(Kind)

    def __init__(self, unified, *, blind=False):
        self.regions = unified.regions_by_image()
        self.blind = blind

    def find(self, images_rgb, *, keep=False):
        return [[] if self.blind else self._find(image) for image in images_rgb]

    def _find(self, image):
        found = []
        for region in self.regions[number_of(image)]:
            x0, y0, x1, y1 = (int(v) for v in region.box_xyxy)
            if image[y0:y1, x0:x1].mean() > 8:
                found.append(replace(region, score=0.9, annotation_id=None, track=None, style=None))
        return found


class NoiseGenerator:
    """Fills faces with coarse noise and plates with their anchor."""

    device = torch.device("cpu")

    def __init__(self, failures=0):
        self.failures, self.batches = failures, []

    def noise_shape(self, count, size_hw):
        return (count, 3, *size_hw)

    def is_small(self, window, size_hw):
        return False

    def fill(self, images, masks, kind, *, noise, anchors=None, styles=None, small=None):
        self.batches.append(len(images))
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        coarse = torch.nn.functional.interpolate(noise[:, :, ::16, ::16], images.shape[-2:], mode="nearest")
        filling = coarse.clamp(-1, 1) if anchors is None else anchors
        return torch.where(masks > 0.5, filling, images)


def number_of(image):
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def draw_plate(image, box_xywh, serial):
    x, y, w, h = box_xywh
    codes = np.array([ALPHABET.index(c) for c in serial])
    bits = (codes[None, :] >> np.arange(BITS)[:, None]) & 1
    image[y : y + h, x : x + w] = np.kron(bits, np.ones((h // BITS, w // CHARACTERS)))[..., None] * 215 + 20


def serial_of(number):
    rng = np.random.default_rng(1000 + number)
    return "".join(rng.choice(list(ALPHABET), CHARACTERS))


def make_street(root, *, images_count=50, people=10, styles=("FR", "DE"), identities=True, crowds=False, seed=0):
    """Each image has one plate and two faces of different people; saves a unified file and returns it loaded."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 2, (people, 4, 4, 3)) * 200 + 25
    records, annotations = [], []
    for number in range(images_count):
        image = rng.integers(90, 150, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        image[0, 0] = (number % 256, number // 256, 0)
        record = {"id": number, "file_name": f"{number:03d}.png", "width": WIDTH, "height": HEIGHT, "source": "street"}
        records.append({**record, "plate_style": styles[number % len(styles)], "not_exhaustive_category_ids": []})
        for place, person in enumerate(rng.choice(people, 2, replace=False)):
            x, y, size = 10 + 90 * place, 6, 40
            image[y : y + size, x : x + size] = np.kron(patterns[person], np.ones((10, 10, 1)))
            extra = {"identity": f"person-{person:03d}"} if identities else {}
            annotations.append(_annotation(len(annotations), number, 1, (x, y, size, size)) | extra)
        box = (30, 70, CHARACTERS * 12, BITS * 5)
        draw_plate(image, box, serial_of(number))
        extra = {"identity": f"plate-{number:03d}", "serial": serial_of(number)} if identities else {}
        annotations.append(_annotation(len(annotations), number, 2, box) | extra)
        if crowds:
            annotations.append(_annotation(len(annotations), number, 1, (150, 60, 20, 20)) | {"iscrowd": 1})
        images.write(root / record["file_name"], image)
    coco.save(root / "unified_val.json", {"sources": {"street": {"root": "."}}}, records, annotations)
    return coco.load(root / "unified_val.json")


def _annotation(number, image_id, category, box):
    x, y, w, h = (float(v) for v in box)
    return {
        "id": number + 1,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
    }


def make_config(root, **evaluation):
    source = {
        "name": "street",
        "layout": "widerface",
        "root": str(root),
        "exhaustive": ["face", "license_plate"],
        "ground_truth": str(root / "ground_truth.json"),
    }
    return Config.model_validate(
        {
            "paths": {name: str(root / name) for name in ("outputs", "targets", "cache", "private", "weights")}
            | {"unified": str(root)},
            "data": {"sources": [source]},
            "model": {"generator": {"face_size": 64, "plate_height": 32}},
            "evaluation": {"bootstrap": 50, **evaluation},
        }
    )


def make_judges(unified, *, recognizer=None, reader=None, blind_detector=False):
    seeing = KnowingDetector(unified, blind=blind_detector)
    return Judges(
        {"held_out": recognizer or PatternRecognizer(), "training": PatternRecognizer()},
        {"held_out": reader or BitReader(), "training": BitReader()},
        {"held_out": seeing, "training": KnowingDetector(unified)},
        MeanFeatures(),
    )


def face_region(box, **more):
    return Region(Kind.FACE, tuple(float(v) for v in box), **more)

"""Training samples, made once: crops, masks, targets and anchors as memory-mapped arrays; images for the detector.

The cache lies in a private folder whose name is the hash of all that it depends on, and gets its manifest when it is
complete. A build that was killed goes on where it was.
"""

import dataclasses
import functools
import itertools
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from upath import UPath

from anony_pipeline.anonymize.verifying import PLATE_MARGIN
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets.coco import CocoSet, regions_of
from anony_pipeline.errors import DatasetError
from anony_pipeline.models.generator import Encoded
from anony_pipeline.models.recognizer import INPUT_SIZE, alignment
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime import parallel
from anony_pipeline.storage import atomic, disk, locks, manifests, private
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind, Points, Region
from anony_pipeline.targets.faces import face_size_hw
from anony_pipeline.targets.plates import plate_size_hw
from anony_pipeline.targets.store import TargetRecord, TargetStore, key_of

log = logging.getLogger("anony_pipeline")
FORMAT = "anony_pipeline.samples/1"
VERSION = 2
"""Of the code below: a change of what it makes raises it."""

Box = tuple[float, float, float, float]

CANARY = "canary"
"""The method of a target that is the original itself: an audit's (see `canaries`)."""

MARKED_TOGETHER = 64
"""Images between two marks: what a kill costs, against waiting for the disk at each image."""

_Known = dict[str, Any]
"""Of one image as JSON: ``crops``, pairs of a kind and a `SampleRow`, and ``whole``, a `DetectorImage`."""

MIN_DETECTOR_PX = 3
"""A box with a shorter edge at the detector's scale is not learned from."""


@dataclass(frozen=True)
class SampleRow:
    """What is known of one crop.

    Attributes:
        annotation_id: The region that the crop is about.
        image_id: Its image.
        window: The crop's window ``(x_min, y_min, x_max, y_max)`` in pixels of the image.
        box_xyxy: The region's box in pixels of the crop.
        quad: A plate's corners in pixels of the crop; None if unknown.
        landmarks: A face's five points in pixels of the crop; None if unknown.
        theta: ``(2, 3)`` for `torch.nn.functional.affine_grid`: from the recognizer's aligned crop to this crop.
        reading: ``(3, 3)``: from the reader's straightened crop to this crop, both in ``[-1, 1]``; None for faces.
        neighbors_xyxy: The boxes of all regions that the crop shows, in pixels of the crop.
        labels: Their categories, 1 face and 2 plate.
        iscrowd: Which of them are neither positive nor negative for a detector.
        not_exhaustive: Categories whose unlabeled instances may be in the crop.
        serial: The intended serial of a plate.
        original_serial: The serial that was there, where it is known.
        identity: The person or plate, where it is known.
        style: The plate style.
    """

    annotation_id: int
    image_id: int
    window: crops.Window
    box_xyxy: Box
    quad: Points | None
    landmarks: Points | None
    theta: tuple[tuple[float, ...], ...]
    reading: tuple[tuple[float, ...], ...] | None
    neighbors_xyxy: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]
    iscrowd: tuple[bool, ...]
    not_exhaustive: tuple[int, ...]
    serial: str | None = None
    original_serial: str | None = None
    identity: str | None = None
    style: str | None = None


@dataclass(frozen=True)
class SampleSet:
    """All crops of one kind.

    Attributes:
        kind: Face or plate.
        originals: ``(N, H, W, 3)`` uint8: what was photographed.
        targets: ``(N, H, W, 3)`` uint8: the pseudo-targets.
        anchors: ``(N, H, W, 3)`` uint8 with the rendered serial in place; None for faces.
        masks: ``(N, H, W)`` uint8, 1 where *any* region of the crop is.
        rows: What is known of each.
    """

    kind: Kind
    originals: np.ndarray
    targets: np.ndarray
    anchors: np.ndarray | None
    masks: np.ndarray
    rows: list[SampleRow]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class LatentSet:
    """The autoencoder's latents of all crops of one kind, each under the same few grown masks (see `latents`).

    Attributes:
        variants: K, masks of each crop.
        seed: They grew by it.
        dtype: Of the latents; the arrays hold bfloat16 as the bits of int16.
        masked: ``(N, K, C, h, w)``: of the crops without what is under the masks.
        anchored: Likewise, with the anchors under the masks; None for faces.
    """

    variants: int
    seed: int
    dtype: torch.dtype
    masked: np.ndarray
    anchored: np.ndarray | None

    def encoded(self, indices: Sequence[int], numbers: Sequence[int]) -> Encoded:
        """Latents of some crops, each under one of its masks, as the generator takes them."""

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array[list(indices), list(numbers)]).view(self.dtype)

        return Encoded(tensor(self.masked), None if self.anchored is None else tensor(self.anchored))


@dataclass(frozen=True)
class DetectorImage:
    """What is known of one whole image.

    Attributes:
        image_id: Its id in the COCO file.
        size_hw: Height and width of its part of the square array; the rest is gray.
        scale: The detector's pixels per pixel of the image.
        boxes_xyxy: All its regions, in the detector's pixels.
        labels: Their categories.
        iscrowd: Which of them are neither positive nor negative.
        not_exhaustive: Categories that are never negatives.
    """

    image_id: int
    size_hw: tuple[int, int]
    scale: float
    boxes_xyxy: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]
    iscrowd: tuple[bool, ...]
    not_exhaustive: tuple[int, ...]


@dataclass(frozen=True)
class DetectorSet:
    """The whole images that the detector learns from.

    Attributes:
        originals: ``(M, S, S, 3)`` uint8.
        filled: ``(M, S, S, 3)`` uint8: the same with every pseudo-target pasted in.
        rows: What is known of each.
    """

    originals: np.ndarray
    filled: np.ndarray
    rows: list[DetectorImage]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class TrainingData:
    """Everything that training reads.

    Attributes:
        samples: The crops by kind; a kind without samples is left out.
        detector: The whole images.
        key: The hash of what all this was made of.
        latents: Of the crops, by kind, where they are kept.
    """

    samples: dict[Kind, SampleSet]
    detector: DetectorSet
    key: str
    latents: dict[Kind, LatentSet] = field(default_factory=dict)


def build(config: Config, coco: CocoSet, records: Sequence[TargetRecord]) -> TrainingData:
    """Open the cache of a training set, making it first where it is not there.

    Args:
        config: With sizes, context and paths.
        coco: The training split.
        records: The pseudo-targets of its regions.

    Raises:
        DatasetError: If there is no target at all.
    """
    if not records:
        raise DatasetError(
            "there is nothing to train on",
            where=coco.path,
            got="no face and no plate with a pseudo-target",
            allowed=f"at least one region of {config.data.min_region_px} px or more in the training split",
            do="check data.sources, data.splits and data.min_region_px, and what making targets reported",
        )
    key = _key(config, coco, records)
    root = private.folder(
        Path(config.paths.cache) / "samples",
        retention_days=config.paths.retention_days,
        holds="training crops and images cut from original images",
    )
    folder = root / key
    if not (folder / manifests.NAME).exists():
        with locks.sole_writer(root):
            # Another run may have made it while this one waited.
            if not (folder / manifests.NAME).exists():
                _write(config, coco, records, folder)
    return _open(folder, key)


def sample_row(
    region: Region,
    neighbors: Sequence[Region],
    image: Mapping[str, Any],
    annotation: Mapping[str, Any],
    window: crops.Window,
    size_hw: tuple[int, int],
    serial: str | None,
    crowds: Collection[int],
) -> SampleRow:
    """Describe the crop of one region.

    Args:
        region: In pixels of the image.
        neighbors: All regions of the image, this one included.
        image: The image's record in the COCO file.
        annotation: The region's record.
        window: The crop's window.
        size_hw: Height and width of the crop.
        serial: The intended serial of a plate.
        crowds: The annotation ids of the image's crowd regions (see `crowds_of`).
    """
    to_crop = functools.partial(crops.to_crop, window=window, size_hw=size_hw)
    moved = [other.moved(to_crop) for other in neighbors]
    inside = [other for other in moved if _center_is_inside(other, size_hw)]
    own = region.moved(to_crop)
    return SampleRow(
        annotation_id=annotation["id"],
        image_id=image["id"],
        window=window,
        box_xyxy=own.box_xyxy,
        quad=own.quad,
        landmarks=own.landmarks,
        theta=theta_of(own, size_hw),
        reading=reading_of(own, size_hw) if region.kind is Kind.PLATE else None,
        neighbors_xyxy=tuple(
            tuple(boxes.clip([other.box_xyxy], size_hw[1], size_hw[0])[0].tolist()) for other in inside
        ),
        labels=tuple(CATEGORY_IDS[other.kind] for other in inside),
        iscrowd=tuple(other.annotation_id in crowds for other in inside),
        not_exhaustive=tuple(image.get("not_exhaustive_category_ids") or ()),
        serial=serial,
        original_serial=annotation.get("serial"),
        identity=annotation.get("identity"),
        style=region.style,
    )


def crowds_of(annotations: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """The ids of those annotations that stand for a crowd, or for what is no certain face or plate."""
    return frozenset(annotation["id"] for annotation in annotations if annotation.get("iscrowd"))


def theta_of(region: Region, size_hw: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """The recognizer's alignment as `torch.nn.functional.affine_grid` wants it (``align_corners=False``).

    Args:
        region: A face in pixels of its crop.
        size_hw: Height and width of the crop.

    Returns:
        ``(2, 3)``: takes the aligned crop's ``[-1, 1]`` coordinates to the crop's. Constant for a region: what the
        generator draws must not move it.
    """
    inverse = np.linalg.inv(np.vstack([alignment(region, INPUT_SIZE), [0, 0, 1]]))
    matrix = _to_unit(size_hw) @ inverse @ np.linalg.inv(_to_unit((INPUT_SIZE, INPUT_SIZE)))
    return tuple(tuple(row) for row in matrix[:2].tolist())


def reading_of(region: Region, size_hw: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """The homography by which a reader sees a plate: straightened by its corners, or by its box where they are unknown.

    Args:
        region: A plate in pixels of its crop.
        size_hw: Height and width of the crop.

    Returns:
        ``(3, 3)``: takes the reader's crop's ``[-1, 1]`` coordinates to this crop's.
    """
    x_min, y_min, x_max, y_max = region.box_xyxy
    corners = region.quad or ((x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max))
    edge = 1 - 2 * PLATE_MARGIN
    unit = np.array([[-edge, -edge], [edge, -edge], [edge, edge], [-edge, edge]], np.float32)
    matrix = _to_unit(size_hw) @ cv2.getPerspectiveTransform(unit, np.array(corners, np.float32))
    return tuple(tuple(row) for row in (matrix / matrix[2, 2]).tolist())


def _to_unit(size_hw: tuple[int, int]) -> np.ndarray:
    return np.array([[2 / size_hw[1], 0, -1], [0, 2 / size_hw[0], -1], [0, 0, 1]])


def _center_is_inside(region: Region, size_hw: tuple[int, int]) -> bool:
    x_min, y_min, x_max, y_max = region.box_xyxy
    return 0 <= x_min + x_max <= 2 * size_hw[1] and 0 <= y_min + y_max <= 2 * size_hw[0]


def _key(config: Config, coco: CocoSet, records: Sequence[TargetRecord]) -> str:
    return key_of(
        version=VERSION,
        annotations=coco.annotations,
        images=coco.images,
        targets=sorted((record.annotation_id, record.key) for record in records),
        face=face_size_hw(config),
        plate=plate_size_hw(config),
        detector=config.training.detector_image_px,
        growth=sorted(masks.GROWTH.items()),
    )


def _write(config: Config, coco: CocoSet, records: Sequence[TargetRecord], folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    writer = _Writer(config, coco, records, folder)
    total, there = writer.total_bytes(), sum(path.stat().st_blocks * 512 for path in folder.glob("*.npy"))
    log.info("training samples: %d crops, %d images, %.0f MB", len(records), len(coco.images), total / 1e6)
    do = "lower training.max_images, or set paths.cache to another disk"
    disk.check_room(folder, total - there, "the training samples", do)
    writer.write()
    manifests.write(folder, {"format": FORMAT})


@dataclass(frozen=True)
class _Crop:
    """One crop to write.

    Attributes:
        index: Its place in the arrays of its kind.
        record: Its target.
        annotation: Its region's record.
    """

    index: int
    record: TargetRecord
    annotation: dict[str, Any]


@dataclass(frozen=True)
class _Image:
    """One image and all that is written of it, by whichever process takes it.

    Attributes:
        index: Its place in the arrays of whole images.
        file: The photograph.
        image: Its record in the COCO file.
        annotations: The records of all its regions.
        crops: Those that are trained on.
        folder: Where the arrays lie.
        store: Where the targets lie.
    """

    index: int
    file: Path | UPath
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    crops: list[_Crop]
    folder: Path
    store: TargetStore


class _Writer:
    """Fills the arrays of one cache, image by image, in as many processes as there are cores.

    A line in a file says of each image that is done what is known of it: from there an interrupted build goes on.
    """

    def __init__(self, config: Config, coco: CocoSet, records: Sequence[TargetRecord], folder: Path) -> None:
        self.coco, self.folder, self.edge = coco, folder, config.training.detector_image_px
        self.store = TargetStore(Path(config.paths.targets), config.paths.retention_days)
        self.sizes = {Kind.FACE: face_size_hw(config), Kind.PLATE: plate_size_hw(config)}
        self.records = sorted(records, key=lambda record: record.annotation_id)
        self.counts = {kind: sum(record.kind == kind.value for record in records) for kind in Kind}

    def total_bytes(self) -> int:
        crop_bytes = sum(
            self.counts[kind] * height * width * (10 if kind is Kind.PLATE else 7)
            for kind, (height, width) in self.sizes.items()
        )
        return crop_bytes + len(self.coco.images) * self.edge**2 * 6

    def write(self) -> None:
        for kind in Kind:
            count, (height, width) = self.counts[kind], self.sizes[kind]
            for name in _names(kind) if count else ():
                self._reserve(f"{kind.value}_{name}", (count, height, width, *(() if name == "masks" else (3,))))
        for name in ("images", "images_filled"):
            self._reserve(name, (len(self.coco.images), self.edge, self.edge, 3))
        known = self._known()
        results = parallel.each(_write_image, self._jobs()[len(known) :], "training samples")
        while some := list(itertools.islice(results, MARKED_TOGETHER)):
            self._mark(some)
            known += some
        for kind in Kind:
            if rows := [row for one in known for name, row in one["crops"] if name == kind.value]:
                self._json(kind.value, rows)
        self._json("images", [one["whole"] for one in known])
        self.done_file.unlink(missing_ok=True)

    @property
    def done_file(self) -> Path:
        return self.folder / "done.jsonl"

    def _known(self) -> list[_Known]:
        """What is known of the images that are done; a line that a kill cut off is dropped."""
        self.done_file.touch(mode=0o600)
        whole = [line for line in self.done_file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        atomic.write_text(self.done_file, "".join(whole), mode=0o600)
        return [json.loads(line) for line in whole]

    def _mark(self, some: Sequence[_Known]) -> None:
        # What is marked as done must be on the disk before its mark.
        for path in self.folder.glob("*.npy"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        with self.done_file.open("a") as file:
            file.writelines(f"{json.dumps(one)}\n" for one in some)
            file.flush()
            os.fsync(file.fileno())

    def _jobs(self) -> list[_Image]:
        annotations = {annotation["id"]: annotation for annotation in self.coco.annotations}
        by_image: dict[int, list[TargetRecord]] = {}
        for record in self.records:
            by_image.setdefault(annotations[record.annotation_id]["image_id"], []).append(record)
        next_of = {kind: itertools.count() for kind in Kind}
        return [
            _Image(
                index,
                self.coco.image_file(image),
                image,
                self.coco.annotations_by_image[image["id"]],
                [
                    _Crop(next(next_of[Kind(record.kind)]), record, annotations[record.annotation_id])
                    for record in by_image.get(image["id"], [])
                ],
                self.folder,
                self.store,
            )
            for index, image in enumerate(self.coco.images)
        ]

    def _reserve(self, name: str, shape: tuple[int, ...]) -> None:
        reserve(self.folder / f"{name}.npy", shape, np.uint8)

    def _json(self, name: str, rows: list[dict[str, Any]]) -> None:
        atomic.write_json(self.folder / f"{name}.json", rows, mode=0o600)


def reserve(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """Make a private array of zeros as large as it will be, if it is not there: a build that was killed goes on in it.

    Args:
        path: A file ``*.npy`` to be memory-mapped.
        shape: Of the array.
        dtype: Of its values.
    """
    if path.exists():
        return
    part = path.with_suffix(".part")
    # Whole before it has its name: half a header would stop the build that goes on from it.
    np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape).flush()
    part.chmod(0o600)
    part.rename(path)


def _names(kind: Kind) -> tuple[str, ...]:
    return ("originals", "targets", "masks", *(("anchors",) if kind is Kind.PLATE else ()))


def _write_image(job: _Image) -> _Known:
    """Write an image and its crops to their places; returns what is known of them."""
    pixels = images.read(job.file)
    regions = regions_of(job.image, job.annotations)
    rows: list[tuple[str, dict[str, Any]]] = []
    pasted = pixels
    for crop in job.crops:
        row, pasted = _write_crop(job, crop, pixels, pasted, regions)
        rows.append((crop.record.kind, dataclasses.asdict(row)))
    originals, filled = (_array(job.folder / f"{name}.npy", "r+") for name in ("images", "images_filled"))
    edge = originals.shape[1]
    originals[job.index], whole = letterboxed(pixels, job.image, job.annotations, edge)
    filled[job.index], _ = letterboxed(pasted, job.image, job.annotations, edge)
    return {"crops": rows, "whole": dataclasses.asdict(whole)}


def _write_crop(
    job: _Image, crop: _Crop, pixels: np.ndarray, pasted: np.ndarray, regions: list[Region]
) -> tuple[SampleRow, np.ndarray]:
    """Write one crop; returns what is known of it, and the image with its target pasted in, too."""
    record, kind = crop.record, Kind(crop.record.kind)
    into = {name: _array(job.folder / f"{kind.value}_{name}.npy", "r+") for name in _names(kind)}
    height, width = into["masks"].shape[1:]
    region = Region.from_coco(crop.annotation, job.image.get("plate_style"))
    original = crops.cut(pixels, record.window, (height, width))
    mask = masks.crop_mask(regions, record.window, (height, width))
    into["originals"][crop.index], into["masks"][crop.index] = original, mask
    target = original if record.method == CANARY else job.store.read(record.target_file)
    # Outside the mask the generator can only give back the original: a fitted plate's rim must not ask for more.
    into["targets"][crop.index] = np.where(mask[..., None] > 0, target, original)
    if record.anchor_file is not None:
        into["anchors"][crop.index] = job.store.read(record.anchor_file)
    crowds, size_hw = crowds_of(job.annotations), (height, width)
    row = sample_row(region, regions, job.image, crop.annotation, record.window, size_hw, record.serial, crowds)
    own = masks.region_mask([region], pixels.shape[:2])
    return row, crops.paste(pasted, target, record.window, own)


def letterboxed(
    pixels: np.ndarray, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], edge: int
) -> tuple[np.ndarray, DetectorImage]:
    """Shrink a whole image into a gray square for the detector, never enlarging it.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        image: Its record in the COCO file.
        annotations: The records of all its regions.
        edge: The square's edge in pixels.

    Returns:
        ``(edge, edge, 3)`` uint8, and what is known of it. Boxes that are too small to learn from count as crowds.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, edge / max(height, width))
    size_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    square = np.full((edge, edge, 3), 114, np.uint8)
    square[: size_hw[0], : size_hw[1]] = images.resize(pixels, size_hw) if scale < 1 else pixels
    scaled = boxes.xywh_to_xyxy([annotation["bbox"] for annotation in annotations]) * scale
    row = DetectorImage(
        image_id=image["id"],
        size_hw=size_hw,
        scale=scale,
        boxes_xyxy=tuple(tuple(box) for box in scaled.tolist()),
        labels=tuple(annotation["category_id"] for annotation in annotations),
        iscrowd=tuple(
            bool(annotation.get("iscrowd")) or min(annotation["bbox"][2:]) * scale < MIN_DETECTOR_PX
            for annotation in annotations
        ),
        not_exhaustive=tuple(image.get("not_exhaustive_category_ids") or ()),
    )
    return square, row


def _open(folder: Path, key: str) -> TrainingData:
    # Sizes are compared, sums are not: the cache was complete when it took its name, and it is large.
    manifests.read(folder, verify=False)
    samples = {}
    for kind in Kind:
        if (folder / f"{kind.value}.json").exists():
            samples[kind] = SampleSet(
                kind=kind,
                originals=_array(folder / f"{kind.value}_originals.npy"),
                targets=_array(folder / f"{kind.value}_targets.npy"),
                anchors=_array(folder / f"{kind.value}_anchors.npy") if kind is Kind.PLATE else None,
                masks=_array(folder / f"{kind.value}_masks.npy"),
                rows=[SampleRow(**_tuples(row)) for row in json.loads((folder / f"{kind.value}.json").read_text())],
            )
    detector = DetectorSet(
        _array(folder / "images.npy"),
        _array(folder / "images_filled.npy"),
        [DetectorImage(**_tuples(row)) for row in json.loads((folder / "images.json").read_text())],
    )
    return TrainingData(samples, detector, key)


def _array(path: Path, mode: Literal["r", "r+"] = "r") -> np.ndarray:
    return np.load(path, mmap_mode=mode, allow_pickle=False)


def _tuples(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value

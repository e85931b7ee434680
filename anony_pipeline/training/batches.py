"""From cached samples to the tensors of one step. What a step gets is a function of seed, stream and step alone."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from anony_pipeline.models.generator import Encoded, Generator
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.device import torch_generator
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.training.cache import SampleRow, SampleSet, TrainingData

MASK_GROWTH = 0.25
"""A mask grows by up to this share of the region, differently to each side: boxes in use are detected ones."""


@dataclass(frozen=True)
class Batch:
    """Crops of one kind.

    Attributes:
        kind: Of all of them.
        indices: Which samples of the set.
        rows: What is known of each.
        originals: ``(N, 3, H, W)`` in ``[-1, 1]``.
        targets: Likewise: the pseudo-targets.
        anchors: Likewise; None for faces.
        masks: ``(N, 1, H, W)``, 0 or 1, grown at random; every region in the crop is under them.
        noise: Standard normal, as the generator wants it.
        encoded: The crops' latents under these masks, where they are kept.
    """

    kind: Kind
    indices: tuple[int, ...]
    rows: tuple[SampleRow, ...]
    originals: torch.Tensor
    targets: torch.Tensor
    anchors: torch.Tensor | None
    masks: torch.Tensor
    noise: torch.Tensor
    encoded: Encoded | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, places: Sequence[int]) -> "Batch":
        """Some of the crops: a micro-batch."""
        chosen = list(places)
        return Batch(
            self.kind,
            tuple(self.indices[place] for place in chosen),
            tuple(self.rows[place] for place in chosen),
            self.originals[chosen],
            self.targets[chosen],
            None if self.anchors is None else self.anchors[chosen],
            self.masks[chosen],
            self.noise[chosen],
            None if self.encoded is None else self.encoded.part(chosen),
        )

    @property
    def styles(self) -> tuple[str | None, ...]:
        """The plate style of each crop."""
        return tuple(row.style for row in self.rows)

    @property
    def thetas(self) -> torch.Tensor:
        """``(N, 2, 3)`` from the recognizer's aligned crops to the crops."""
        return torch.tensor([row.theta for row in self.rows], dtype=torch.float32, device=self.originals.device)

    @property
    def readings(self) -> torch.Tensor:
        """``(N, 3, 3)`` from the reader's straightened crops to the crops; plates only."""
        return torch.tensor([row.reading for row in self.rows], dtype=torch.float32, device=self.originals.device)


@dataclass(frozen=True)
class Generated:
    """What the generator made last: the discriminator and the detector learn from it without a second pass.

    Attributes:
        kind: Of all crops.
        indices: Which samples of the set.
        originals: ``(N, 3, H, W)`` in ``[-1, 1]``.
        masks: ``(N, 1, H, W)``.
        outputs: ``(N, 3, H, W)`` in ``[-1, 1]``, detached.
    """

    kind: Kind
    indices: tuple[int, ...]
    originals: torch.Tensor
    masks: torch.Tensor
    outputs: torch.Tensor


@dataclass(frozen=True)
class DetectorBatch:
    """Whole images, originals first, then their anonymized versions.

    Attributes:
        images: ``(3, S, S)`` each, in ``[0, 1]``.
        targets: ``boxes`` ``(M, 4)`` xyxy in pixels and ``labels`` ``(M,)`` for each.
        not_exhaustive: For each: categories whose unlabeled instances never count as negatives.
    """

    images: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]
    not_exhaustive: list[tuple[int, ...]] = field(default_factory=list)


def kind_of_step(data: TrainingData, seed: int, stream: str, step: int) -> Kind:
    """Which kind a step learns, in every process: drawn by lot, so that no pattern of the cycle falls in with it."""
    kinds = sorted(data.samples)
    return kinds[int(seeding.numpy_generator(seed, f"{stream}/kind", step).integers(len(kinds)))]


def draw_batch(
    data: TrainingData, generator: Generator, *, size: int, seed: int, stream: str, step: int, device: torch.device
) -> Batch:
    """Draw the batch of one step: samples in shuffled order, epoch by epoch; masks and noise at random.

    Args:
        data: The cache.
        generator: Says which noise it wants.
        size: Crops in the batch.
        seed: The run's seed.
        stream: The stage: stages never share random numbers.
        step: The step in the stage.
        device: Where the tensors go; noise is drawn on the CPU, so it is the same on every device.
    """
    samples = data.samples[kind_of_step(data, seed, stream, step)]
    places = np.arange(step * size, (step + 1) * size)
    indices = tuple(
        int(_order(len(samples), seed, f"{stream}/{samples.kind}", int(place) // len(samples))[place % len(samples)])
        for place in places
    )
    rngs = [seeding.numpy_generator(seed, f"{stream}/mask", int(place)) for place in places]
    latents = data.latents.get(samples.kind)
    if latents is None:
        encoded = None
        grown = [
            grow_mask(samples.masks[index], samples.rows[index], rng) for index, rng in zip(indices, rngs, strict=True)
        ]
    else:
        numbers = [int(rng.integers(latents.variants)) for rng in rngs]
        encoded = latents.encoded(indices, numbers)
        grown = [
            variant_mask(samples, index, number, latents.seed) for index, number in zip(indices, numbers, strict=True)
        ]
    height, width = samples.masks.shape[1:]
    noise = torch.randn(
        generator.noise_shape(size, (height, width)),
        generator=torch_generator(seeding.seed_for(seed, f"{stream}/noise", step)),
    )
    return assemble(samples, indices, np.stack(grown), noise, device, encoded)


def assemble(
    samples: SampleSet,
    indices: Sequence[int],
    holes: np.ndarray,
    noise: torch.Tensor,
    device: torch.device,
    encoded: Encoded | None = None,
) -> Batch:
    """Put samples into tensors.

    Args:
        samples: The set.
        indices: Which of it.
        holes: ``(N, H, W)`` masks, 0 or 1.
        noise: Standard normal, of the generator's `noise_shape`.
        device: Where the tensors go.
        encoded: The latents of the crops under these masks.
    """
    chosen = list(indices)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return images.to_tensor([array[index] for index in chosen], device=device)

    return Batch(
        kind=samples.kind,
        indices=tuple(chosen),
        rows=tuple(samples.rows[index] for index in chosen),
        originals=tensor(samples.originals),
        targets=tensor(samples.targets),
        anchors=None if samples.anchors is None else tensor(samples.anchors),
        masks=torch.from_numpy(holes)[:, None].to(device).float(),
        noise=noise.to(device),
        encoded=None if encoded is None else _moved(encoded, device),
    )


def fill(generator: Generator, batch: Batch) -> torch.Tensor:
    """Let the generator fill a batch, or a part of one: ``(N, 3, H, W)`` in ``[-1, 1]``."""
    return generator.fill(
        batch.originals,
        batch.masks,
        batch.kind,
        noise=batch.noise,
        anchors=batch.anchors,
        encoded=batch.encoded,
        styles=batch.styles,
        small=small_of(generator, batch),
    )


def small_of(generator: Generator, batch: Batch) -> list[bool]:
    """Which crops of a batch the generator fills at half of their size."""
    height, width = batch.masks.shape[-2:]
    return [generator.is_small(row.window, (height, width)) for row in batch.rows]


def _moved(encoded: Encoded, device: torch.device) -> Encoded:
    return Encoded(encoded.masked.to(device), None if encoded.anchored is None else encoded.anchored.to(device))


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int, stream: str, epoch: int) -> np.ndarray:
    return seeding.numpy_generator(seed, f"{stream}/order", epoch).permutation(count)


def variant_mask(samples: SampleSet, index: int, number: int, seed: int) -> np.ndarray:
    """One of a crop's fixed grown masks, ``(H, W)`` uint8, 0 or 1: the same in every stage and at every step."""
    rng = seeding.numpy_generator(seed, f"variant/{samples.kind}/{index}", number)
    return grow_mask(samples.masks[index], samples.rows[index], rng)


def grow_mask(mask: np.ndarray, row: SampleRow, rng: np.random.Generator) -> np.ndarray:
    """Grow a mask by a random margin to each side. What was masked stays masked, so nothing hidden is ever shown.

    Args:
        mask: ``(H, W)`` uint8, 0 or 1.
        row: Its region gives the margins' scale.
        rng: Draws four margins.

    Returns:
        ``(H, W)`` uint8, 0 or 1.
    """
    width, height = row.box_xyxy[2] - row.box_xyxy[0], row.box_xyxy[3] - row.box_xyxy[1]
    left, right = (int(value) for value in rng.uniform(0, MASK_GROWTH / 2 * width, 2))
    top, bottom = (int(value) for value in rng.uniform(0, MASK_GROWTH / 2 * height, 2))
    kernel = np.ones((top + bottom + 1, left + right + 1), np.uint8)
    # Dilation looks from the anchor in both directions; the kernel's anchor moves the margins to their sides.
    return cv2.dilate(np.ascontiguousarray(mask), kernel, anchor=(right, bottom))


def draw_detector_batch(
    data: TrainingData,
    generated: Generated | None,
    *,
    size: int,
    seed: int,
    step: int,
    device: torch.device,
) -> DetectorBatch:
    """Draw whole images, those of the last generated crops first, each as it was and anonymized.

    An anonymized version has the pseudo-targets in every region, and over them the crops that the generator made last.

    Args:
        data: The cache.
        generated: The generator's last crops; None before its first step.
        size: Images; the batch has twice as many.
        seed: The run's seed.
        step: Counts the detector's steps.
        device: Where the tensors go.
    """
    detector = data.detector
    numbers = {row.image_id: index for index, row in enumerate(detector.rows)}
    order = seeding.numpy_generator(seed, "detector/order", step).permutation(len(detector))
    fresh = _images_of(data, generated)
    first = list(dict.fromkeys(numbers[image_id] for image_id in fresh))[:size]
    chosen = [*first, *(int(number) for number in order if number not in first)][:size]
    originals = [detector.originals[number] for number in chosen]
    anonymized = [_with_generated(data, number, generated, fresh) for number in chosen]
    rows = [detector.rows[number] for number in chosen] * 2
    return DetectorBatch(
        images=list(images.to_tensor([*originals, *anonymized], "0..1", device)),
        targets=[detector_target(row.boxes_xyxy, row.labels, device, row.iscrowd) for row in rows],
        not_exhaustive=[row.not_exhaustive for row in rows],
    )


def detector_target(
    boxes_xyxy: Sequence[Sequence[float]],
    labels: Sequence[int],
    device: torch.device,
    iscrowd: Sequence[bool] | None = None,
) -> dict[str, torch.Tensor]:
    """Boxes and labels as the detector's loss takes them; an image without a region gives ``(0, 4)`` and ``(0,)``."""
    return {
        "boxes": torch.tensor(boxes_xyxy, dtype=torch.float32, device=device).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64, device=device),
        "iscrowd": torch.tensor(iscrowd or [False] * len(labels), dtype=torch.bool, device=device),
    }


def _images_of(data: TrainingData, generated: Generated | None) -> list[int]:
    if generated is None:
        return []
    rows = data.samples[generated.kind].rows
    return [rows[index].image_id for index in generated.indices]


def _with_generated(data: TrainingData, number: int, generated: Generated | None, fresh: list[int]) -> np.ndarray:
    row = data.detector.rows[number]
    square = np.array(data.detector.filled[number])
    if generated is None or row.image_id not in fresh:
        return square
    samples = data.samples[generated.kind]
    made = images.to_images(generated.outputs)
    for crop, index, image_id in zip(made, generated.indices, fresh, strict=True):
        if image_id == row.image_id:
            square = _pasted(square, crop, samples, index, row.scale)
    return square


def _pasted(square: np.ndarray, crop: np.ndarray, samples: SampleSet, index: int, scale: float) -> np.ndarray:
    row = samples.rows[index]
    left, top, right, bottom = row.window
    window = (left * scale, top * scale, right * scale, bottom * scale)
    # Only the region's own place: the neighbors in the crop have their own targets in the image already.
    to_square = crops.matrix_to_image(window, samples.masks.shape[1:])
    corners = np.array(row.box_xyxy).reshape(2, 2) @ to_square[:, :2].T + to_square[:, 2]
    region = Region(samples.kind, tuple(corners.reshape(4).tolist()))
    return crops.paste(square, crop, window, masks.region_mask([region], square.shape[:2]))

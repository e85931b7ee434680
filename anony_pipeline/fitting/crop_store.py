"""Crops of faces and plates on the device that trains, drawn in batches with masks, flips and exposure by chance."""

from dataclasses import dataclass

import numpy as np
import torch

from anony_pipeline.fitting.generator_crops import Crops
from anony_pipeline.structures.regions import Kind

VALIDATION_SHARE = 0.02
MASK_GROWTH = (1.1, 1.4)


@dataclass
class Batch:
    """Crops on the device.

    Attributes:
        kind: Of all of them.
        images: ``(N, 3, H, W)`` in ``[-1, 1]``; the last ones repeat the first, as many as there are twins.
        masks: ``(N, 1, H, W)``, 0 or 1.
        boxes: ``(N, 4)`` xyxy in pixels.
        anchors: ``(N, 3, H, W)`` in ``[-1, 1]`` of plates; None for faces.
        twins: How many crops are there twice.
    """

    kind: Kind
    images: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor
    anchors: torch.Tensor | None
    twins: int


class CropStore:
    """The crops of one kind as uint8 tensors on a device, cut into training and validation.

    Attributes:
        device: Where they are.
        kind: Of all of them.
        images: ``(N, H, W, 3)`` uint8 RGB.
        anchors: The same of plates with their serial drawn anew; None for faces.
        boxes: ``(N, 4)`` float32 xyxy in pixels.
        held_out: How many, the last ones, are for validation alone.
    """

    def __init__(self, crops: Crops, kind: Kind, device: torch.device) -> None:
        self.device = device
        is_face = kind is Kind.FACE
        self.kind = kind
        self.images = torch.from_numpy(np.array(crops.faces if is_face else crops.plates)).to(device)
        self.anchors = None if is_face else torch.from_numpy(np.array(crops.anchors)).to(device)
        self.boxes = torch.from_numpy(np.array(crops.face_boxes if is_face else crops.plate_boxes)).to(device)
        self.held_out = max(1, round(len(self.images) * VALIDATION_SHARE))

    def draw(self, size: int, rng: np.random.Generator, twins: int = 0) -> Batch:
        """Random training crops with random masks, flips and exposure; the first ``twins`` are there twice."""
        chosen = rng.integers(len(self.images) - self.held_out, size=size - twins)
        index = torch.from_numpy(np.concatenate([chosen, chosen[:twins]]))
        flips = rng.random(size - twins) < 0.5 if self.anchors is None else np.zeros(size - twins, bool)
        growth = rng.uniform(*MASK_GROWTH, (size - twins, 2))
        shift = rng.normal(0, 0.03, (size - twins, 2))
        gains = np.exp(rng.normal(0, [0.15, 0.04, 0.04, 0.04], (size - twins, 4)))
        flips, growth, shift, gains = (
            np.concatenate([values, values[:twins]]) for values in (flips, growth, shift, gains)
        )
        return self._batch(index, flips, growth, shift, gains, twins)

    def validation(self, count: int) -> Batch:
        """The first held-out crops, masked as in use."""
        begin = len(self.images) - self.held_out
        index = torch.arange(begin, min(begin + count, len(self.images)))
        size = len(index)
        flips, shift, gains = np.zeros(size, bool), np.zeros((size, 2)), np.ones((size, 4))
        return self._batch(index, flips, np.full((size, 2), 1.15), shift, gains, 0)

    def _batch(
        self,
        index: torch.Tensor,
        flips: np.ndarray,
        growth: np.ndarray,
        shift: np.ndarray,
        gains: np.ndarray,
        twins: int,
    ) -> Batch:
        device = self.images.device
        index = index.to(device, non_blocking=True)
        boxes = self.boxes[index]
        masks = box_masks(boxes, growth, shift, (self.images.shape[1], self.images.shape[2]))
        exposure = torch.from_numpy(gains[:, :1] * gains[:, 1:]).float().to(device, non_blocking=True)[..., None, None]
        turned = torch.from_numpy(flips).to(device, non_blocking=True)
        flipped = turned[:, None, None, None]
        mirrored = torch.stack(
            [self.images.shape[2] - boxes[:, 2], boxes[:, 1], self.images.shape[2] - boxes[:, 0], boxes[:, 3]], 1
        )
        pictures = _pixels(self.images[index], exposure)
        anchors = None if self.anchors is None else _pixels(self.anchors[index], exposure)
        return Batch(
            self.kind,
            torch.where(flipped, pictures.flip(3), pictures),
            torch.where(flipped, masks.flip(3), masks),
            torch.where(turned[:, None], mirrored, boxes),
            anchors,
            twins,
        )


def box_masks(boxes: torch.Tensor, growth: np.ndarray, shift: np.ndarray, size_hw: tuple[int, int]) -> torch.Tensor:
    """Masks of jittered, grown boxes, rounded outward, ``(N, 1, H, W)``: `ops.masks.region_mask` on the device."""
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    center = center + torch.from_numpy(shift).float().to(boxes.device, non_blocking=True) * size
    half = size / 2 * torch.from_numpy(growth).float().to(boxes.device, non_blocking=True)
    low, high = (center - half).floor(), (center + half).ceil()
    inside = []
    for axis, length in ((1, size_hw[0]), (0, size_hw[1])):
        place = torch.arange(length, device=boxes.device)[None]
        inside.append((place >= low[:, axis : axis + 1]) & (place < high[:, axis : axis + 1]))
    rows, columns = inside
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _pixels(crops: torch.Tensor, exposure: torch.Tensor) -> torch.Tensor:
    """uint8 ``(N, H, W, 3)`` to ``(N, 3, H, W)`` in ``[-1, 1]`` under another exposure ``(N, 3, 1, 1)``."""
    return (crops.permute(0, 3, 1, 2).float() / 255 * exposure).clamp(0, 1) * 2 - 1

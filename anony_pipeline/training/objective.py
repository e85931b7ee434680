"""The generator's objective: a weighted sum of losses, all on the one output of one pass."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F

from anony_pipeline.config.schema import LossWeights
from anony_pipeline.losses import adversarial, detection, identity, perceptual, reading, reconstruction
from anony_pipeline.models.discriminator import Discriminator
from anony_pipeline.models.reader import ALPHABET, INPUT_HW
from anony_pipeline.plates import serials
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training.batches import Batch, detector_target
from anony_pipeline.training.networks import Critics

PRETRAIN_TERMS = ("l1", "perceptual")

Critic = TypeVar("Critic")


class Objective:
    """What the generator is asked for.

    Args:
        critics: Frozen networks; one is needed for each of its losses that has a weight.
        discriminator: The adversary; None leaves `adv` out.
        loss: The weights. A weight of 0 leaves its loss out: it is not computed.
        margin: Of the identity hinge.
    """

    def __init__(self, critics: Critics, discriminator: Discriminator | None, loss: LossWeights, margin: float) -> None:
        self.critics, self.discriminator, self.loss, self.margin = critics, discriminator, loss, margin
        self.terms: dict[str, Callable[[Batch, torch.Tensor], torch.Tensor | None]] = {
            "l1": self._l1,
            "perceptual": self._perceptual,
            "id": self._identity,
            "adv": self._adversarial,
            "detection": self._detection,
            "reading": self._reading,
            "read_suppress": self._read_suppression,
        }

    def weights(self, kind: Kind, stage: str) -> dict[str, float]:
        """The losses that count for a kind in a stage, with their weights; those of weight 0 are left out."""
        loss, is_face = self.loss, kind is Kind.FACE
        weights = {
            "l1": loss.l1_weight * (loss.face_l1_scale if is_face else 1),
            "perceptual": loss.perceptual_weight,
            "id": loss.id_suppress_weight if is_face else 0,
            "adv": loss.adv_weight if self.discriminator is not None else 0,
            "detection": loss.detection_weight,
            "reading": 0 if is_face else loss.reading_weight,
            "read_suppress": 0 if is_face else loss.read_suppress_weight,
        }
        return {
            name: weight
            for name, weight in weights.items()
            if weight > 0 and (stage == "joint" or name in PRETRAIN_TERMS)
        }

    def __call__(self, batch: Batch, outputs: torch.Tensor, stage: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum, and each loss without its weight.

        Args:
            batch: What the outputs were made of.
            outputs: ``(N, 3, H, W)`` in ``[-1, 1]``, the generator's one pass.
            stage: `pretrain` counts the distances to the pseudo-targets alone.
        """
        weights = self.weights(batch.kind, stage)
        values = {name: self.terms[name](batch, outputs) for name in weights}
        found = {name: value for name, value in values.items() if value is not None}
        total = sum((weights[name] * value for name, value in found.items()), outputs.sum() * 0)
        return total, {name: value.detach() for name, value in found.items()}

    @staticmethod
    def _l1(batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
        return reconstruction.masked_l1(outputs, batch.targets, batch.masks)

    def _perceptual(self, batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
        lpips = self.critics.lpips
        if lpips is not None:
            return perceptual.perceptual_distance(lpips.maps, outputs, batch.targets, list(lpips.fitted))
        return perceptual.perceptual_distance(_there(self.critics.detector).maps, outputs, batch.targets)

    def _identity(self, batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
        embed = _there(self.critics.recognizer)
        size = embed.input_size
        with torch.no_grad():
            originals = embed(identity.crop_faces(batch.originals, batch.thetas, size))
        return identity.identity_hinge(embed(identity.crop_faces(outputs, batch.thetas, size)), originals, self.margin)

    def _adversarial(self, batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
        return adversarial.generator_loss(_there(self.discriminator)(outputs, batch.masks, batch.kind))

    def _detection(self, batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
        targets = [detector_target(row.neighbors_xyxy, row.labels, outputs.device, row.iscrowd) for row in batch.rows]
        unlabeled = [row.not_exhaustive for row in batch.rows]
        frozen = _there(self.critics.detector)
        return detection.detection_consistency(
            lambda images, wanted: frozen.losses_of_each(images, wanted, unlabeled), outputs, targets
        )

    def _reading(self, batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
        return self._read(batch, outputs, [row.serial or "" for row in batch.rows], reading.reading_loss)

    def _read_suppression(self, batch: Batch, outputs: torch.Tensor) -> torch.Tensor | None:
        known = [number for number, row in enumerate(batch.rows) if row.original_serial]
        if not known:
            return None
        originals = [str(batch.rows[number].original_serial) for number in known]
        # A crop whose original is not known adds 0 to the mean over crops.
        return self._read(batch, outputs, originals, reading.read_suppression, known) * (len(known) / len(batch))

    def _read(
        self,
        batch: Batch,
        outputs: torch.Tensor,
        texts: list[str],
        loss: Callable[[torch.Tensor, list[list[int]]], torch.Tensor],
        chosen: list[int] | None = None,
    ) -> torch.Tensor:
        rows = list(range(len(batch))) if chosen is None else chosen
        plates = crop_plates(outputs[rows], batch.readings[rows], INPUT_HW)
        encoded = [
            [1 + ALPHABET.index(character) for character in serials.normalize(text) if character in ALPHABET]
            for text in texts
        ]
        return loss(_there(self.critics.reader)(plates), encoded)


def _there(critic: Critic | None) -> Critic:
    if critic is None:
        raise ValueError("a loss has a weight, and the critic that it asks was not loaded")
    return critic


def crop_plates(images: torch.Tensor, homographies: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Straighten plates so that the gradient reaches the image.

    Args:
        images: ``(N, 3, H, W)``.
        homographies: ``(N, 3, 3)`` from the straightened crop to the image, both in ``[-1, 1]``; constants.
        size_hw: Height and width of the straightened crop.

    Returns:
        ``(N, 3, height, width)``; beyond the image its border is repeated.
    """
    height, width = size_hw
    y = (torch.arange(height, device=images.device) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=images.device) + 0.5) * 2 / width - 1
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], dim=-1)
    moved = torch.einsum("nij,hwj->nhwi", homographies, points)
    grid = moved[..., :2] / moved[..., 2:]
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)

"""Who is in a face that was made, as a recognizer has it: not the original's person, nor the same one for all noises.

The recognizer sees each face a little moved and coarsened, so that no pattern that only it sees will do.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.crop_store import Batch
from anony_pipeline.models.recognizer import BOX_CONTEXT, BOX_SHIFT, INPUT_SIZE

STRANGERS = 0.2
"""Cosine up to which two faces count as two people's; the mean of strangers is 0, but hair and skin stay alike."""


def to_strangers(
    outputs: torch.Tensor, batch: Batch, recognizer: nn.Module, randomness: torch.Generator
) -> torch.Tensor:
    """Punish faces in which a recognizer finds the original's person, or in two of one crop the same person.

    Ignoring its noise, a generator draws one face for all. Pixels that differ, as Mao et al., Mode Seeking Generative
    Adversarial Networks, 2019, ask for, don't make different people.

    Args:
        outputs: ``(N, 3, H, W)`` in ``[-1, 1]``.
        batch: Their crops, of which some are there twice.
        recognizer: ``(N, 3, 112, 112)`` in ``[-1, 1]`` -> ``(N, D)``.
        randomness: Of how each face is moved and coarsened.
    """
    count = batch.twins
    shown = [batch.images[:count], outputs[:count], outputs[-count:]]
    boxes = [batch.boxes[:count], batch.boxes[:count], batch.boxes[-count:]]
    original, first, second = _vectors(shown, boxes, recognizer, randomness)
    pairs = torch.stack([(first * second).sum(1), (original * first).sum(1), (original * second).sum(1)])
    return F.relu(pairs - STRANGERS).mean()


def to_followed(
    outputs: torch.Tensor,
    followed: torch.Tensor,
    boxes: torch.Tensor,
    recognizer: nn.Module,
    randomness: torch.Generator,
) -> torch.Tensor:
    """Ask each face to be the person of the face that it follows: one minus their mean cosine, in ``[0, 2]``.

    Of one crop a teacher makes another person of every noise; a critic alone is content with the likeliest.

    Args:
        outputs: ``(N, 3, H, W)`` in ``[-1, 1]``.
        followed: The same of another generator, of the same noise.
        boxes: ``(N, 4)`` xyxy in pixels.
        recognizer: As in `to_strangers`.
        randomness: As there.
    """
    made, wanted = _vectors([outputs, followed], [boxes, boxes], recognizer, randomness)
    return 1 - (made * wanted).sum(dim=1).mean()


def _vectors(
    shown: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor], recognizer: nn.Module, randomness: torch.Generator
) -> Sequence[torch.Tensor]:
    """Unit vectors of as many batches of faces, cut as a judge cuts them, moved and coarsened."""
    size, pictures = (INPUT_SIZE, INPUT_SIZE), torch.cat(list(shown))
    matrices = augmentation.jitter(by_box(torch.cat(list(boxes))), size, randomness, scale=0.1, turn=0.1, shift=0.05)
    # In random order, because `coarsen` treats neighbors alike.
    order = torch.randperm(len(pictures), generator=randomness, device=pictures.device)
    crops, _ = augmentation.coarsen(augmentation.warp(pictures, matrices, size)[order], randomness, lowest=0.4)
    return F.normalize(recognizer(crops).float())[order.argsort()].chunk(len(shown))


def by_box(boxes: torch.Tensor) -> torch.Tensor:
    """The ``(N, 2, 3)`` matrices of `models.recognizer.alignment` by ``(N, 4)`` boxes."""
    edge = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * BOX_CONTEXT
    corner = (boxes[:, :2] + boxes[:, 2:] - edge[:, None]) / 2
    corner[:, 1] += BOX_SHIFT * edge
    scale = INPUT_SIZE / edge
    matrices = boxes.new_zeros(len(boxes), 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :, 2] = -corner * scale[:, None]
    return matrices

"""Anonymized regions stay findable, so that the images stay useful."""

from collections.abc import Callable, Mapping, Sequence

import torch

DetectorLoss = Callable[
    [list[torch.Tensor], Sequence[Mapping[str, torch.Tensor]]], Sequence[Mapping[str, torch.Tensor]]
]
"""``(images (3, H, W) in [0, 1], targets) -> each image's losses by name``: the training losses of a *frozen* detector,
whose weights take no gradient while its input does."""


def detection_consistency(
    detector_loss: DetectorLoss, images: torch.Tensor, targets: Sequence[Mapping[str, torch.Tensor]]
) -> torch.Tensor:
    """The frozen detector's own loss on generated images with the boxes that were there before.

    Args:
        detector_loss: See `DetectorLoss`.
        images: ``(N, 3, H, W)`` in ``[-1, 1]``.
        targets: One mapping an image: ``boxes`` ``(M, 4)`` xyxy in pixels and ``labels`` ``(M,)``.

    Returns:
        A scalar: the sum of the detector's losses, the mean over images.
    """
    losses = detector_loss(list((images + 1) / 2), targets)
    return torch.stack([torch.stack(list(each.values())).sum() for each in losses]).mean()

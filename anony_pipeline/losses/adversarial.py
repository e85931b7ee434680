"""The game between generator and discriminator."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from anony_pipeline.models.discriminator import PatchScores


def discriminator_loss(real: Sequence[PatchScores], fake: Sequence[PatchScores]) -> torch.Tensor:
    """The hinge of Lim and Ye, Geometric GAN, 2017, for the discriminator, on the patches that touch the mask.

    Args:
        real: Scores of real crops.
        fake: Scores of completed crops whose gradient is cut off (``detach``).

    Returns:
        A scalar, the mean over scales; 2 where the discriminator knows nothing.
    """
    losses = [
        _mean(F.relu(1 - yes.logits), yes.weights) + _mean(F.relu(1 + no.logits), no.weights)
        for yes, no in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def generator_loss(fake: Sequence[PatchScores]) -> torch.Tensor:
    """The hinge game's other side, ``-E[D(G(z))]``: a scalar, lower where completed crops look more real."""
    return torch.stack([-_mean(scores.logits, scores.weights) for scores in fake]).mean()


def r1_penalty(real: Sequence[PatchScores], real_images: torch.Tensor) -> torch.Tensor:
    """The squared slope of the discriminator on real images.

    R1 of Mescheder et al., Which Training Methods for GANs do actually Converge?, 2018, equation 9, without
    ``gamma / 2``.

    Args:
        real: Scores of ``real_images``.
        real_images: ``(N, 3, H, W)``, with ``requires_grad`` set before they were scored.

    Returns:
        A scalar of which a gradient can be taken.
    """
    # The mean over a crop's patches, so that the penalty does not depend on its size; crops depend on their own pixels.
    score = torch.stack([_mean(scores.logits, scores.weights) for scores in real]).sum() * len(real_images)
    (slope,) = torch.autograd.grad(score, real_images, create_graph=True)
    return slope.square().sum(dim=(1, 2, 3)).mean()


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Of each crop's patches that count, then over crops."""
    counted = weights.sum(dim=(1, 2, 3)).clamp(min=1)
    return ((values * weights).sum(dim=(1, 2, 3)) / counted).mean()

"""Distance in the features of a network that does not learn."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

Features = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""``(N, 3, H, W)`` in ``[-1, 1]`` -> maps ``(N, C, h, w)``. The network must be frozen: a distance in features that
learn can be made small by forgetting what distinguishes images."""


def perceptual_distance(
    features: Features, outputs: torch.Tensor, targets: torch.Tensor, fitted: Sequence[torch.Tensor] | None = None
) -> torch.Tensor:
    """The distance of Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018.

    Args:
        features: A frozen network.
        outputs: ``(N, 3, H, W)`` in ``[-1, 1]``; the gradient passes through the network to them.
        targets: Likewise, without a gradient.
        fitted: For each map ``(C,)``, the squares of equation 1's weights ``w_l``, as LPIPS publishes them. None: they
            are 1, as in the paper's unlearned baselines.

    Returns:
        A scalar: LPIPS, the sum over layers; without fitted weights the mean over layers, in ``[0, 4]``.
    """
    with torch.no_grad():
        wanted = features(targets)
    found = features(outputs)
    return feature_distance(found, wanted) if fitted is None else fitted_distance(found, wanted, fitted)


def fitted_distance(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], fitted: Sequence[torch.Tensor]
) -> torch.Tensor:
    """LPIPS of two lists of maps ``(N, C, h, w)`` with weights ``(C,)``: a scalar from 0."""
    distances = [
        ((_unit(a) - _unit(b)).square() * weights.view(1, -1, 1, 1)).sum(dim=1).mean()
        for a, b, weights in zip(first, second, fitted, strict=True)
    ]
    return torch.stack(distances).sum()


def _unit(maps: torch.Tensor) -> torch.Tensor:
    # Under the root, so that places where no channel fires have a gradient, as in torchmetrics' LPIPS.
    return maps / (maps.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()


def feature_distance(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compare two lists of maps ``(N, C, h, w)``, features scaled to unit length; a scalar in ``[0, 4]``."""
    # Equation 1: || y_l - y0_l ||^2 on unit-normalized channels, averaged over positions.
    distances = [
        (F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)).square().sum(dim=1).mean()
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(distances).mean()

"""Distances to the pseudo-target, in pixels."""

import torch


def masked_l1(outputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean absolute error inside the mask of each crop, and the mean over crops.

    Full weight suits plates, whose target is what they shall look like. On faces keep its weight low: the best answer
    in the mean over many possible faces is a blur (Pathak et al., Context Encoders, 2016, section 3.2).

    Args:
        outputs: ``(N, 3, H, W)`` in ``[-1, 1]``.
        targets: Likewise.
        masks: ``(N, 1, H, W)``, 0 or 1.

    Returns:
        A scalar in ``[0, 2]``; a crop whose mask is empty adds 0.
    """
    return _masked_mean((outputs - targets).abs(), masks)


def gradient_l1(outputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the differences between neighboring pixels, across and down, likewise.

    It asks for edges where the target has them (Mathieu et al., Deep multi-scale video prediction beyond mean square
    error, 2016, equation 6 with alpha = 1, without the absolute values inside, so that an edge's direction counts).
    Arguments as in `masked_l1`.
    """
    error = outputs - targets
    across = _masked_mean((error[..., :, 1:] - error[..., :, :-1]).abs(), masks[..., :, 1:])
    down = _masked_mean((error[..., 1:, :] - error[..., :-1, :]).abs(), masks[..., 1:, :])
    return across + down


def _masked_mean(values: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    inside = (masks.sum(dim=(1, 2, 3)) * values.shape[1]).clamp(min=1)
    return ((values * masks).sum(dim=(1, 2, 3)) / inside).mean()

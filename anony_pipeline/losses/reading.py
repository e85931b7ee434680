"""What a plate reader shall read, and what it shall not."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F

# exp(-ctc) is clamped below 1, where -log(1 - p) and its gradient would be infinite.
MAX_PROBABILITY = 1 - 1e-3


def reading_loss(log_probs: torch.Tensor, serials: Sequence[Sequence[int]]) -> torch.Tensor:
    """The negative log-probability of the intended serials, per character.

    Connectionist temporal classification (Graves et al., 2006), equation 5.

    Args:
        log_probs: ``(T, N, C)`` of a differentiable reader, class 0 the blank.
        serials: N lists of classes in ``[1, C)``.

    Returns:
        A scalar, 0 or more. A serial that does not fit into T steps counts 0, because no image could make it readable.
    """
    lengths = torch.tensor([max(1, len(serial)) for serial in serials], device=log_probs.device)
    return (_negative_log_probability(log_probs, serials) / lengths).mean()


def read_suppression(log_probs: torch.Tensor, originals: Sequence[Sequence[int]]) -> torch.Tensor:
    """Push the reading away from the original serials: ``-log(1 - p)``, p the probability that the original is read.

    The unlikelihood of Welleck et al., Neural Text Generation with Unlikelihood Training, 2020, equation 3. Unlike
    ``log p`` it has a floor, 0: once the original is not read it asks for nothing more.

    Args:
        log_probs: ``(T, N, C)`` of a differentiable reader, class 0 the blank.
        originals: N lists of classes in ``[1, C)``.

    Returns:
        A scalar in ``[0, -log(1 - MAX_PROBABILITY)]``.
    """
    fits = [len(serial) + _repeats(serial) <= len(log_probs) for serial in originals]
    probability = torch.exp(-_negative_log_probability(log_probs, originals)) * torch.tensor(
        fits, device=log_probs.device
    )
    return -torch.log1p(-probability.clamp(max=MAX_PROBABILITY)).mean()


def _repeats(serial: Sequence[int]) -> int:
    # CTC needs a blank between two equal classes, and so one step more.
    return sum(first == second for first, second in pairwise(serial))


def _negative_log_probability(log_probs: torch.Tensor, serials: Sequence[Sequence[int]]) -> torch.Tensor:
    steps, count, _ = log_probs.shape
    flat = torch.tensor([label for serial in serials for label in serial], dtype=torch.long, device=log_probs.device)
    lengths = torch.tensor([len(serial) for serial in serials], dtype=torch.long, device=log_probs.device)
    steps_each = torch.full((count,), steps, dtype=torch.long, device=log_probs.device)
    # Half precision has too little range for sums of log-probabilities over many steps.
    return F.ctc_loss(log_probs.float(), flat, steps_each, lengths, blank=0, reduction="none", zero_infinity=True)

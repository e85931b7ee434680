"""FID and KID of real against anonymized regions, from features that were extracted once.

The formulas are torchmetrics' (`FrechetInceptionDistance`, `KernelInceptionDistance`), and equal to its figures on
the same features; what differs is that no picture is shown to the feature network twice.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation.intervals import Interval

SUBSET_SIZE = 1000
LEAST_OF_HALVES = 4
"""Of a set whose halves have a pair each."""
PAIRS_AT_ONCE = 500_000
"""Of a kernel: 4 MB, however large the sets are."""


class Distance(NamedTuple):
    """A distance and its 95 % interval, None where there is none."""

    value: float
    interval: Interval | None


class Gaussian(NamedTuple):
    """A set of features as FID sees it.

    Attributes:
        mean: ``(D,)`` float64.
        factor: ``(min(N, D), D)`` float64, upper triangular; ``factor.T @ factor`` is the covariance, and beyond it
            the factor tells nothing of the features that it was made of.
    """

    mean: np.ndarray
    factor: np.ndarray


def gaussian(features: np.ndarray) -> Gaussian:
    """The Gaussian of ``(N, D)`` features."""
    values = np.asarray(features, np.float64)
    mean = values.mean(axis=0)
    return Gaussian(mean, np.asarray(np.linalg.qr((values - mean) / np.sqrt(len(values) - 1), mode="r")))


def frechet(first: Gaussian, second: Gaussian) -> float:
    """Fréchet distance of two Gaussians (Heusel et al. 2017, eq. 6), 0 for equal ones.

    ``|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2)``. With ``S = A^T A``, ``tr sqrt(S1 S2)`` is the sum of the
    singular values of ``A1 A2^T``: no root of a singular matrix is taken, so few samples give no imaginary parts.
    """
    shared = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    traces = np.square(first.factor).sum() + np.square(second.factor).sum()
    return max(0.0, float(np.square(first.mean - second.mean).sum() + traces - 2 * shared))


def fid(real: np.ndarray, anonymized: np.ndarray) -> float:
    """Fréchet distance of the two sets' Gaussians.

    Args:
        real: ``(N, D)`` features, N of at least 2.
        anonymized: ``(M, D)`` features, M of at least 2.

    Returns:
        The distance, 0 for equal sets. It is biased upward by small N.
    """
    _check(real, anonymized)
    return frechet(gaussian(real), gaussian(anonymized))


def own_sums(features: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The sum of KID's kernel over all ordered pairs of different features of each subset.

    Args:
        features: ``(N, D)``.
        drawn: ``(S, N)``, 1 where a subset has one.

    Returns:
        ``(S,)`` float64.
    """
    values = np.asarray(features, np.float64)
    return np.asarray(_sums(values, values, drawn, drawn) - drawn @ _diagonal(values))


def kid(
    real: np.ndarray,
    anonymized: np.ndarray,
    rng: np.random.Generator,
    *,
    subsets: int = 50,
    subset_size: int = SUBSET_SIZE,
    own: Callable[[np.ndarray, np.ndarray], np.ndarray] = own_sums,
) -> Distance:
    """Unbiased squared MMD with the kernel ``(x.y / D + 1)^3`` (Binkowski et al. 2018, eq. 4).

    Sets of at most ``subset_size`` are compared whole, larger ones by the mean over random subsets, as torchmetrics
    does.

    Args:
        real: ``(N, D)`` features.
        anonymized: ``(M, D)`` features. Of equal length, rows are taken as pairs and are drawn together.
        rng: Draws the subsets.
        subsets: How many are drawn, for the mean and for the interval.
        subset_size: The largest set that is compared whole.
        own: Gives `own_sums` of the real features, which several sets may be compared with.

    Returns:
        The value (about 0 for equal distributions, also a little below) and its interval, None for sets of less than
        4: by how random halves of the whole sets differ from their other halves, see `_variance`.
    """
    _check(real, anonymized)
    first, second = np.asarray(real, np.float64), np.asarray(anonymized, np.float64)
    lengths, paired = (len(first), len(second)), len(first) == len(second)
    whole = max(lengths) <= subset_size
    drawn = min(*lengths, subset_size)
    parts = [np.ones((1, length)) for length in lengths]
    if not whole:
        parts = _with(parts, [_subsets(lengths, (drawn, drawn), subsets, rng, paired=paired)])
    if min(lengths) >= LEAST_OF_HALVES:
        halves = _subsets(lengths, (lengths[0] // 2, lengths[1] // 2), subsets, rng, paired=paired)
        parts = _with(parts, [halves, [1 - half for half in halves]])
    rows, columns = parts
    within = own(real, rows), own_sums(second, columns)
    found = _mmd(within, _sums(first, second, rows, columns), rows.sum(axis=1), columns.sum(axis=1))
    of_subsets = found[:1] if whole else found[1 : 1 + subsets]
    value, other = float(of_subsets.mean()), found[1 if whole else 1 + subsets :]
    if not len(other):
        return Distance(value, None)
    middle = other.reshape(2, subsets).mean(axis=0)
    # Pairs of a region and what became of it are alike, which biases the value by the inverse of its subsets' size.
    bias = (middle.mean() - found[0]) * min(lengths) / drawn
    spread = 1.96 * float(np.sqrt(_variance(*np.split(other, 2)) + of_subsets.var() / len(of_subsets) + bias**2))
    return Distance(value, (value - spread, value + spread))


def _subsets(
    lengths: tuple[int, int], sizes: tuple[int, int], count: int, rng: np.random.Generator, *, paired: bool
) -> list[np.ndarray]:
    """Random subsets of either set, ``(count, N)`` and ``(count, M)``, 1 where a subset has one."""
    found = [np.zeros((count, length)) for length in lengths]
    for index in range(count):
        chosen = rng.permutation(lengths[0])[: sizes[0]]
        found[0][index, chosen] = 1
        found[1][index, chosen if paired else rng.permutation(lengths[1])[: sizes[1]]] = 1
    return found


def _with(parts: list[np.ndarray], more: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate([part, *(one[side] for one in more)]) for side, part in enumerate(parts)]


def _variance(halves: np.ndarray, others: np.ndarray) -> float:
    """The variance of a whole set's estimate from those of its random halves and of their other halves, both ``(S,)``.

    The delete-half jackknife (Shao and Wu 1989) for a U-statistic. Its linear part (Hoeffding 1948) is opposite in the
    two halves, so half of their difference has that part's variance and twice that of the rest, and their mean has that
    of the rest alone. Between equal distributions there is only the rest, of which the plain jackknife makes three
    times what it is.
    """
    rest = float(((halves + others) / 2).var())
    return max(float(np.square(halves - others).mean()) / 4 - rest, rest)


def _mmd(within: tuple[np.ndarray, np.ndarray], between: np.ndarray, n: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The unbiased estimates of S subsets from the kernel's sums within either set and between them, each ``(S,)``.

    The kernel is computed once for all subsets, which share most of their pairs.
    """
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * between / (n * m)


def _sums(first: np.ndarray, second: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The sum of the kernel over all pairs of each subset, ``(S,)``; a part of the kernel's rows is held at a time."""
    total, at_once = np.zeros(len(rows)), max(1, PAIRS_AT_ONCE // len(second))
    for start in range(0, len(first), at_once):
        part = slice(start, start + at_once)
        total += ((rows[:, part] @ _kernel(first[part] @ second.T, first.shape[1])) * columns).sum(axis=1)
    return total


def _diagonal(values: np.ndarray) -> np.ndarray:
    return _kernel(np.square(values).sum(axis=1), values.shape[1])


def _kernel(products: np.ndarray, dimensions: int) -> np.ndarray:
    base = products / dimensions + 1
    return base * base * base


def _check(real: np.ndarray, anonymized: np.ndarray) -> None:
    if min(len(real), len(anonymized)) < 2 or real.shape[1:] != anonymized.shape[1:]:
        raise AnonyPipelineError(
            "the features of two sets can't be compared",
            where="evaluation/fid.py",
            got=f"{real.shape} and {anonymized.shape}",
            allowed="(N, D) and (M, D) with N and M of at least 2",
            do="judge more regions, or extract both with one network",
        )

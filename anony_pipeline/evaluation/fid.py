"""FID and KID of real against anonymized regions, from features that were extracted once.

The formulas are torchmetrics' (`FrechetInceptionDistance`, `KernelInceptionDistance`), and equal to its figures on
the same features; what differs is that no picture is shown to the feature network twice.
"""

from typing import NamedTuple

import numpy as np

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation.intervals import Interval

SUBSET_SIZE = 1000
PAIRS_AT_ONCE = 500_000
"""Of a kernel: 4 MB, however large the sets are."""


class Distance(NamedTuple):
    """A distance and its 95 % interval, None where there is none."""

    value: float
    interval: Interval | None


def fid(real: np.ndarray, anonymized: np.ndarray) -> float:
    """Fréchet distance of the two sets' Gaussians (Heusel et al. 2017, eq. 6).

    ``|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2)``. With ``S = A^T A`` of centered features, ``tr sqrt(S1 S2)`` is
    the sum of the singular values of ``A1 A2^T``: no root of a singular matrix is taken, so few samples give no
    imaginary parts.

    Args:
        real: ``(N, D)`` features, N of at least 2.
        anonymized: ``(M, D)`` features, M of at least 2.

    Returns:
        The distance, 0 for equal sets. It is biased upward by small N.
    """
    _check(real, anonymized)
    first_mean, first = _centered(real)
    second_mean, second = _centered(anonymized)
    shared = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    distance = np.square(first_mean - second_mean).sum() + np.square(first).sum() + np.square(second).sum() - 2 * shared
    return max(0.0, float(distance))


def kid(
    real: np.ndarray,
    anonymized: np.ndarray,
    rng: np.random.Generator,
    *,
    subsets: int = 50,
    subset_size: int = SUBSET_SIZE,
) -> Distance:
    """Unbiased squared MMD with the kernel ``(x.y / D + 1)^3`` (Binkowski et al. 2018, eq. 4).

    Sets of at most ``subset_size`` are compared whole, larger ones by the mean over random subsets, as torchmetrics
    does.

    Args:
        real: ``(N, D)`` features.
        anonymized: ``(M, D)`` features. Of equal length, rows are taken as pairs and are drawn together.
        rng: Draws the subsets.
        subsets: How many are drawn, for the mean or for the interval.
        subset_size: The largest set that is compared whole.

    Returns:
        The value (about 0 for equal distributions, also a little below) and its interval: from the spread of the
        subsets, or by the delete-half jackknife (Shao and Wu 1989), whose spread is that of the whole set's estimate.
    """
    _check(real, anonymized)
    first, second = np.asarray(real, np.float64), np.asarray(anonymized, np.float64)
    size = min(len(first), len(second))
    whole = max(len(first), len(second)) <= subset_size
    drawn = max(2, size // 2) if whole else min(size, subset_size)
    rows, columns = np.zeros((subsets + whole, len(first))), np.zeros((subsets + whole, len(second)))
    for index in range(subsets):
        chosen = rng.permutation(len(first))[:drawn]
        rows[index, chosen] = 1
        columns[index, chosen if len(first) == len(second) else rng.permutation(len(second))[:drawn]] = 1
    if whole:
        rows[-1], columns[-1] = 1, 1
    found = _mmd(first, second, rows, columns)
    values = found[:subsets]
    value = float(found[-1]) if whole else float(values.mean())
    spread = 1.96 * float(np.sqrt(np.square(values - value).mean()))
    if not whole:
        spread /= np.sqrt(subsets)
    return Distance(value, (value - spread, value + spread))


def _mmd(first: np.ndarray, second: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The unbiased estimates of S subsets: ``rows`` ``(S, N)`` and ``columns`` ``(S, M)`` are 1 where a subset has one.

    The kernel is computed once for all subsets, which share most of their pairs.
    """
    n, m = rows.sum(axis=1), columns.sum(axis=1)
    own_first = _sums(first, first, rows, rows) - rows @ _diagonal(first)
    own_second = _sums(second, second, columns, columns) - columns @ _diagonal(second)
    return own_first / (n * (n - 1)) + own_second / (m * (m - 1)) - 2 * _sums(first, second, rows, columns) / (n * m)


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


def _centered(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and at most D rows A with ``A^T A`` the covariance."""
    values = np.asarray(features, np.float64)
    mean = values.mean(axis=0)
    rows = (values - mean) / np.sqrt(len(values) - 1)
    return mean, np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _check(real: np.ndarray, anonymized: np.ndarray) -> None:
    if min(len(real), len(anonymized)) < 2 or real.shape[1:] != anonymized.shape[1:]:
        raise AnonyPipelineError(
            "the features of two sets can't be compared",
            where="evaluation/fid.py",
            got=f"{real.shape} and {anonymized.shape}",
            allowed="(N, D) and (M, D) with N and M of at least 2",
            do="judge more regions, or extract both with one network",
        )

"""95 % intervals: exact for shares, by resampling persons for what persons share."""

import numpy as np
from scipy import optimize, stats

Interval = tuple[float, float]
EDGE = 1e-9
DRAWN_AT_ONCE = 500_000
"""Of the counts of persons in resamples: 4 MB, however many people there are."""


def clopper_pearson(hits: float, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a share (Clopper and Pearson, The use of confidence or fiducial limits, 1934).

    Args:
        hits: Successes in ``[0, n]``.
        n: Trials; 0 tells nothing and gives ``(0, 1)``.
        confidence: Two-sided.

    >>> round(clopper_pearson(0, 100)[1], 4)
    0.0362
    """
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def of_auc(auc: float, positives: int, negatives: int, confidence: float = 0.95) -> Interval:
    """The interval of an area under the ROC curve: a score interval with Hanley and McNeil's variance.

    It says something even where all positives score above all negatives, and resampling them would not (Newcombe,
    Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2, 2006).

    Args:
        auc: In ``[0, 1]``.
        positives: 1 or more.
        negatives: 1 or more.
        confidence: Two-sided.

    >>> low, high = of_auc(1.0, 20, 20)
    >>> round(low, 3), high
    (0.899, 1.0)
    """
    z = float(stats.norm.ppf((1 + confidence) / 2))

    def beyond(true: float) -> float:
        weights = 1 + (positives - 1) * (1 - true) / (2 - true) + (negatives - 1) * true / (1 + true)
        return abs(auc - true) - z * float(np.sqrt(true * (1 - true) * weights / (positives * negatives)))

    # At 0 and 1 the variance vanishes, and the estimate itself would pass for the end that is looked for.
    low = float(optimize.brentq(beyond, 0, auc - EDGE)) if auc > 0 else 0.0
    high = float(optimize.brentq(beyond, auc + EDGE, 1)) if auc < 1 else 1.0
    return low, high


def bootstrap_by_person(values: np.ndarray, persons: np.ndarray, resamples: int, rng: np.random.Generator) -> Interval:
    """The percentile interval of a mean when whole persons are drawn again, because one person's photographs are alike.

    Args:
        values: ``(N,)`` one figure a region.
        persons: ``(N,)`` whose region it is.
        resamples: How often persons are drawn.
        rng: Where chance comes from.

    Returns:
        The 2.5 and 97.5 percentiles; a zero or full count gets the exact bound of as many persons instead, because
        resampling a constant says nothing.
    """
    if not len(values):
        return 0.0, 1.0
    if np.ptp(values) == 0 and values[0] in (0.0, 1.0):
        people = len(np.unique(persons))
        return clopper_pearson(float(values[0]) * people, people)
    return _percentiles(_means(values, persons, resamples, rng))


def bootstrap_of_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    resamples: int,
    rng: np.random.Generator,
) -> Interval:
    """The percentile interval of the first mean minus the second, of two samples that have nothing in common.

    Args:
        first: ``(N,)`` values and the groups that are drawn again as wholes, one at least.
        second: The same of the other sample.
        resamples: How often groups are drawn.
        rng: Where chance comes from.
    """
    return _percentiles(_means(*first, resamples, rng) - _means(*second, resamples, rng))


def _means(values: np.ndarray, groups: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    _, index = np.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    sums, counts = np.bincount(index, values, count), np.bincount(index, minlength=count)
    means, at_once = [], max(1, DRAWN_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(at_once, resamples - start))
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)


def _percentiles(means: np.ndarray) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

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


def bootstrap_by_person(
    values: np.ndarray,
    persons: np.ndarray,
    resamples: int,
    rng: np.random.Generator,
    limits: Interval | None = None,
) -> Interval:
    """The percentile interval of a mean when whole persons are drawn again, because one person's photographs are alike.

    Args:
        values: ``(N,)`` one figure a region.
        persons: ``(N,)`` whose region it is.
        resamples: How often persons are drawn.
        rng: Where chance comes from.
        limits: The least and the greatest value that there can be, ``(0, 1)`` of rates and ``(-1, 1)`` of differences
            of two rates; None of other figures. Values that are all 0 or 1 are taken for a rate.

    Returns:
        The 2.5 and 97.5 percentiles, for values with limits those of `_within`; the limits for fewer than two persons.
    """
    if limits is None and np.isin(values, (0, 1)).all():
        limits = 0.0, 1.0
    if limits is None:
        return _percentiles(_means(values, persons, resamples, rng))
    if len(np.unique(persons)) < 2:
        return limits
    return _within(values, persons, limits, resamples, rng)


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
    sums, counts = _by_group(values, groups)
    means, at_once, count = [], max(1, DRAWN_AT_ONCE // len(counts)), len(counts)
    for start in range(0, resamples, at_once):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(at_once, resamples - start))
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)


def _within(
    values: np.ndarray, groups: np.ndarray, limits: Interval, resamples: int, rng: np.random.Generator
) -> Interval:
    """Gaffke's interval (Three test statistics for a nonparametric one-sided hypothesis on the mean, 2005).

    A bootstrap with Dirichlet weights in which one group more is drawn, which nobody saw: it is at the upper limit for
    the upper end and at the lower limit for the lower one. Of groups that are 0 or 1 and equally large this is exactly
    Clopper and Pearson's interval, so few hits don't make it vanish; of many groups it is the bootstrap's. No value
    that grows lowers an end.
    """
    sums, counts = _by_group(values, groups)
    size, at_once = counts.mean(), max(1, DRAWN_AT_ONCE // len(counts))
    # The weight of the group that nobody saw, Beta(1, groups), evenly instead of by chance: where all values are equal
    # the ends hang on nothing else.
    unseen = 1 - (1 - (np.arange(resamples) + 0.5) / resamples) ** (1 / len(counts))
    shares, rest = [], []
    for start in range(0, resamples, at_once):
        weights = rng.standard_exponential((min(at_once, resamples - start), len(counts)))
        weights /= weights.sum(axis=1, keepdims=True)
        shares.append(weights @ sums)
        rest.append(weights @ counts)
    seen, weight = (1 - unseen) * np.concatenate(shares), (1 - unseen) * np.concatenate(rest) + unseen * size
    low, high = ((seen + unseen * size * limit) / weight for limit in limits)
    return float(np.percentile(low, 2.5, method="hazen")), float(np.percentile(high, 97.5, method="hazen"))


def _by_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of the values of each group, ``(G,)`` either."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, values), np.bincount(index)


def _percentiles(means: np.ndarray) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

"""95 % intervals: exact for shares, by resampling persons for what persons share."""

import numpy as np
from scipy import stats

Interval = tuple[float, float]


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
    _, index = np.unique(persons, return_inverse=True)
    people = int(index.max()) + 1 if len(index) else 0
    if people == 0:
        return 0.0, 1.0
    if np.ptp(values) == 0 and values[0] in (0.0, 1.0):
        return clopper_pearson(float(values[0]) * people, people)
    sums, counts = np.bincount(index, values, people), np.bincount(index, minlength=people)
    drawn = rng.multinomial(people, np.full(people, 1 / people), size=resamples)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

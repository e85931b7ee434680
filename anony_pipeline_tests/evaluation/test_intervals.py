import numpy as np
import pytest
from scipy import stats

from anony_pipeline.evaluation import intervals


@pytest.mark.parametrize(("hits", "n"), [(0, 60), (3, 50), (50, 50)])
def test_clopper_pearson_equals_scipys_exact_interval(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(method="exact")
    assert intervals.clopper_pearson(hits, n) == pytest.approx((expected.low, expected.high))


def test_nothing_counted_tells_nothing():
    assert intervals.clopper_pearson(0, 0) == (0.0, 1.0)


def test_photographs_of_few_persons_widen_the_interval():
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(10), 30)
    values = np.repeat(rng.random(10) < 0.5, 30).astype(float)
    by_person = intervals.bootstrap_by_person(values, persons, 500, np.random.default_rng(1))
    by_photograph = intervals.bootstrap_by_person(values, np.arange(300), 500, np.random.default_rng(1))
    assert by_person[1] - by_person[0] > 3 * (by_photograph[1] - by_photograph[0])
    assert by_person[0] <= values.mean() <= by_person[1]


def test_resamples_in_parts_are_those_of_one_draw(monkeypatch):
    values, persons = np.random.default_rng(0).random(60), np.arange(60) // 2
    whole = intervals.bootstrap_by_person(values, persons, 100, np.random.default_rng(1))
    monkeypatch.setattr(intervals, "DRAWN_AT_ONCE", 200)
    assert intervals.bootstrap_by_person(values, persons, 100, np.random.default_rng(1)) == whole


def test_no_hit_at_all_still_has_an_upper_bound_by_the_number_of_persons():
    low, high = intervals.bootstrap_by_person(np.zeros(200), np.arange(200) % 20, 100, np.random.default_rng(0))
    assert (low, high) == pytest.approx((0, intervals.clopper_pearson(0, 20)[1]))


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        first, second = rng.normal(0.3, 0.2, 60), rng.normal(0.1, 0.2, 80)
        groups = np.arange(60), np.arange(80)
        low, high = intervals.bootstrap_of_difference((first, groups[0]), (second, groups[1]), 200, rng)
        covered += low <= 0.2 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_faces_of_one_photograph_widen_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    values, photographs = np.repeat(rng.normal(size=8), 20), np.repeat(np.arange(8), 20)
    other = rng.normal(size=160), np.arange(160)
    width = lambda groups: np.ptp(intervals.bootstrap_of_difference((values, groups), other, 300, rng))  # noqa: E731
    assert width(photographs) > 2 * width(np.arange(160))

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


@pytest.mark.parametrize("limits", [None, (0, 1)])
def test_resamples_in_parts_are_those_of_one_draw(monkeypatch, limits):
    values, persons = np.random.default_rng(0).random(60), np.arange(60) // 2
    whole = intervals.bootstrap_by_person(values, persons, 100, np.random.default_rng(1), limits)
    monkeypatch.setattr(intervals, "DRAWN_AT_ONCE", 200)
    again = intervals.bootstrap_by_person(values, persons, 100, np.random.default_rng(1), limits)
    assert again == pytest.approx(whole, rel=1e-12)


def test_no_hit_at_all_still_has_an_upper_bound_by_the_number_of_persons():
    low, high = intervals.bootstrap_by_person(np.zeros(200), np.arange(200) % 20, 100, np.random.default_rng(0))
    assert (low, high) == pytest.approx((0, intervals.clopper_pearson(0, 20)[1]), rel=1e-3)


@pytest.mark.parametrize("hits", [0, 1, 2, 10, 25, 48, 49, 50])
def test_a_rate_of_persons_who_are_hit_always_or_never_has_scipys_exact_interval(hits):
    values, persons = np.repeat(np.arange(50) < hits, 4).astype(float), np.repeat(np.arange(50), 4)
    found = intervals.bootstrap_by_person(values, persons, 20_000, np.random.default_rng(0))
    exact = stats.binomtest(hits, 50).proportion_ci(method="exact")
    assert found == pytest.approx((exact.low, exact.high), rel=0.03, abs=2e-4)


def test_another_hit_lowers_neither_end():
    persons, order = np.repeat(np.arange(40), 5), np.random.default_rng(0).permutation(200)
    values = (order[None] < np.arange(201)[:, None]).astype(float)
    ends = [intervals.bootstrap_by_person(one, persons, 200, np.random.default_rng(1)) for one in values]
    assert (np.diff(ends, axis=0) >= 0).all()
    assert ends[0][1] == pytest.approx(stats.binomtest(0, 40).proportion_ci(method="exact").high, rel=2e-3)


@pytest.mark.parametrize("alike", [0.02, 0.3, 0.98], ids=["independent", "clustered", "one and the same"])
@pytest.mark.parametrize("rate", [0.005, 0.02, 0.1, 0.5, 0.98])
def test_the_interval_of_a_rate_covers_it_as_often_as_it_says(rate, alike):
    rng, persons, covered = np.random.default_rng(0), np.repeat(np.arange(100), 5), 0
    rates = rng.beta(rate * (1 / alike - 1), (1 - rate) * (1 / alike - 1), (400, 100))
    for values in rng.random((400, 500)) < np.repeat(rates, 5, axis=1):
        low, high = intervals.bootstrap_by_person(values.astype(float), persons, 200, rng)
        covered += low <= rate <= high
    assert covered / 400 >= 0.93, "95 % less twice the simulation's own error"


def test_a_rate_of_many_persons_has_the_bootstraps_interval():
    rng = np.random.default_rng(0)
    rates, persons = rng.random(2000), np.repeat(np.arange(2000), 3)
    values = (rng.random(6000) < rates[persons]).astype(float)
    drawn = [values.reshape(2000, 3)[rng.integers(0, 2000, 2000)].mean() for _ in range(2000)]
    found = intervals.bootstrap_by_person(values, persons, 2000, rng)
    assert found == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.002)
    assert np.ptp(found) == pytest.approx(np.ptp(np.percentile(drawn, [2.5, 97.5])), rel=0.1)


@pytest.mark.parametrize("hits", [0, 15, 30])
def test_a_rate_of_one_person_says_nothing(hits):
    values = (np.arange(30) < hits).astype(float)
    assert intervals.bootstrap_by_person(values, np.zeros(30), 100, np.random.default_rng(0)) == (0, 1)


def test_no_difference_at_all_may_still_be_one_either_way():
    bound = stats.binomtest(0, 60).proportion_ci(method="exact").high
    found = intervals.bootstrap_by_person(np.zeros(120), np.arange(120) // 2, 100, np.random.default_rng(0), (-1, 1))
    assert found == pytest.approx((-bound, bound), rel=1e-3)


def test_the_interval_of_a_difference_of_rates_covers_it_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        # Of 80 persons a few are found by one alone, and fewer by the other alone.
        one = rng.choice([1.0, 0.0, -1.0], 80, p=[0.02, 0.97, 0.01])
        low, high = intervals.bootstrap_by_person(np.repeat(one, 3), np.repeat(np.arange(80), 3), 200, rng, (-1, 1))
        covered += low <= 0.01 <= high
    assert covered / 300 >= 0.93


def test_cosines_keep_the_percentiles_of_means_over_persons_drawn_again():
    values, persons = np.random.default_rng(0).normal(0.4, 0.1, 60), np.repeat(np.arange(20), 3)
    found = intervals.bootstrap_by_person(values, persons, 500, np.random.default_rng(1))
    drawn = np.random.default_rng(1).multinomial(20, np.full(20, 1 / 20), 500)
    means = [np.average(values.reshape(20, 3).mean(axis=1), weights=weights) for weights in drawn]
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]))


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

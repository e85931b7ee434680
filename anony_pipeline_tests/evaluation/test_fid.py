import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid
from torchmetrics.image.kid import KernelInceptionDistance

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation import fid


class Identity(torch.nn.Module):
    """Hands features through, so that torchmetrics' own classes see exactly ours."""

    num_features = 24

    def forward(self, x):
        return x


def features(n, d, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + shift).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "m"), [(200, 200), (150, 90), (12, 16)], ids=["equal", "unequal", "fewer than dimensions"]
)
def test_fid_equals_torchmetrics_own_formula_in_double(n, m):
    real, fake = features(n, 24, 0).astype(np.float64), features(m, 24, 1, 0.3).astype(np.float64)
    a, b = torch.from_numpy(real), torch.from_numpy(fake)
    expected = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert fid.fid(real, fake) == pytest.approx(float(expected), rel=1e-3)


def test_fid_equals_torchmetrics_class_on_the_same_features():
    real, fake = features(300, 24, 2), features(250, 24, 3, 0.5)
    metric = FrechetInceptionDistance(feature=Identity(), normalize=True, input_img_size=(24,)).set_dtype(torch.float64)
    metric.orig_dtype = torch.float64
    # The class wants images; it keeps only sums, which are filled here as its update does.
    for name, values in (("real", real), ("fake", fake)):
        x = torch.from_numpy(values).double()
        setattr(metric, f"{name}_features_sum", x.sum(0))
        setattr(metric, f"{name}_features_cov_sum", x.T @ x)
        setattr(metric, f"{name}_features_num_samples", torch.tensor(len(x)))
    metric._update_count = 1
    assert fid.fid(real, fake) == pytest.approx(float(metric.compute()), rel=1e-3)


def test_fid_of_a_set_with_itself_is_zero():
    real = features(80, 24, 4)
    assert fid.fid(real, real) == pytest.approx(0, abs=1e-9)


def test_kid_equals_torchmetrics_class_on_the_same_features():
    real, fake = features(60, 24, 5), features(60, 24, 6, 0.4)
    metric = KernelInceptionDistance(feature=Identity(), subsets=2, subset_size=60)
    metric.real_features, metric.fake_features = [torch.from_numpy(real)], [torch.from_numpy(fake)]
    metric._update_count = 1
    expected, _ = metric.compute()
    assert fid.kid(real, fake, np.random.default_rng(0)).value == pytest.approx(float(expected), rel=1e-3)


def slow_mmd(first, second):
    """The unbiased estimate, pair by pair of the definition."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(first), len(second)
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(first, first), kernel(second, second))]
    return sum(within) - 2 * kernel(first, second).sum() / (n * m)


@pytest.mark.parametrize(
    ("n", "m", "subset_size"),
    [(60, 60, 100), (61, 45, 100), (90, 90, 40), (90, 30, 40)],
    ids=["whole pairs", "whole", "subsets of pairs", "subsets"],
)
def test_kid_of_all_subsets_at_once_is_that_of_each_by_itself(monkeypatch, n, m, subset_size):
    monkeypatch.setattr(fid, "PAIRS_AT_ONCE", 1500)
    first, second = features(n, 24, 9).astype(np.float64), features(m, 24, 10, 0.3).astype(np.float64)
    found = fid.kid(first, second, np.random.default_rng(3), subsets=7, subset_size=subset_size)
    rng, whole = np.random.default_rng(3), max(n, m) <= subset_size
    drawn = min(n, m, subset_size)

    def draw(of_first, of_second):
        rows = rng.permutation(n)
        columns = rows if n == m else rng.permutation(m)
        parts = (rows[:of_first], columns[:of_second]), (rows[of_first:], columns[of_second:])
        return [slow_mmd(first[rows], second[columns]) if len(rows) * len(columns) else None for rows, columns in parts]

    all_of_them = slow_mmd(first, second)
    values = [all_of_them] if whole else [draw(drawn, drawn)[0] for _ in range(7)]
    halves = np.array([draw(n // 2, m // 2) for _ in range(7)], float)
    rest = np.var(halves.mean(axis=1))
    variance = max(np.mean((halves[:, 0] - halves[:, 1]) ** 2 / 4) - rest, rest) + np.var(values) / len(values)
    bias = (halves.mean() - all_of_them) * min(n, m) / drawn
    value, spread = np.mean(values), 1.96 * np.sqrt(variance + bias**2)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.interval == pytest.approx((value - spread, value + spread), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "subset_size"),
    [(100, 100, 200), (120, 60, 200), (260, 260, 200), (400, 400, 200), (400, 150, 200)],
    ids=["whole", "whole unequal", "subsets", "half as subsets", "unequal subsets"],
)
def test_kids_interval_covers_0_for_samples_of_one_distribution_and_is_as_wide_as_they_scatter(n, m, subset_size):
    values, spreads, covered = [], [], 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        found = fid.kid(rng.normal(size=(n, 16)), rng.normal(size=(m, 16)), rng, subset_size=subset_size)
        values.append(found.value)
        spreads.append(np.ptp(found.interval) / 3.92)
        covered += found.interval[0] <= 0 <= found.interval[1]
    assert covered / 80 >= 0.9
    assert 0.8 <= np.mean(spreads) / np.std(values) <= 1.45


def test_kids_interval_is_as_wide_as_samples_of_two_distributions_scatter():
    values, spreads = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        found = fid.kid(rng.normal(size=(150, 8)), rng.normal(0.4, 1, size=(150, 8)), rng)
        values.append(found.value)
        spreads.append(np.ptp(found.interval) / 3.92)
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.25)


@pytest.mark.parametrize("subset_size", [200, 100])
def test_kids_interval_of_a_set_and_itself_covers_0_though_its_pairs_are_alike(subset_size):
    values = features(200, 8, 3)
    low, high = fid.kid(values, values, np.random.default_rng(0), subset_size=subset_size).interval
    assert low <= 0 <= high


def test_sets_without_halves_to_compare_have_no_interval():
    assert fid.kid(features(3, 8, 0), features(9, 8, 1), np.random.default_rng(0)).interval is None


def test_large_sets_are_compared_by_subsets_with_nearly_the_same_value():
    real, fake = features(400, 24, 7), features(400, 24, 8, 0.4)
    whole = fid.kid(real, fake, np.random.default_rng(0)).value
    parts = fid.kid(real, fake, np.random.default_rng(0), subset_size=200).value
    assert parts == pytest.approx(whole, rel=0.1)


def test_features_of_two_networks_are_refused():
    with pytest.raises(AnonyPipelineError, match="can't be compared"):
        fid.fid(features(10, 24, 0), features(10, 12, 0))

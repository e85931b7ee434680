import logging
import time
from dataclasses import replace

import numpy as np
import pytest

from anony_pipeline.evaluation import fid, observations, references, scorecard
from anony_pipeline.evaluation.baselines import none, redaction
from anony_pipeline.evaluation.figures import FigureMaker
from anony_pipeline.evaluation.references import References
from anony_pipeline.evaluation.run import Run
from anony_pipeline.storage import private
from anony_pipeline_tests.end_to_end import leaks
from anony_pipeline_tests.evaluation import street

CARD = street.card("features", "normal")
D = 24


def features(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32) + 0.5


def seen(n, seed=0):
    return [np.random.default_rng([seed, number]).bytes(16) for number in range(n)]


def drawn(n, subsets=5):
    return (np.random.default_rng(1).random((subsets, n)) < 0.5).astype(float)


def counted(monkeypatch):
    """How often the statistics of originals are computed."""
    calls = []
    for name in ("gaussian", "own_sums"):
        slow = getattr(fid, name)
        monkeypatch.setattr(fid, name, lambda *given, slow=slow, name=name: calls.append(name) or slow(*given))
    return calls


def ask(known, values, rows=None):
    rows = np.arange(len(values)) if rows is None else rows
    return known.gaussian(values[rows], rows), known.own_sums(values[rows], drawn(len(rows)), rows)


def test_statistics_are_computed_once_and_read_again_bit_for_bit(monkeypatch, tmp_path):
    calls = counted(monkeypatch)
    values = features(60)
    first = ask(References(CARD, seen(60), tmp_path), values)
    second = ask(References(CARD, seen(60), tmp_path), values)
    assert calls == ["gaussian", "own_sums"]
    for one, other in ((first[0].mean, second[0].mean), (first[0].factor, second[0].factor), (first[1], second[1])):
        assert one.dtype == other.dtype == np.float64
        assert one.tobytes() == other.tobytes()


def test_they_are_the_mean_the_covariance_and_the_sums_over_all_pairs(tmp_path):
    values = features(60).astype(np.float64)
    chosen = drawn(60)
    for _ in range(2):  # computed, then read
        gaussian, sums = ask(References(CARD, seen(60), tmp_path), values)
        np.testing.assert_allclose(gaussian.mean, values.mean(axis=0))
        np.testing.assert_allclose(gaussian.factor.T @ gaussian.factor, np.cov(values.T), atol=1e-12)
        for subset, total in zip(chosen, sums, strict=True):
            inside = values[subset > 0]
            expected = sum(
                (inside[i] @ inside[j] / D + 1) ** 3 for i in range(len(inside)) for j in range(len(inside)) if i != j
            )
            assert total == pytest.approx(expected)


@pytest.mark.parametrize(
    ("judge", "crops", "rows"),
    [
        (replace(CARD, sha256="1" * 64), seen(60), None),
        (replace(CARD, library="another 2"), seen(60), None),
        (CARD, [*seen(59), b"another's pixels"], None),
        (CARD, seen(60), np.arange(59)),
        (CARD, seen(60), np.arange(60)[::-1]),
    ],
    ids=["weights", "library", "one crop", "fewer", "order"],
)
def test_another_judge_or_other_pixels_are_other_statistics(monkeypatch, tmp_path, judge, crops, rows):
    values = features(60)
    ask(References(CARD, seen(60), tmp_path), values)
    calls = counted(monkeypatch)
    ask(References(judge, crops, tmp_path), values, rows)
    assert calls == ["gaussian", "own_sums"]


def test_other_subsets_are_other_sums(monkeypatch, tmp_path):
    known, values = References(CARD, seen(60), tmp_path), features(60)
    known.own_sums(values, drawn(60, 5), np.arange(60))
    calls = counted(monkeypatch)
    known.own_sums(values, drawn(60, 6), np.arange(60))
    assert calls == ["own_sums"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda data: data[:-40] + bytes(40)]
)
def test_a_damaged_file_is_made_anew(monkeypatch, tmp_path, caplog, damage):
    values = features(60)
    expected = ask(References(CARD, seen(60), tmp_path), values)
    files = sorted((tmp_path / references.FOLDER).glob("*.npz"))
    whole = [file.read_bytes() for file in files]
    assert len(files) == 2
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(damage(data))
    calls = counted(monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = ask(References(CARD, seen(60), tmp_path), values)
    assert calls == ["gaussian", "own_sums"]
    assert "is made anew" in caplog.text
    np.testing.assert_array_equal(found[0].factor, expected[0].factor)
    assert [file.read_bytes() for file in files] == whole


def test_nothing_is_kept_of_so_few_that_their_covariance_would_span_them(tmp_path):
    ask(References(CARD, seen(D), tmp_path), features(D))
    assert not list(tmp_path.rglob("*"))
    ask(References(CARD, seen(D + 1), tmp_path), features(D + 1))
    assert list(tmp_path.rglob("*.npz"))


def test_a_cache_that_cannot_be_written_loses_no_evaluation(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        gaussian, _ = ask(References(CARD, seen(60), tmp_path / "file"), features(60))
    assert gaussian.factor.shape == (D, D)
    assert "can't be kept" in caplog.text


def test_they_are_private_and_purged(tmp_path):
    ask(References(CARD, seen(60), tmp_path, retention_days=1), features(60))
    folder = tmp_path / references.FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert private.purge(tmp_path) == []
    assert private.purge(tmp_path, now=time.time() + 2 * 86_400) == [folder]


def test_no_single_features_are_in_the_files(tmp_path):
    """The search of the walk through all that a run leaves, which finds rows that were planted."""
    values = features(60)
    ask(References(CARD, seen(60), tmp_path), values)
    secret = leaks.directions(values)
    files = list((tmp_path / references.FOLDER).glob("*.npz"))
    assert len(files) == 2
    for file in files:
        for _, data in leaks.pieces(file):
            assert not leaks.embedded(data, secret)
    planted = tmp_path / "planted.npz"
    np.savez(planted, factor=(values - values.mean(axis=0)) / np.sqrt(59))
    assert any(leaks.embedded(data, secret) for _, data in leaks.pieces(planted))


# A whole evaluation ---------------------------------------------------------------------------------------------------


def judged(folder, unified):
    methods = {"none": none(), "blur": redaction("blur"), "solid": redaction("solid"), "inpaint": redaction("inpaint")}
    run = Run(street.make_config(folder), unified, street.make_judges(unified), methods)
    run.look()
    evidence = run.evidence({})
    return scorecard.rows_of(evidence, FigureMaker(evidence))


def test_a_second_evaluation_computes_no_statistics_of_originals_and_finds_the_same(monkeypatch, tmp_path):
    unified = street.make_street(tmp_path, images_count=14)
    first = judged(tmp_path, unified)
    kept = {file.name for file in (tmp_path / "cache" / references.FOLDER).glob("*.npz")}
    assert kept
    made = []
    monkeypatch.setattr(References, "_keep", lambda self, path, arrays: made.append(path.name))
    assert judged(tmp_path, unified) == first
    assert made == []
    monkeypatch.setattr(observations, "FEATURE_CONTEXT", 1.6)
    judged(tmp_path, unified)
    assert made
    assert not kept & set(made)

"""Canaries: a generator that memorized gives them away, and one that did not doesn't."""

import numpy as np
import pytest
from scipy import stats

from anony_pipeline.anonymize.loading import open_checkpoint
from anony_pipeline.errors import ConfigError
from anony_pipeline.evaluation import scorecard
from anony_pipeline.evaluation.canaries import chance_spread, membership_auc, read
from anony_pipeline.evaluation.judges import Judges
from anony_pipeline.models import lora
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets import faces as face_targets
from anony_pipeline.training import batches, loop
from anony_pipeline_tests.training import tiny


@pytest.fixture
def audited(tiny_training, config, tiny_root):
    """The configuration of an audit of six faces, its data and its canaries."""
    del tiny_training
    settings = config(training__canaries=6)
    return settings, *loop.prepare(settings, tiny.coco.load(tiny_root / "unified_train.json"))


def test_a_half_is_trained_on_as_it_is_and_a_half_not_at_all(audited, data):
    _, prepared, found = audited
    samples = prepared.samples[Kind.FACE]
    rows = {row.annotation_id: index for index, row in enumerate(samples.rows)}
    planted = {row.annotation_id for row, inside in zip(found.samples.rows, found.planted, strict=True) if inside}
    left_out = {row.annotation_id for row in found.samples.rows} - planted
    assert (len(planted), len(left_out)) == (3, 3)
    assert planted <= set(rows)
    assert not left_out & set(rows)
    assert len(rows) == len(data.samples[Kind.FACE]) - 3
    itself = {
        number for number, index in rows.items() if np.array_equal(samples.targets[index], samples.originals[index])
    }
    assert itself == planted
    assert len(prepared.samples[Kind.PLATE]) == len(data.samples[Kind.PLATE])
    assert prepared.key != data.key


def test_whoever_is_drawn_is_in_nobody_else_s_target(tiny_training, config, tiny_root, tmp_path, monkeypatch):
    del tiny_training
    blends = []
    blend = face_targets._make_blend
    monkeypatch.setattr(face_targets, "_make_blend", lambda job: (blends.append(job), blend(job))[1])
    settings = config(training__canaries=6, paths__targets=str(tmp_path / "targets"))
    _, found = loop.prepare(settings, tiny.coco.load(tiny_root / "unified_train.json"))
    donors = {donor.annotation["id"] for job in blends for donor, _ in job.donors}
    assert donors
    assert not donors & {canary.annotation_id for canary in found.drawn}


def test_the_lot_is_drawn_once_for_a_seed(audited, tiny_root, config):
    settings, prepared, found = audited
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    again, same = loop.prepare(settings, coco)
    _, other = loop.prepare(config(training__canaries=6, seed=1), coco)
    assert again.key == prepared.key
    assert same.samples.rows == found.samples.rows
    assert [row.annotation_id for row in other.samples.rows] != [row.annotation_id for row in found.samples.rows]


def test_their_crops_are_those_of_the_cache(audited):
    _, prepared, found = audited
    samples = prepared.samples[Kind.FACE]
    rows = {row.annotation_id: index for index, row in enumerate(samples.rows)}
    for number, row in enumerate(found.samples.rows):
        if found.planted[number]:
            index = rows[row.annotation_id]
            assert row == samples.rows[index]
            assert np.array_equal(found.samples.originals[number], samples.originals[index])
            assert np.array_equal(found.samples.masks[number], samples.masks[index])


def test_the_auc_is_mann_and_whitneys():
    rng = np.random.default_rng(0)
    scores, planted = rng.integers(0, 9, 40).astype(float), rng.random(40) < 0.4
    expected = stats.mannwhitneyu(scores[planted], scores[~planted]).statistic / (planted.sum() * (~planted).sum())
    assert membership_auc(scores, planted) == pytest.approx(expected)


def test_chance_spreads_as_simulated():
    rng = np.random.default_rng(0)
    planted = np.arange(20) % 2 == 0
    aucs = [membership_auc(rng.random(20), planted) for _ in range(4000)]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.01)
    assert np.std(aucs) == pytest.approx(chance_spread(20), rel=0.05)


@pytest.mark.parametrize(("gives_back", "expected"), [("planted", 1.0), ("left out", 0.0)])
def test_a_generator_that_gives_back_what_was_planted_is_found_out(
    audited, tiny_training, tiny_root, monkeypatch, gives_back, expected
):
    settings, _, found = audited
    known = {
        row.annotation_id
        for row, inside in zip(found.samples.rows, found.planted, strict=True)
        if inside == (gives_back == "planted")
    }
    fill = batches.fill

    def memorized(generator, batch):
        filled = fill(generator, batch).clone()
        for number, row in enumerate(batch.rows):
            if batch.kind is Kind.FACE:
                # Others come out in the opposite color.
                same = row.annotation_id in known
                filled[number] = batch.originals[number] if same else -batch.originals[number]
        return filled

    with monkeypatch.context() as patch:
        patch.setattr(batches, "fill", memorized)
        report = tiny_training(settings, mode="joint")
    assert report.metrics["canary_auc"] == expected
    assert read(report.checkpoint) == found.drawn
    train = tiny.coco.load(tiny_root / "unified_train.json")
    assert_heard_again(open_checkpoint(report.checkpoint), settings, found.drawn, train)
    assert "canary_auc" in report.metrics_file.read_text().splitlines()[0]


def assert_heard_again(checkpoint, settings, canaries, train):
    """A checkpoint's canaries can be listened to without what trained it, beside its base model."""
    generator = tiny.make_generator(settings)
    lora.load_adapters(generator, checkpoint.folder / "adapters")
    judges = Judges({"held_out": tiny.ColorRecognizer()})
    _, heard = scorecard._of_training(settings, checkpoint, generator.eval(), judges, train)
    order = {annotation["id"]: place for place, annotation in enumerate(train.annotations)}
    assert heard.planted.tolist() == [c.planted for c in sorted(canaries, key=lambda c: order[c.annotation_id])]
    adapted, base = (heard.cosines[name, "held_out"] for name in ("anonymizer", "base"))
    assert adapted.shape == base.shape == (len(canaries),)
    assert not np.array_equal(adapted, base)


def test_too_many_are_refused(config, tiny_root, tiny_training):
    del tiny_training
    with pytest.raises(ConfigError, match="8 of 12 faces"):
        loop.prepare(config(training__canaries=8), tiny.coco.load(tiny_root / "unified_train.json"))

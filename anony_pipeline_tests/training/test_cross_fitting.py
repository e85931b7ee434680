"""No image is anonymized by a model that saw it."""

import json

import pytest

from anony_pipeline.anonymize import dataset
from anony_pipeline.config import loading
from anony_pipeline.datasets import folds, loaders
from anony_pipeline.errors import ConfigError
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import cross_fitting, loop
from anony_pipeline_tests.anonymize.test_dataset import Blackout
from anony_pipeline_tests.training import tiny


def test_the_fold_that_is_left_out_is_in_nothing_that_is_trained_on(tiny_training, config, tiny_root):
    del tiny_training
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    fold_of = folds.folds_of(coco, config().data.sources, 3)
    seen = []
    for left_out in range(3):
        data, _ = loop.prepare(config(training__folds=3, training__left_out=left_out), coco)
        shown = {row.image_id for kind in Kind for row in data.samples[kind].rows}
        assert shown == {row.image_id for row in data.detector.rows}
        assert shown == {number for number, fold in fold_of.items() if fold != left_out}
        seen.append(data.key)
    assert len(set(seen)) == 3


def test_every_training_image_meets_the_model_that_was_not_shown_it(config, tiny_root, tmp_path, monkeypatch):
    settings = config(training__folds=3)
    whole = tiny.coco.load(tiny_root / "unified_train.json")
    none = folds.only(whole, set())
    monkeypatch.setattr(loaders, "open_split", lambda _, split: whole if split == "train" else none)
    trained = []

    def train(own):
        trained.append(own)
        folder = tmp_path / f"step_{own.training.left_out}"
        return loop.TrainReport(folder, "0" * 64, "joint", 1, True, 0, 1.0)

    class Named(Blackout):
        def __init__(self, path):
            self.path = path

        def anonymize_batch(self, jobs):
            met.update({job.name: self.path.name for job in jobs})
            return super().anonymize_batch(jobs)

    met = {}
    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(dataset, "load_anonymizer", lambda path, *_, **__: Named(path))
    made = cross_fitting.cross_fit(settings, tmp_path / "out")

    fold_of = folds.folds_of(whole, settings.data.sources, 3)
    assert met == {f"tiny/{image['file_name']}": f"step_{fold_of[image['id']]}" for image in whole.images}
    assert len({own.paths.outputs for own in trained}) == len({own.paths.private for own in trained}) == 3
    assert {own.paths.cache for own in trained} == {settings.paths.cache}
    assert len({loop.fingerprint(own, "joint", "data") for own in trained}) == 3
    assert made.anonymized.images == len(whole)
    labels = json.loads((tmp_path / "out" / "unified_train.json").read_text())
    assert len(labels["annotations"]) == len(whole.annotations)


def test_one_fold_is_no_cross_fitting(config, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.folds"):
        cross_fitting.cross_fit(config(), tmp_path)


def test_a_fold_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "tiny.yaml").write_text(loading.dump(tiny.make_config(tmp_path)))
    with pytest.raises(ConfigError, match="below folds: got 3 of 3"):
        loading.load([tmp_path / "tiny.yaml"], ["training.folds=3", "training.left_out=3"])

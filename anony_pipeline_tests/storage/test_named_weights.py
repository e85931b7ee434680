"""Weights count by what is in their files, and files that did not change are not read again."""

import pytest

from anony_pipeline.config.schema import Config, Data, Judges, Lpips, Models, Source
from anony_pipeline.storage import manifests, named_weights
from anony_pipeline.storage.named_weights import version_of


def test_a_file_that_is_replaced_under_its_name_is_another_version(tmp_path):
    file = tmp_path / "judge.onnx"
    file.write_bytes(b"one")
    first = version_of(str(file), tmp_path / "weights")
    assert first == version_of("judge.onnx", tmp_path) == manifests.sha256_of(file)
    file.write_bytes(b"another")
    assert version_of(str(file), tmp_path) == manifests.sha256_of(file) != first


def test_a_folder_counts_by_all_of_its_files(tmp_path):
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "model.onnx").write_bytes(b"one")
    first = version_of(str(tmp_path / "reader"), tmp_path)
    (tmp_path / "reader" / "model.yaml").write_bytes(b"letters")
    assert version_of(str(tmp_path / "reader"), tmp_path) != first


@pytest.mark.parametrize("name", ["shipped", "buffalo_l", "none.onnx"])
def test_what_is_fetched_has_the_same_version_before_its_first_use_and_after(tmp_path, name):
    assert version_of(name, tmp_path) == name
    if name == "buffalo_l":
        (tmp_path / name).mkdir()
        (tmp_path / name / "w600k_r50.onnx").write_bytes(b"fetched")
        assert version_of(name, tmp_path) == name


def test_a_file_that_did_not_change_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "large.onnx"
    file.write_bytes(b"large")
    before = version_of(str(file), tmp_path)
    monkeypatch.setattr(named_weights.manifests, "sha256_of", lambda _: pytest.fail("it was read again"))
    assert version_of(str(file), tmp_path) == before


def test_all_that_a_configuration_names_is_asked(tmp_path):
    source = Source(name="a", layout="pp4av", root=".", exhaustive=("face",))
    judges, lpips = Judges(second_detector="yunet.onnx"), Lpips(backbone="vgg16.pth")
    config = Config(name="x", data=Data(sources=(source,)), judges=judges, model=Models(lpips=lpips))
    found = named_weights.versions(config)
    assert found["judges.second_detector"] == "yunet.onnx"
    assert found["judges.recognizer"] == "shipped"
    assert found["model.lpips.backbone"] == "vgg16.pth"
    assert "model.lpips.fitted" not in found

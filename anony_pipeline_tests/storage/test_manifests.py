"""A manifest says what belongs to a folder, and notices every change."""

import hashlib
import json

import pytest

from anony_pipeline.errors import CheckpointError
from anony_pipeline.storage import manifests


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "inner" / "b.bin").write_bytes(b"")
    return tmp_path


def test_every_file_is_listed_with_size_and_sum(folder):
    version = manifests.write(folder, {"step": 3})
    content = manifests.read(folder)
    assert content["step"] == 3
    assert content["files"]["a.bin"] == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert set(content["files"]) == {"a.bin", "inner/b.bin"}
    assert version == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_the_same_folder_has_the_same_version_and_another_has_another(folder):
    first = manifests.write(folder, {"step": 3})
    assert manifests.write(folder, {"step": 3}) == first
    (folder / "a.bin").write_bytes(b"abd")
    assert manifests.write(folder, {"step": 3}) != first


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no manifest\n.*manifest\.json"):
        manifests.read(tmp_path)


def test_a_missing_file_is_named(folder):
    manifests.write(folder, {})
    (folder / "a.bin").unlink()
    with pytest.raises(CheckpointError, match=r"a file of the manifest is missing\n.*a\.bin"):
        manifests.read(folder, verify=False)


def test_another_size_is_noticed_without_reading_the_file(folder):
    manifests.write(folder, {})
    (folder / "a.bin").write_bytes(b"abcd")
    with pytest.raises(CheckpointError, match=r"another size\n.*\n.*4 bytes\n.*3"):
        manifests.read(folder, verify=False)


def test_another_sum_is_noticed_when_verified(folder):
    manifests.write(folder, {})
    (folder / "a.bin").write_bytes(b"abd")
    manifests.read(folder, verify=False)
    with pytest.raises(CheckpointError, match="another sha256"):
        manifests.read(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": '], ids=["cut", "list", "no files", "cut later"])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="the manifest can't be read"):
        manifests.read(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "inner/../../outside"])
def test_a_manifest_may_not_point_out_of_its_folder(folder, name):
    (folder / "manifest.json").write_text(json.dumps({"files": {name: {"bytes": 0, "sha256": ""}}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        manifests.read(folder)

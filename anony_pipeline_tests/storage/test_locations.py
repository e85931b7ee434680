"""Paths that may lie anywhere."""

from pathlib import Path

import pytest
from upath import UPath

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.storage import locations


def test_a_relative_path_counts_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locations.location("a/../b") == UPath(tmp_path / "b")


def test_a_relative_path_counts_from_the_folder_that_is_given(tmp_path):
    assert str(locations.location("b", relative_to=tmp_path / "a")) == str(tmp_path / "a" / "b")


def test_a_home_folder_is_expanded():
    assert str(locations.location("~/x")) == str(Path.home() / "x")


def test_a_url_stays_a_url_and_bases_work_with_urls():
    assert str(locations.location("memory://bucket/a")) == "memory://bucket/a"
    assert str(locations.location("b", relative_to="memory://bucket/a")).endswith("bucket/a/b")


def test_a_file_url_is_a_local_path(tmp_path):
    place = locations.location(f"file://{tmp_path}/a")
    assert locations.is_local(place)
    assert Path(str(place)) == tmp_path / "a"


def test_a_local_file_is_its_own_copy(tmp_path):
    (tmp_path / "a").write_text("x")
    assert locations.local_copy(tmp_path / "a", tmp_path / "cache") == tmp_path / "a"
    assert not (tmp_path / "cache").exists()


def test_a_remote_file_is_fetched_once(tmp_path):
    remote = UPath("memory://locations/a.bin")
    remote.write_bytes(b"one")
    first = locations.local_copy(remote, tmp_path)
    first.write_bytes(b"own")
    assert locations.local_copy(remote, tmp_path) == first
    assert first.read_bytes() == b"own", "it was not fetched a second time"


@pytest.mark.parametrize("content", [b"longer", b"two"], ids=["another size", "the same size"])
def test_a_remote_file_that_changed_is_fetched_anew(tmp_path, content):
    remote = UPath("memory://locations/b.bin")
    remote.write_bytes(b"one")
    first = locations.local_copy(remote, tmp_path)
    remote.write_bytes(content)
    second = locations.local_copy(remote, tmp_path)
    assert second != first
    assert second.read_bytes() == content


def test_a_remote_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AnonyPipelineError, match=r"not there\n.*memory://.*none\.bin"):
        locations.local_copy(UPath("memory://locations/none.bin"), tmp_path)

"""A file or folder is there whole, or not at all."""

import errno
import json
import os
import stat

import pytest
from upath import UPath

from anony_pipeline.storage import atomic


def fail_while_writing(path, error):
    with atomic.writing(path) as file:
        file.write(b"new")
        raise error


def fail_while_filling(path):
    with atomic.folder(path) as part:
        (part / "new").write_text("x")
        raise ValueError("stop")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    with atomic.writing(tmp_path / "a.txt") as file:
        file.write(b"half")
        assert "a.txt" not in names(tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"half"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)], ids=["error", "ctrl-c", "exit"]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(type(error)):
        fail_while_writing(tmp_path / "a.txt", error)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        atomic.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_bytes_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(names(tmp_path)))
    atomic.write_text(tmp_path / "a.txt", "new")
    assert len(seen) == 1
    assert "a.txt" not in seen[0]


def test_missing_parents_are_made(tmp_path):
    atomic.write_text(tmp_path / "b" / "c" / "a.txt", "x")
    assert (tmp_path / "b/c/a.txt").read_text() == "x"


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_private_file_has_its_permission_bits(tmp_path, mode):
    atomic.write_text(tmp_path / "a", "x", mode=mode)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_an_ordinary_file_has_the_bits_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_equal_values_give_equal_json_bytes(tmp_path):
    atomic.write_json(tmp_path / "a", {"b": 1, "a": [1.5, "ü"]})
    atomic.write_json(tmp_path / "b", {"a": [1.5, "ü"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"a": [1.5, "ü"], "b": 1}


def test_nan_is_refused_because_json_has_none(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a", {"x": float("nan")})
    assert names(tmp_path) == []


def test_a_remote_file_is_written_whole_or_not_at_all():
    target = UPath("memory://atomic/a.txt")
    with pytest.raises(ValueError, match="stop"):
        fail_while_writing(target, ValueError("stop"))
    assert not target.exists()
    atomic.write_text(target, "whole")
    assert target.read_text() == "whole"


def test_a_local_upath_is_treated_as_a_local_file(tmp_path):
    atomic.write_text(UPath(tmp_path / "a.txt"), "x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o600


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path):
    with atomic.folder(tmp_path / "run", mode=0o700) as part:
        (part / "a").write_text("x")
        assert "run" not in names(tmp_path)
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run/a").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_a_folder_replaces_the_one_of_its_name_whole(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/old").write_text("x")
    with atomic.folder(tmp_path / "run") as part:
        (part / "new").write_text("x")
        assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["new"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/old").write_text("x")
    with pytest.raises(ValueError, match="stop"):
        fail_while_filling(tmp_path / "run")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["old"]

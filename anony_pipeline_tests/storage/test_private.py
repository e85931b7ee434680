"""Private folders are closed to others, say what they hold, and go when their time has come."""

import stat

import pytest

from anony_pipeline.errors import PrivacyError
from anony_pipeline.storage import private

DAY = 86_400


def make(path, days=30.0):
    private.folder(path, retention_days=days, holds="crops")
    (path / "crop.png").write_bytes(b"x")
    return path


def test_a_private_folder_is_its_owners_alone(tmp_path):
    folder = make(tmp_path / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / private.MARKER).stat().st_mode) == 0o600


def test_an_open_folder_is_closed(tmp_path):
    (tmp_path / "a").mkdir(mode=0o755)
    assert stat.S_IMODE(make(tmp_path / "a").stat().st_mode) == 0o700


def test_purge_removes_what_is_past_its_time_and_nothing_else(tmp_path):
    old, new, ordinary = make(tmp_path / "old", days=1), make(tmp_path / "new", days=30), tmp_path / "ordinary"
    ordinary.mkdir()
    removed = private.purge(tmp_path, now=private.time.time() + 2 * DAY)
    assert removed == [old]
    assert not old.exists()
    assert new.exists()
    assert ordinary.exists()


def test_purge_of_everything_removes_all_private_folders(tmp_path):
    outer = make(tmp_path / "outer")
    make(outer / "inner")
    removed = private.purge(tmp_path, everything=True)
    assert removed == [outer]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"expires_unix": "soon"}'], ids=["empty", "list", "no time", "no number"]
)
def test_an_unreadable_marker_stops_the_purge(tmp_path, text):
    folder = make(tmp_path / "a")
    (folder / private.MARKER).write_text(text)
    with pytest.raises(PrivacyError, match="marker can't be read"):
        private.purge(tmp_path, everything=True)
    assert (folder / "crop.png").exists()

"""A source's folder is found, unpacked or drawn, and what lies there is never overwritten."""

import zipfile
from types import SimpleNamespace

import pytest

from anony_pipeline.config.schema import Data, Source, Streetscape
from anony_pipeline.datasets import raw
from anony_pipeline.datasets.streetscape import writer
from anony_pipeline.errors import ConfigError


@pytest.fixture
def drawn(monkeypatch):
    """The drawing itself replaced: it only leaves its settings and one file."""
    calls = []

    def write(settings, widerface, pp4av):
        calls.append(settings)
        for root in (widerface, pp4av):
            root.mkdir(parents=True, exist_ok=True)
            (root / writer.SETTINGS).write_text("{}")
        return SimpleNamespace(written=True)

    monkeypatch.setattr(writer, "write", write)
    return calls


def data(folder, streetscape=None, **options):
    sources = [
        Source(name=layout, layout=layout, root=str(folder / layout), exhaustive=("face",), **options)
        for layout in ("widerface", "pp4av")
    ]
    return Data(sources=sources, streetscape=streetscape)


def test_a_folder_that_is_there_is_found_and_counted(tmp_path):
    for layout in ("widerface", "pp4av"):
        (tmp_path / layout).mkdir()
    (tmp_path / "pp4av" / "a.txt").write_text("12345")
    first, second = raw.provide(data(tmp_path), tmp_path / "cache")
    assert (first.how, first.files) == ("found", 0)
    assert (second.layout, second.files, second.megabytes) == ("pp4av", 1, 0.0)


def test_the_version_changes_with_names_and_sizes_alone(tmp_path):
    for layout in ("widerface", "pp4av"):
        (tmp_path / layout).mkdir()
    file = tmp_path / "pp4av" / "a.txt"
    versions = []
    for text in ("12", "12", "123"):
        file.write_text(text)
        versions.append(raw.provide(data(tmp_path), tmp_path)[1].version)
    assert versions[0] == versions[1] != versions[2]


def test_an_archive_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.writestr("a.txt", "x")
    reports = raw.provide(data(tmp_path, download=str(tmp_path / "set.zip")), tmp_path / "cache")
    assert [report.how for report in reports] == ["unpacked", "unpacked"]


def test_procedural_data_is_drawn_into_both_folders(tmp_path, drawn):
    reports = raw.provide(data(tmp_path, Streetscape(seed=7)), tmp_path / "cache")
    assert [report.how for report in reports] == ["drawn", "drawn"]
    assert [settings.seed for settings in drawn] == [7]


def test_a_folder_with_something_else_in_it_is_never_drawn_over(tmp_path):
    (tmp_path / "pp4av").mkdir()
    (tmp_path / "pp4av" / "photo.jpg").write_text("mine")
    with pytest.raises(ConfigError, match="not procedural, and would be overwritten"):
        raw.provide(data(tmp_path, Streetscape(people=2, scenes=2)), tmp_path / "cache")
    assert (tmp_path / "pp4av" / "photo.jpg").read_text() == "mine"
    assert not (tmp_path / "widerface").exists()


def test_procedural_data_wants_one_source_of_each_layout(tmp_path, drawn):
    one = data(tmp_path, Streetscape())
    with pytest.raises(ConfigError, match="one source of each layout"):
        raw.provide(one.model_copy(update={"sources": one.sources[:1]}), tmp_path / "cache")

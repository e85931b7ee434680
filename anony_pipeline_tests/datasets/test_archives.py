"""Archives: unpacked whole or not at all, and never out of their folder."""

import hashlib
import io
import stat
import tarfile
import zipfile

import pytest
from upath import UPath

from anony_pipeline.datasets import archives
from anony_pipeline.errors import DatasetError
from anony_pipeline_tests.datasets import layouts

FILES = {"images/romania/ride.mp4#t=9.jpg": b"picture", "annotations/romania/ride.mp4#t=9.txt": b""}


def tar_of(path, files, mode="w", link=None, kind=tarfile.SYMTYPE):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link is not None:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = kind, link
            archive.addfile(info)
    return path


def zip_of(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def sum_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_an_archive_is_unpacked_whole(tmp_path, name):
    mode = "w" if name == "a.tar" else f"w:{name.rpartition('.')[2]}"
    path = zip_of(tmp_path / name, FILES) if name == "a.zip" else tar_of(tmp_path / name, FILES, mode)
    assert archives.extract(path, tmp_path / "root") == 2
    assert layouts.below(tmp_path / "root") == FILES


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = zip_of(tmp_path / "inner.zip", FILES).read_bytes()
    assert archives.extract(tar_of(tmp_path / "a.tar", {"inner.zip": inner}), tmp_path / "root") == 1


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt", "a/.."], ids=repr
)
def test_a_path_out_of_the_folder_refuses_the_whole_archive(tmp_path, pack, name):
    path = pack(tmp_path / "archive", {"good.txt": b"1", name: b"evil"})
    with pytest.raises(DatasetError, match="the archive holds"):
        archives.extract(path, tmp_path / "deep/root")
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_in_a_tar_refuses_the_archive(tmp_path, kind):
    path = tar_of(tmp_path / "a.tar", FILES, link="/etc/passwd", kind=kind)
    with pytest.raises(DatasetError, match="a link or device"):
        archives.extract(path, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_link_in_a_zip_refuses_the_archive(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DatasetError, match="a link or device"):
        archives.extract(tmp_path / "a.zip", tmp_path / "root")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_refuses_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "1")
        archive.writestr("a.txt", "2")
    with pytest.raises(DatasetError, match="name of its own"):
        archives.extract(tmp_path / "a.zip", tmp_path / "root")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_a_damaged_archive_leaves_nothing(tmp_path, name, kept):
    content = {f"{i}.bin": hashlib.sha256(bytes([i])).digest() * 40 for i in range(40)}
    path = zip_of(tmp_path / name, content) if name == "a.zip" else tar_of(tmp_path / name, content, "w:gz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DatasetError, match=r"can't be unpacked|is no archive"):
        archives.extract(path, tmp_path / "root")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_that_is_also_a_folder_is_a_damaged_archive(tmp_path):
    with pytest.raises(DatasetError, match="can't be unpacked"):
        archives.extract(tar_of(tmp_path / "a.tar", {"a": b"1", "a/b": b"2"}), tmp_path / "root")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>404</html>")
    with pytest.raises(DatasetError, match="is no archive"):
        archives.extract(tmp_path / "a.zip", tmp_path / "root")


def test_a_folder_that_holds_something_is_not_replaced(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        archives.extract(zip_of(tmp_path / "a.zip", FILES), tmp_path / "root")


def test_a_full_disk_is_said_before_it_is_full(tmp_path, monkeypatch):
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=3))
    with pytest.raises(DatasetError, match="disk is too small"):
        archives.extract(zip_of(tmp_path / "a.zip", FILES), tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_a_source_s_folder_is_made_of_its_archive_once(tmp_path, scheme):
    archive = zip_of(tmp_path / "a.zip", FILES)
    address, sha256 = str(archive), sum_of(archive)
    if scheme == "memory":
        address = f"memory://{tmp_path.name}/a.zip"
        UPath(address).parent.mkdir(parents=True, exist_ok=True)
        UPath(address).write_bytes(archive.read_bytes())
    source = layouts.pp4av_source(tmp_path / "root", download=address, sha256=sha256)
    assert archives.provide(source, tmp_path / "cache") is True
    assert layouts.below(tmp_path / "root") == FILES
    assert archives.provide(source, tmp_path / "cache") is False


def test_an_archive_of_another_sum_is_refused_and_not_kept(tmp_path):
    address = f"memory://{tmp_path.name}/a.zip"
    UPath(address).parent.mkdir(parents=True, exist_ok=True)
    UPath(address).write_bytes(zip_of(tmp_path / "a.zip", FILES).read_bytes())
    for place in (address, str(tmp_path / "a.zip")):
        source = layouts.pp4av_source(tmp_path / "root", download=place, sha256="0" * 64)
        with pytest.raises(DatasetError, match="another sha256"):
            archives.provide(source, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert (tmp_path / "a.zip").exists()
    assert not (tmp_path / "root").exists()


def test_a_url_without_a_sum_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="needs its sha256"):
        archives.fetch("https://example.org/a.zip", None, tmp_path)


def test_an_address_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"can't be fetched(.|\n)*http://127.0.0.1:9/a.zip"):
        archives.fetch("http://127.0.0.1:9/a.zip", "0" * 64, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_local_archive_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="archive is not there"):
        archives.fetch(str(tmp_path / "a.zip"), None, tmp_path)


def test_a_remote_root_is_not_unpacked_to(tmp_path):
    source = layouts.pp4av_source("memory://nowhere/root", download=str(tmp_path / "a.zip"))
    with pytest.raises(DatasetError, match="only be unpacked to a local folder"):
        archives.provide(source, tmp_path)

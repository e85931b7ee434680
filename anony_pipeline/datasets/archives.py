"""Archives of data sets: fetched, checked against their sha256, and unpacked without leaving their folder."""

import hashlib
import shutil
import stat
import tarfile
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.request import urlopen

from upath import UPath

from anony_pipeline.config.schema import Source
from anony_pipeline.errors import AnonyPipelineError, DatasetError
from anony_pipeline.runtime.progress import track
from anony_pipeline.storage import atomic, locations, manifests

CHUNK = 1 << 20
TIMEOUT_SECONDS = 60


def provide(source: Source, cache: Path) -> bool:
    """Make a source's folder of its archive, if the folder isn't there and the source names an archive.

    Args:
        source: With ``download`` and, for a URL, ``sha256``.
        cache: Where a fetched archive is kept until it is unpacked.

    Returns:
        Whether the folder was made.

    Raises:
        DatasetError: If the archive can't be fetched, has another sha256, or may not be unpacked.
    """
    root = locations.location(source.root)
    if source.download is None or root.exists():
        return False
    if not locations.is_local(root):
        raise DatasetError(
            "an archive can only be unpacked to a local folder",
            where=f"source {source.name}",
            got=root,
            do="unpack it there yourself, or set `root` to a local folder",
        )
    archive = fetch(source.download, source.sha256, cache)
    extract(archive, Path(str(root)))
    return True


def fetch(address: str, sha256: str | None, cache: Path) -> Path:
    """Return a local file with the archive's bytes, checked against its sha256.

    Args:
        address: A local path, an ``http(s)://`` URL or any fsspec URL.
        sha256: The sum in hexadecimal; may be None only for a local path.
        cache: Where a fetched file is kept; one that is there with the right sum isn't fetched again.

    Raises:
        DatasetError: If the file is not there, can't be fetched, or has another sum.
    """
    origin = None if address.startswith(("http://", "https://")) else locations.location(address)
    if origin is not None and locations.is_local(origin):
        path = Path(str(origin))
        if not path.is_file():
            raise DatasetError("the archive is not there", where=path, do="check `download` in data.sources")
        return _checked(path, sha256)
    if sha256 is None:
        raise DatasetError(
            "an archive from a URL needs its sha256",
            where=address,
            do="add `sha256` beside `download`: a file from a network is believed only by its sum",
        )
    kept = (
        cache / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{PurePosixPath(address.partition('?')[0]).name}"
    )
    if not kept.exists():
        with atomic.writing(kept, mode=0o600) as target:
            _copy_from(address, origin, target)
    try:
        return _checked(kept, sha256)
    except DatasetError:
        kept.unlink()  # so that the next try fetches it anew
        raise


def extract(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar archive (plain, gzip, bzip2, xz) into a new folder that appears when it is complete.

    Only files and folders are taken, without owners, modes and times. A link, a device, an absolute path, ``..`` or a
    name that stands twice refuses the whole archive.

    Args:
        archive: A local file.
        folder: The folder to make; it must not be there, or be empty.

    Returns:
        The number of files.

    Raises:
        DatasetError: If the archive is damaged, holds what is refused, or the disk is too small.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DatasetError("the folder to unpack to is not empty", where=folder, do="move it away, or use it as it is")
    members = _members_of(archive)
    seen: set[str] = set()
    with atomic.folder(folder) as part:
        room = shutil.disk_usage(part).free
        try:
            for member in track(members, f"unpacking {archive.name}"):
                name = _safe_name(archive, member, seen)
                room -= member.size
                if room < 0:
                    raise DatasetError("the disk is too small for the archive", where=folder, do="free some space")
                _write(part / name, member)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            raise DatasetError(
                "the archive can't be unpacked",
                where=archive,
                got=f"{type(error).__name__}: {error}",
                do="copy it again",
            ) from error
    return len(seen)


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry of an archive."""

    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes] | None]


def _members_of(archive: Path) -> Iterator[_Member]:
    # First, because a tar whose last file is a zip looks like a zip also.
    if tarfile.is_tarfile(archive):
        return _tar_members(archive)
    if zipfile.is_zipfile(archive):
        return _zip_members(archive)
    raise DatasetError("the file is no archive", where=archive, allowed="zip, tar, tar.gz, tar.bz2, tar.xz")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            unusual = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "link or device" if unusual else "folder" if info.is_dir() else "file"
            yield _Member(info.orig_filename, info.file_size, kind, lambda info=info: file.open(info))  # type: ignore[misc]


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as file:
        for info in file:
            kind = "folder" if info.isdir() else "file" if info.isreg() else "link or device"
            yield _Member(info.name, info.size, kind, lambda info=info: file.extractfile(info))  # type: ignore[misc]


def _safe_name(archive: Path, member: _Member, seen: set[str]) -> PurePosixPath:
    path = PurePosixPath(member.name)
    reason = None
    if member.kind not in ("file", "folder"):
        reason = "a link or device"
    elif path.is_absolute() or "\\" in member.name or PureWindowsPath(member.name).drive or "\0" in member.name:
        reason = "an absolute or foreign path"
    elif ".." in path.parts:
        reason = "a path out of the folder"
    elif member.kind == "file" and (not path.parts or str(path) in seen):
        reason = "a file without a name of its own"
    if reason is not None:
        raise DatasetError(
            f"the archive holds {reason}",
            where=archive,
            got=repr(member.name),
            allowed="files and folders with relative paths below the archive's top",
            do="don't trust this archive: get it from its origin, or pack it anew",
        )
    if member.kind == "file":
        seen.add(str(path))
    return path


def _write(path: Path, member: _Member) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = member.open()
    if content is None:
        raise EOFError(member.name)
    with content, path.open("xb") as target:
        shutil.copyfileobj(content, target, CHUNK)


def _copy_from(address: str, origin: UPath | None, target: IO[bytes]) -> None:
    try:
        # http(s) alone comes to urlopen; fsspec's own needs a library that is not among ours.
        with origin.open("rb") if origin is not None else urlopen(address, timeout=TIMEOUT_SECONDS) as file:  # noqa: S310
            pieces = iter(lambda: file.read(CHUNK), b"")
            for piece in track(pieces, f"fetching {PurePosixPath(address).name} (MiB)"):
                target.write(piece)
    except (urllib.error.URLError, OSError, AnonyPipelineError) as error:
        raise DatasetError(
            "the archive can't be fetched", where=address, got=str(error), do="check the address and the network"
        ) from error


def _checked(path: Path, sha256: str | None) -> Path:
    if sha256 is not None and (actual := manifests.sha256_of(path)) != sha256.lower():
        raise DatasetError(
            "the archive has another sha256",
            where=path,
            got=actual,
            allowed=sha256,
            do="fetch it again; if it stays so, it is not the file that the configuration means",
        )
    return path

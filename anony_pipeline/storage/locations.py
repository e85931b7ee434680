"""Paths that may be local or on any fsspec file system (``s3://``, ``gs://``, ``memory://``)."""

import hashlib
import os
from pathlib import Path

from upath import UPath

from anony_pipeline.errors import AnonyPipelineError, ConfigError
from anony_pipeline.storage import atomic

AnyPath = str | os.PathLike[str] | UPath


def location(path: AnyPath, relative_to: AnyPath | None = None) -> UPath:
    """Make a path of a string that is a local path or an fsspec URL.

    Args:
        path: ``~`` is expanded in local paths.
        relative_to: The folder that a relative local path counts from; the working folder if None.

    Returns:
        An absolute `UPath`.
    """
    target = UPath(path)
    if target.protocol not in ("", "file"):
        return target
    local = Path(str(path).removeprefix("file://")).expanduser()
    if relative_to is not None and not local.is_absolute():
        base = UPath(relative_to)
        if base.protocol not in ("", "file"):
            return base / local.as_posix()
        local = Path(base.path) / local
    return UPath(Path(os.path.abspath(local)))  # noqa: PTH100 - resolve() would follow links, and users know their own paths


def is_local(path: UPath | Path) -> bool:
    """Whether the path lies on this machine's own file system."""
    return getattr(path, "protocol", "") in ("", "file")


def local_folder(path: AnyPath, key: str) -> Path:
    """A folder that must be this machine's own, because files are locked, mapped or replaced in it.

    Args:
        path: As configured.
        key: The configuration's key, for the message.

    Raises:
        ConfigError: If it lies in a remote store.
    """
    place = location(path)
    if not is_local(place):
        raise ConfigError(
            "training and releases write on this machine alone",
            where=key,
            got=place,
            allowed="a local folder, or one that is mounted",
            do="train there, then copy the checkpoints to the store: judging and the sensor read them there",
        )
    return Path(str(place))


def writable(path: UPath | Path) -> None:
    """Refuse early a folder in which nothing could be written in the end; one that is not there yet may be made.

    Raises:
        ConfigError: If a file stands in its way, or the rights are missing. Remote stores are not asked.
    """
    if not is_local(path):
        return
    place = Path(str(path)).absolute()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    raise ConfigError(
        "nothing can be written into this folder",
        where=path,
        got=f"{there} may not be written" if there.is_dir() else f"{there} is a file",
        do="name another folder",
    )


def local_copy(path: UPath | Path, cache: Path) -> Path:
    """Return a file of this machine with the bytes of ``path``, fetching it into ``cache`` if it lies elsewhere.

    A fetched file is kept under a name made of its URL and of what its store says of its content (size, time, ETag), so
    that a changed file is fetched anew.

    Raises:
        AnonyPipelineError: If there is no such file.
    """
    if is_local(path):
        return Path(str(path))
    if not path.exists():
        raise AnonyPipelineError(
            "the file is not there", where=path, do="check the URL and the credentials of its store"
        )
    remote = UPath(path)
    key = hashlib.sha256(f"{path}:{remote.fs.ukey(remote.path)}".encode()).hexdigest()[:16]
    kept = cache / f"{key}-{path.name}"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, atomic.writing(kept) as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
    return kept

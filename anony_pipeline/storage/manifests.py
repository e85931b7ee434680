"""Manifests: which files belong to a folder, and their sha256 sums. Written last: a manifest means "complete"."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from upath import UPath

from anony_pipeline.errors import CheckpointError
from anony_pipeline.storage import atomic

NAME = "manifest.json"


def sha256_of(path: Path | UPath) -> str:
    """The file's sha256 sum in hexadecimal, read in pieces of a megabyte."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write(folder: Path | UPath, facts: dict[str, Any]) -> str:
    """List every file below ``folder`` with size and sha256 in its ``manifest.json``.

    Args:
        folder: The complete folder.
        facts: What else the manifest says (``format``, ``step`` ...); JSON values.

    Returns:
        The sha256 of the manifest itself: the version of the whole folder.
    """
    paths: Iterable[Any] = folder.rglob("*")
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(paths)
        if path.is_file() and path.name != NAME
    }
    atomic.write_json(folder / NAME, {**facts, "files": files})
    return sha256_of(folder / NAME)


def read(folder: Path | UPath, *, verify: bool = True) -> dict[str, Any]:
    """Read a folder's manifest and check that what it lists is there.

    Args:
        folder: A folder that `write` completed.
        verify: Compare sha256 sums also, not only names and sizes.

    Raises:
        CheckpointError: If there is no manifest, or a file is missing, of another size or of another sum.
    """
    path = folder / NAME
    if not path.exists():
        raise CheckpointError(
            "there is no manifest",
            where=path,
            do="the folder is not a complete checkpoint: take another, or make it anew",
        )
    try:
        manifest = json.loads(path.read_text())
        files = manifest["files"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            "the manifest can't be read", where=path, got=repr(error), do="make the folder anew"
        ) from error
    for name, entry in files.items():
        _check(folder, name, entry, verify=verify)
    return manifest


def _check(folder: Path | UPath, name: str, entry: dict[str, Any], *, verify: bool) -> None:
    remedy = "the folder was damaged or changed: take another checkpoint, or make it anew"
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise CheckpointError("the manifest names a file outside its folder", where=folder / NAME, got=name, do=remedy)
    file = folder / name
    if not file.exists():
        raise CheckpointError("a file of the manifest is missing", where=file, do=remedy)
    if (size := file.stat().st_size) != entry["bytes"]:
        raise CheckpointError(
            "a file has another size", where=file, got=f"{size} bytes", allowed=entry["bytes"], do=remedy
        )
    if verify and (sha256 := sha256_of(file)) != entry["sha256"]:
        raise CheckpointError("a file has another sha256", where=file, got=sha256, allowed=entry["sha256"], do=remedy)

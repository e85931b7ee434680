"""Files that appear under their final name only when they are complete."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from upath import UPath


@contextlib.contextmanager
def writing(path: Path | UPath, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name when the block ends well, and leaves nothing behind when it doesn't.

    The bytes are on disk before the name is: a power cut leaves the old file or the new one, never a part.

    Args:
        path: The final name. On a remote store the upload itself is the atomic step.
        mode: The file's permission bits, ``0o600`` for private ones; the umask's choice if None.
    """
    if not isinstance(path, Path) or getattr(path, "protocol", "") not in ("", "file"):
        with tempfile.SpooledTemporaryFile(max_size=1 << 26) as buffer:
            yield buffer  # type: ignore[misc]
            buffer.seek(0)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(buffer, target)
        return
    local = Path(str(path))
    local.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{local.name}.", suffix=".part", dir=local.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode if mode is not None else 0o666 & ~_umask())
        part.replace(local)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path | UPath, data: bytes, mode: int | None = None) -> None:
    """Write a whole file in one step (see `writing`)."""
    with writing(path, mode) as file:
        file.write(data)


def write_text(path: Path | UPath, text: str, mode: int | None = None) -> None:
    """Write a whole UTF-8 text file in one step (see `writing`)."""
    write_bytes(path, text.encode(), mode)


def write_json(path: Path | UPath, value: Any, mode: int | None = None) -> None:  # noqa: ANN401 - any JSON value
    """Write JSON with sorted keys, so that equal values give equal bytes; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", mode)


@contextlib.contextmanager
def folder(path: Path, mode: int = 0o755) -> Iterator[Path]:
    """Fill a folder that takes its name when the block ends well; a folder of that name is replaced.

    Args:
        path: The final name, on a local disk.
        mode: The folder's permission bits, ``0o700`` for private ones.

    Yields:
        A fresh folder beside it to write into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield part
        part.chmod(mode)
        if path.exists():
            # A folder can't be replaced in one step: the old one steps aside first.
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(aside / path.name)
            part.replace(path)
            shutil.rmtree(aside)
        else:
            part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

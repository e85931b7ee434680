"""Folders that one process at a time may write."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("anony_pipeline")

NAME = ".lock"


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Be the only process inside such a block for this folder; wait, saying so, while another one is.

    The system frees the lock of a process that was killed. Where the file system or the platform knows no locks, there
    is a warning, and nobody waits.

    Args:
        folder: Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+") as file:
        _acquire(file.fileno(), folder)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _acquire(handle: int, folder: Path) -> None:
    if fcntl is None:
        log.warning("%s: this platform has no file locks, so take care that only one run writes there", folder)
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: process %s is writing there; waiting until it has ended", folder, _holder(folder))
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        log.warning("%s: no file locks there (%s), so take care that only one run writes there", folder, error)


def _holder(folder: Path) -> str:
    return (folder / NAME).read_text() or "of unknown number"

"""Artifacts that hold original pixels: under one root, readable by their owner alone, purged after their time."""

import json
import shutil
import time
from pathlib import Path

from anony_pipeline.errors import PrivacyError
from anony_pipeline.storage import atomic

MARKER = "PRIVATE.json"


def folder(path: Path, *, retention_days: float, holds: str) -> Path:
    """Make (or confirm) a private folder: mode 0700, with a marker that says what it holds and until when.

    Args:
        path: The folder.
        retention_days: After so many days `purge` removes it.
        holds: What is in it, for the person who finds it.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    expires = time.time() + retention_days * 86_400
    atomic.write_json(path / MARKER, {"holds": holds, "expires_unix": expires}, mode=0o600)
    return path


def purge(root: Path, *, everything: bool = False, now: float | None = None) -> list[Path]:
    """Remove private folders below ``root``: those past their time, or all.

    Args:
        root: Where to look.
        everything: Remove also those whose time has not come.
        now: The time in Unix seconds; the clock's if None.

    Returns:
        The folders that were removed.

    Raises:
        PrivacyError: If a marker can't be read; nothing of that folder is removed, because it may not be ours.
    """
    moment = time.time() if now is None else now
    removed = []
    for marker in sorted(root.rglob(MARKER)):
        if not marker.exists():  # it lay in a folder that is gone already
            continue
        try:
            expires = float(json.loads(marker.read_text())["expires_unix"])
        except (ValueError, KeyError, TypeError) as error:
            raise PrivacyError(
                "a private folder's marker can't be read", where=marker, do="look at it by hand"
            ) from error
        if everything or expires <= moment:
            shutil.rmtree(marker.parent)
            removed.append(marker.parent)
    return removed

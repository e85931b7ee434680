"""Whether a disk has room for what will be written: a memory-mapped file that meets a full disk kills its process."""

import shutil
from pathlib import Path

from anony_pipeline.errors import DatasetError


def check_room(folder: Path, needed_bytes: int, what: str, do: str) -> None:
    """Refuse to begin what can't be finished.

    Args:
        folder: Where it will be written; there already.
        needed_bytes: How much more will be written.
        what: Of what, for the message.
        do: What takes less.

    Raises:
        DatasetError: If the disk has less free.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DatasetError(
            f"the disk has no room for {what}",
            where=folder,
            got=f"{free / 1e9:.1f} GB free",
            allowed=f"{needed_bytes / 1e9:.1f} GB or more",
            do=do,
        )

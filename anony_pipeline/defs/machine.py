"""Where a run is executed: noted in its tags, so that `anony reap` can tell a dead run from one of another machine."""

import socket
from pathlib import Path

HOST, BOOT = "anony/host", "anony/boot"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def tags() -> dict[str, str]:
    """This machine's name, and on Linux the id of its running kernel, which is another after each start."""
    found = {HOST: socket.gethostname()}
    if _BOOT_ID.exists():
        found[BOOT] = _BOOT_ID.read_text().strip()
    return found

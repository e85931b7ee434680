"""One process at a time writes into a folder; a killed one holds nothing."""

import os
import signal
import subprocess
import sys
import time

from anony_pipeline.storage import locks

HOLDER = """
import sys, time
from pathlib import Path
from anony_pipeline.storage import locks
with locks.sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(folder, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_and_says_for_whom(tmp_path, caplog):
    process = holder(tmp_path, 0.7)
    begin = time.monotonic()
    with locks.sole_writer(tmp_path):
        assert process.wait(timeout=5) == 0
    assert time.monotonic() - begin > 0.3
    assert f"process {process.pid} is writing there" in caplog.text


def test_a_killed_process_holds_nothing(tmp_path, caplog):
    process = holder(tmp_path, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with locks.sole_writer(tmp_path):
        assert "is writing there" not in caplog.text


def test_two_folders_do_not_wait_for_each_other(tmp_path):
    process = holder(tmp_path / "a", 60)
    with locks.sole_writer(tmp_path / "b"):
        assert process.poll() is None
    process.kill()
    process.wait()

"""A port that is taken is named before anything is started, and Dagster's own words for it are those in the docs."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def taken():
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def make_ui(port, binaries):
    """`make ui` by these programs, without making an environment first."""
    command = ["make", "--silent", "ui", f"PORT={port}", f"BIN={binaries}", "READY="]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def binaries(tmp_path):
    """This interpreter, and a Dagster that only says how it was called."""
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "dagster").write_text('#!/bin/sh\necho "called: $*"\n')
    (tmp_path / "dagster").chmod(0o755)
    return tmp_path


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_taken_port_is_named_with_what_to_do_and_nothing_is_started(taken, binaries):
    done = make_ui(taken, binaries)
    assert done.returncode != 0
    assert f"port {taken} is taken" in done.stdout
    assert "make ui PORT=3001" in done.stdout
    assert "called" not in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_free_port_is_left_free_for_dagster(taken, binaries):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert free != taken
    done = make_ui(free, binaries)
    assert done.returncode == 0, done.stderr
    assert f"called: dev -w workspace.yaml -h 127.0.0.1 -p {free}" in done.stdout
    with socket.create_server(("127.0.0.1", free)):
        pass


@pytest.mark.slow
def test_dagster_itself_says_that_the_address_is_in_use_and_goes_on_until_it_is_ended(taken, tmp_path, monkeypatch):
    """If it learns to end by itself, the docs' line on it and the check of `make ui` may go."""
    (tmp_path / "empty.py").write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    log = tmp_path / "log"
    command = [sys.executable, "-m", "dagster", "dev", "-f", "empty.py", "-h", "127.0.0.1", "-p", str(taken)]
    with log.open("w") as output:
        dev = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until = time.monotonic() + 90
        while "address already in use" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.5)
        text = re.sub(r"\x1b\[\d+m", "", log.read_text())
        assert f"error while attempting to bind on address ('127.0.0.1', {taken}): address already in use" in text
        time.sleep(5)
        assert dev.poll() is None
    finally:
        dev.send_signal(signal.SIGINT)
        dev.wait(timeout=60)
    assert "address already in use" in (ROOT / "docs/how_to/operate_in_dagster.md").read_text()

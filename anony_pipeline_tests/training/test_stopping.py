"""A stop is taken where something can be saved, and a process does not outlive the one that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from anony_pipeline.training import stopping
from anony_pipeline.training.launched import LAUNCHED_VARIABLE

CHILD = """
import os, signal, sys, time
from anony_pipeline.training import stopping
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1], "w").write("saved") if sys.argv[2] == "saves" else None)
stopping.end_with_the_launcher()
print("ready", flush=True)
while sys.argv[2] != "saves" or not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


class Ended(BaseException):
    pass


def test_before_training_begins_a_signal_ends_it_at_once():
    with stopping.StopSignal(Ended()), pytest.raises(Ended):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_training_the_first_signal_asks_and_the_second_ends_it(number):
    with stopping.StopSignal(Ended()) as stop:
        stop.observe({"event": "begin"})
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        with pytest.raises(Ended):
            signal.raise_signal(number)


def test_after_training_a_signal_ends_it_at_once_again():
    with stopping.StopSignal(Ended()) as stop:
        stop.observe({"event": "begin"})
        stop.observe({"event": "end"})
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopping.StopSignal(Ended()):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def launched(tmp_path, what, grace):
    """A process started as a launcher starts a trainer."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "saved"), what],
        env=os.environ | {LAUNCHED_VARIABLE: str(grace)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_trainer_whose_launcher_is_gone_saves_and_ends(tmp_path):
    process = launched(tmp_path, "saves", grace=30)
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert (tmp_path / "saved").read_text() == "saved"


def test_a_trainer_that_does_not_end_is_killed_after_its_grace(tmp_path):
    process = launched(tmp_path, "hangs", grace=0.3)
    begin = time.monotonic()
    process.stdin.close()
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert time.monotonic() - begin >= 0.3


def test_a_trainer_goes_on_while_its_launcher_lives(tmp_path):
    process = launched(tmp_path, "saves", grace=0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.kill()
    process.wait()

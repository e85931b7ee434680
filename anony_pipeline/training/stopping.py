"""When training ends before its last step: a signal came, or whoever started it is gone."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from anony_pipeline.training.launched import LAUNCHED_VARIABLE

STOPS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """SIGINT and SIGTERM as a question that the training loop asks where it can write a checkpoint.

    While nothing is being learned there is nothing to save: then, and at a second signal, `error` is raised at once.
    Outside the main thread, where Python allows no handlers, it only ever says no.

    Args:
        error: What to raise.
    """

    def __init__(self, error: BaseException) -> None:
        self.error, self.came, self.is_training = error, False, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in STOPS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.came

    def observe(self, event: dict[str, Any]) -> None:
        """Learn from the trainer's events when there is something to save."""
        if event["event"] in ("begin", "end"):
            self.is_training = event["event"] == "begin"

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self.came or not self.is_training:
            raise self.error
        self.came = True


def end_with_the_launcher() -> None:
    """If a launcher started this process, end with it: SIGTERM, the grace to save, then SIGKILL to the whole group.

    A launcher that was killed can't say so, and its process number may be another program's by now; a pipe's end is
    closed by the system whatever happened. Children inherit the pipe: it works below `accelerate launch` as well.
    """
    if grace := os.environ.get(LAUNCHED_VARIABLE):
        end_when(_input_ended, float(grace), lambda: os.killpg(os.getpgrp(), signal.SIGKILL))


def end_when(gone: Callable[[], object], grace_seconds: float, kill: Callable[[], object]) -> None:
    """In a thread: wait until `gone` returns, send this process SIGTERM, and `kill` what is left after the grace."""

    def watch() -> None:
        gone()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds)
        kill()

    threading.Thread(target=watch, name="end-with-the-parent", daemon=True).start()


def _input_ended() -> None:
    while os.read(0, 1):
        pass

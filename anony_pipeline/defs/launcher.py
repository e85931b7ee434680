"""How training is started from a step: in its process, or as a process group of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from anony_pipeline.config import loading

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
Stage = Literal["pretrain", "joint"]

PARENT_VARIABLE = "ANONY_PARENT_PID"
EVENTS_VARIABLE = "ANONY_EVENTS"
TRANSIENT_EXITS = frozenset({-signal.SIGKILL, -signal.SIGBUS, 137})
"""What may pass on a second try: killed for memory, or by a machine that went away."""


class Launcher(dg.ConfigurableResource):
    """Starts training and hands its events on while it runs."""

    mode: Literal["in_process", "subprocess"] = Field(
        default="in_process",
        description="`subprocess`: a crash of CUDA leaves the step alive to report it, and nothing stays on the GPU",
    )
    grace_seconds: float = Field(
        default=60.0, description="subprocess: time to save a checkpoint after a stop, before it is killed"
    )

    def train(self, layers: Sequence[str], overrides: Sequence[str], stage: Stage, on_event: OnEvent) -> dict[str, Any]:
        """Train one stage of an experiment.

        Args:
            layers: The configuration's files.
            overrides: ``key=value``, winning over the files.
            stage: ``pretrain`` or ``joint``.
            on_event: Called with each event of the trainer's journal.

        Returns:
            ``checkpoint``, ``step`` and further facts of the training's report.
        """
        if self.mode == "subprocess":
            return self._in_subprocess(layers, overrides, stage, on_event)
        from anony_pipeline.training import loop

        report = loop.train(loading.load(layers, overrides), mode=stage, on_event=on_event)
        return {"checkpoint": str(report.checkpoint), "step": report.step}

    def _in_subprocess(
        self, layers: Sequence[str], overrides: Sequence[str], stage: Stage, on_event: OnEvent
    ) -> dict[str, Any]:
        command = [sys.executable, "-m", "anony_pipeline.train_joint", "--mode", stage]
        command += [part for layer in layers for part in ("--config", layer)]
        command += [part for override in overrides for part in ("--set", override)]
        with tempfile.TemporaryDirectory(prefix="anony-events-") as folder:
            events = Path(folder) / "events.jsonl"
            events.touch()
            environment = {**os.environ, PARENT_VARIABLE: str(os.getpid()), EVENTS_VARIABLE: str(events)}
            last = _run(command, environment, events, on_event, self.grace_seconds)
        if "checkpoint" not in last:
            raise dg.Failure("the trainer ended without naming its checkpoint", allow_retries=False)
        return last


def _run(command: list[str], environment: dict[str, str], events: Path, on_event: OnEvent, grace: float) -> Event:
    """Run a command in its own process group until it ends; return its last event.

    Raises:
        dg.Failure: If it ends with an error; retries are allowed where a second try can pass.
    """
    last: Event = {}
    # A group of its own: a launcher inside (accelerate, torchrun) has children, and all of them must get the signal.
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own interpreter
    try:
        with events.open() as lines:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
                for event in _whole_lines(lines):
                    last = event
                    on_event(event)
                if process.returncode is not None:
                    break
    finally:
        # Also when Dagster interrupts the step: its exception is a BaseException and passes through here.
        stop_group(process, grace)
    if process.returncode:
        raise dg.Failure(
            f"the trainer ended with exit code {process.returncode}; its own message stands above, in stderr",
            allow_retries=process.returncode in TRANSIENT_EXITS,
        )
    return last


def _whole_lines(lines: Any) -> Iterator[Event]:  # noqa: ANN401 - an open text file
    while True:
        begin = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(begin)  # half a line: it is read again when it is whole
            return
        yield json.loads(line)


def stop_group(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """End a process and all it started: SIGTERM, time to save, SIGKILL. Nothing happens if all are gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while time.monotonic() < deadline:
            process.poll()  # reaps it, so that the group can vanish
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

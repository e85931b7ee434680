"""How training is started from a step: in its process, as a process group of its own, or as several processes."""

import contextlib
import json
import multiprocessing
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
from anony_pipeline.defs import retries
from anony_pipeline.training.launched import EVENTS_VARIABLE, LAUNCHED_VARIABLE, TRY_AGAIN

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
Stage = Literal["pretrain", "joint"]

TRANSIENT_EXITS = frozenset({-signal.SIGKILL, -signal.SIGBUS, 137, TRY_AGAIN})
"""What may pass on a second try: killed for memory or by a machine that went away, or what the trainer says so of."""
KILLED_WITHIN_SECONDS = 2.0
"""So long a process may take to vanish after SIGKILL; one that waits for a disk may take longer."""


class Launcher(dg.ConfigurableResource):
    """Starts training and hands its events on while it runs."""

    mode: Literal["in_process", "subprocess", "accelerate"] = Field(
        default="in_process",
        description="`subprocess`: a crash of CUDA leaves the step alive to report it, and nothing stays on the GPU; "
        "`accelerate`: the same with several processes, one a GPU",
    )
    processes: int = Field(default=1, ge=1, description="how many, with `accelerate`; training.batch_size is of all")
    grace_seconds: float = Field(
        default=60.0, description="time to save a checkpoint after a stop, before it is killed"
    )

    def train(self, layers: Sequence[str], overrides: Sequence[str], stage: Stage, on_event: OnEvent) -> dict[str, Any]:
        """Train one stage of an experiment, going on from its last good checkpoint.

        A stop (Terminate, Ctrl-C) and the death of the process that started this step both lead to a checkpoint and to
        the end of all that was started here.

        Args:
            layers: The configuration's files.
            overrides: ``key=value``, winning over the files.
            stage: ``pretrain`` or ``joint``.
            on_event: Called with each event of the trainer's journal.

        Returns:
            ``checkpoint``, ``step``, ``curves`` (a picture's file, or None) and further facts of the training's report.

        Raises:
            dg.RetryRequested: If a trainer of its own was killed, or could not reach a store: a second try can succeed.
        """
        end_with_the_executor(self.grace_seconds)
        if self.mode != "in_process":
            return self._in_subprocess(layers, overrides, stage, on_event)
        return _in_process(layers, overrides, stage, on_event)

    def _in_subprocess(
        self, layers: Sequence[str], overrides: Sequence[str], stage: Stage, on_event: OnEvent
    ) -> dict[str, Any]:
        command = [sys.executable, *self._starter(), "-m", "anony_pipeline.train_joint", "--mode", stage]
        command += [part for layer in layers for part in ("--config", layer)]
        command += [part for override in overrides for part in ("--set", override)]
        with tempfile.TemporaryDirectory(prefix="anony-events-") as folder:
            events = Path(folder) / "events.jsonl"
            events.touch()
            environment = {
                **os.environ,
                LAUNCHED_VARIABLE: str(self.grace_seconds),
                EVENTS_VARIABLE: str(events),
            }
            last = _run(command, environment, events, on_event, self.grace_seconds)
        if "checkpoint" not in last:
            raise dg.Failure("the trainer ended without naming its checkpoint", allow_retries=False)
        return last

    def _starter(self) -> list[str]:
        if self.mode == "subprocess":
            return []
        # What `accelerate launch` runs for several GPUs; by itself it also starts several processes on a CPU.
        return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]


def _in_process(layers: Sequence[str], overrides: Sequence[str], stage: Stage, on_event: OnEvent) -> Event:
    from anony_pipeline.training import loop, stopping

    def observe(event: Event) -> None:
        stop.observe(event)
        on_event(event)

    stopped = dg.DagsterExecutionInterruptedError()
    with stopping.StopSignal(stopped) as stop:
        report = loop.train(loading.load(layers, overrides), mode=stage, on_event=observe, should_stop=stop)
    # A stop during the last step ends the run too; its checkpoint is there, and the next run takes it as it is.
    if stop.came or not report.finished:
        raise stopped
    curves = str(report.curves) if report.curves else None
    return {"checkpoint": str(report.checkpoint), "step": report.step, "curves": curves}


def end_with_the_executor(grace_seconds: float) -> None:
    """If the multiprocess executor started this step's process, end with it, however it ended.

    Otherwise a step whose run was killed would train on for nobody, with the GPU that the next run waits for.
    """
    from anony_pipeline.training import stopping

    if (parent := multiprocessing.parent_process()) is not None:
        # The trainer has its grace first; what is left then is this process alone.
        stopping.end_when(parent.join, grace_seconds + 10, lambda: os._exit(1))


def _run(command: list[str], environment: dict[str, str], events: Path, on_event: OnEvent, grace: float) -> Event:
    """Run a command in its own process group until it ends; return its last event.

    Raises:
        dg.RetryRequested: If it ends with an error that a second try may not meet.
        dg.Failure: If it ends with another error.
    """
    last: Event = {}
    # A group of its own: a launcher inside (accelerate, torchrun) has children, and all of them must get the signal.
    # The pipe tells the trainer when this process is gone, also when nobody can say so any more.
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        command, env=environment, start_new_session=True, stdin=subprocess.PIPE
    )
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
        if process.stdin is not None:
            # Several processes are sessions of their own: what is left of them ends where the pipe does.
            process.stdin.close()
    if process.returncode:
        # A launcher between us has exit codes of its own: the trainer says its code as its last event.
        code = last.get("exit_code", process.returncode)
        failure = dg.Failure(
            f"the trainer ended with exit code {code}; its own message stands above, in stderr", allow_retries=False
        )
        if code in TRANSIENT_EXITS:
            raise dg.RetryRequested(retries.RETRIES, retries.WAIT_SECONDS) from failure
        raise failure
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
        # A killed process is gone a moment later, and a slot that is freed before that is freed too early.
        for how, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, KILLED_WITHIN_SECONDS)):
            os.killpg(process.pid, how)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                process.poll()  # reaps it, so that the group can vanish
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    process.wait()

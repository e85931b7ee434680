"""The original entry point: ``python -m anony_pipeline.train_joint --config FILE --mode auto --max_steps 1000``.

SIGINT and SIGTERM end it after the action at hand, with a checkpoint from which the same command goes on.
"""

import json
import logging
import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from anony_pipeline.errors import AnonyPipelineError

EVENTS_VARIABLE = "ANONY_EVENTS"
"""Names a file that gets each event as a JSON line: how a process that started this one follows it."""

STOPPED = 130


class Mode(StrEnum):
    """What is trained."""

    AUTO = "auto"
    PRETRAIN = "pretrain"
    JOINT = "joint"


def main(
    config: Annotated[list[str], typer.Option("--config", help="A YAML file; later ones win.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="loss.adv_weight=0.05")] = None,
    mode: Annotated[
        Mode, typer.Option(help="auto: pretrain if no pretrained generator is there, then joint.")
    ] = Mode.AUTO,
    max_steps: Annotated[
        int | None, typer.Option("--max_steps", "--max-steps", min=1, help="Instead of training.max_steps.")
    ] = None,
) -> None:
    """Train, going on from the newest checkpoint of this configuration."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    # Importing torch takes seconds, which `--help` should not.
    from anony_pipeline.config import loading  # noqa: PLC0415
    from anony_pipeline.training import loop  # noqa: PLC0415

    stop = _StopSignal()
    try:
        report = loop.train(
            loading.load(config, overrides or ()),
            mode=mode.value,
            max_steps=max_steps,
            on_event=_write_event,
            should_stop=stop,
        )
    except AnonyPipelineError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from error
    _write_event(
        {
            "event": "report",
            "checkpoint": str(report.checkpoint),
            "step": report.step,
            "stage": report.stage,
            "finished": report.finished,
        }
    )
    console = Console()
    console.print(f"{report.stage}: step {report.step}, {report.seconds:.0f} s of training", highlight=False)
    console.print(f"checkpoint: {report.checkpoint}", highlight=False, soft_wrap=True)
    console.print(f"metrics:    {report.metrics_file}", highlight=False, soft_wrap=True)
    if not report.finished:
        console.print("stopped before the last step: the same command goes on from here")
        raise typer.Exit(STOPPED)


class _StopSignal:
    """Says True once SIGINT or SIGTERM came; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.came = False
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._take)

    def _take(self, number: int, _frame: object) -> None:
        self.came = True
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.came


def _write_event(event: dict[str, object]) -> None:
    if name := os.environ.get(EVENTS_VARIABLE):
        with Path(name).open("a") as file:
            file.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    typer.run(main)

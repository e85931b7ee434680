"""The original entry point: ``python -m anony_pipeline.train_joint --config FILE --mode auto --max_steps 1000``.

SIGINT, SIGTERM and the end of the process that launched it end it after the action at hand, with a checkpoint from
which the same command goes on.
"""

import json
import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from anony_pipeline.errors import AnonyPipelineError, may_pass_again, of_disk
from anony_pipeline.training.launched import EVENTS_VARIABLE, FAILED, STOPPED, TRY_AGAIN

MAX_STEPS = "Instead of training.max_steps; with --mode pretrain, of training.pretrain_steps."


class Mode(StrEnum):
    """What is trained."""

    AUTO = "auto"
    PRETRAIN = "pretrain"
    JOINT = "joint"


def main(
    config: Annotated[list[str], typer.Option("--config", help="A YAML file; later ones win.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override one key: --set loss.adv_weight=0.05")
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="auto: pretrain if no pretrained generator is there, then joint.")
    ] = Mode.AUTO,
    max_steps: Annotated[int | None, typer.Option("--max_steps", "--max-steps", min=1, help=MAX_STEPS)] = None,
) -> None:
    """Train generator, discriminator and detector, going on from the newest checkpoint of this configuration.

    Before a long run, `anony plan` with the same --config and --set says what is missing. The process ends with a
    checkpoint on Ctrl-C or SIGTERM, and exits with 130; the same command goes on from there.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    # Importing torch takes seconds, which `--help` should not.
    from anony_pipeline.config import loading  # noqa: PLC0415
    from anony_pipeline.training import loop, stopping  # noqa: PLC0415

    stopping.end_with_the_launcher()

    def on_event(event: dict[str, object]) -> None:
        stop.observe(event)
        _write_event(event)

    with stopping.StopSignal(SystemExit(STOPPED)) as stop:
        try:
            report = loop.train(
                loading.load(config, overrides or ()),
                mode=mode.value,
                max_steps=max_steps,
                on_event=on_event,
                should_stop=stop,
            )
        except (AnonyPipelineError, OSError) as error:
            passing = may_pass_again(error)
            told = of_disk(error) or error if isinstance(error, OSError) else error
            if not (passing or isinstance(told, AnonyPipelineError)):
                raise
            Console(stderr=True).print(str(told), markup=False, highlight=False)
            code = TRY_AGAIN if passing else FAILED
            _write_event({"event": "failed", "exit_code": code})
            raise typer.Exit(code) from error
    if not _speaks():
        raise typer.Exit(0 if report.finished else STOPPED)
    _write_event(
        {
            "event": "report",
            "checkpoint": str(report.checkpoint),
            "step": report.step,
            "stage": report.stage,
            "finished": report.finished,
            "curves": str(report.curves) if report.curves else None,
        }
    )
    console = Console()
    console.print(f"{report.stage}: step {report.step}, {report.seconds:.0f} s of training", highlight=False)
    console.print(f"checkpoint: {report.checkpoint}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"metrics:    {report.metrics_file}", highlight=False, soft_wrap=True, markup=False)
    if report.curves:
        page = report.curves.with_name("summary.html")
        console.print(f"summary:    {page}", highlight=False, soft_wrap=True, markup=False)
    if not report.finished:
        console.print("stopped before the last step: the same command goes on from here")
        raise typer.Exit(STOPPED)


def _speaks() -> bool:
    """Whether this is the only process, or the first of several, which speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _write_event(event: dict[str, object]) -> None:
    if (name := os.environ.get(EVENTS_VARIABLE)) and (_speaks() or event["event"] == "failed"):
        with Path(name).open("a") as file:
            file.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    typer.run(main)

"""What a run tells while it runs: `metrics.csv`, events as JSON lines, TensorBoard, and a line of progress."""

import contextlib
import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress, TextColumn

from anony_pipeline.runtime.progress import LOG_EVERY_SECONDS, bar_columns, console
from anony_pipeline.storage import atomic

log = logging.getLogger("anony_pipeline")

Event = dict[str, Any]
OnEvent = Callable[[Event], None]

COLUMNS = (
    # The original plan's columns, in its order, come first.
    "step",
    "l1",
    "perceptual",
    "arcface_mean_sim",
    "easyocr_plate_acc",
    "fid",
    "val_map",
    "kid",
    "train_mean_sim",
    "similarity_gap",
    "canary_auc",
    "id",
    "adv",
    "detection",
    "reading",
    "read_suppress",
    "discriminator",
    "r1",
    "detector",
    "gradient_norm",
    "bad_steps",
    "crops_per_second",
    "seconds",
)
METRICS, EVENTS = "metrics.csv", "events.jsonl"
SHOWN = ("l1", "perceptual", "id", "adv", "reading", "discriminator", "detector")


class Journal:
    """The record of one stage of one run.

    Args:
        folder: Where `metrics.csv`, `events.jsonl` and `tensorboard/` go.
        stage: `pretrain` or `joint`.
        on_event: Called with each event; numbers only, never pixels.
        writes: False for the second of several processes: it writes and shows nothing.
        fingerprint: Of the configuration; another one's `metrics.csv` is kept beside this one's.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        on_event: OnEvent | None = None,
        *,
        writes: bool = True,
        fingerprint: str = "",
    ) -> None:
        self.folder, self.stage, self.on_event, self.writes = folder, stage, on_event, writes
        self.fingerprint = fingerprint
        self.rows: list[dict[str, float]] = []
        self.said = time.monotonic()
        self._bar: tuple[Progress, Any] | None = None
        self._board: Any = None

    @property
    def metrics_file(self) -> Path:
        """The CSV file, one row a step."""
        return self.folder / METRICS

    @contextlib.contextmanager
    def running(self, step: int, until: int) -> Iterator["Journal"]:
        """Open the files, and show progress while the block runs.

        Args:
            step: Steps that are done already; rows of later steps, which a killed run may have left, are dropped.
            until: The last step.
        """
        if not self.writes:
            yield self
            return
        # TensorBoard's import takes a second, which reading this module's columns should not.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._take_turn()
        self.rows = [row for row in read_metrics(self.metrics_file) if row["step"] <= step] if step else []
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        try:
            with self._shown(step, until):
                yield self
        except BaseException:
            # Nothing more fits on a full disk, and that would hide the error that says where training can go on.
            with contextlib.suppress(OSError):
                self._close()
            raise
        self._close()

    def _close(self) -> None:
        self._board.close()
        self.write_metrics()

    def _take_turn(self) -> None:
        """Keep the metrics of another configuration that trained here last, and take this one's back."""
        last = _last_begun(self.folder / EVENTS)
        if last not in (None, self.fingerprint) and self.metrics_file.exists():
            kept = _kept(self.folder, last)
            self.metrics_file.replace(kept)
            log.warning("another configuration trained here before: its checkpoints stay, its metrics are in %s", kept)
        _end_last_line(self.folder / EVENTS)
        if (own := _kept(self.folder, self.fingerprint)).exists():
            own.replace(self.metrics_file)

    def event(self, name: str, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
        """Write an event as one line of `events.jsonl`; hand it on in every process, each of which may be stopped."""
        event = {"event": name, "stage": self.stage, **facts}
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / EVENTS).open("a") as file:
                file.write(json.dumps(event) + "\n")
        if self.on_event is not None:
            self.on_event(event)

    def record(self, step: int, scalars: Mapping[str, float], prefix: str = "train") -> None:
        """Add figures to a step's row; a step may be recorded in several parts."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1] |= scalars
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(f"{prefix}/{name}", value, step)

    def tell(self, step: int, until: int) -> None:
        """Show how far it is: a moving bar on a terminal; elsewhere a log line and an event every ten seconds."""
        if not self.writes:
            return
        row = self.rows[-1] if self.rows else {}
        parts = [f"{name} {row[name]:.3f}" for name in SHOWN if name in row]
        line = f"{row.get('crops_per_second', 0):.1f} crops/s  {'  '.join(parts)}"
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=step, figures=line)
        now = time.monotonic()
        if now - self.said < LOG_EVERY_SECONDS:
            return
        self.said = now
        self.write_metrics()
        self.event("step", **finite(row))
        if self._bar is None:
            log.info("%s %d of %d  %s", self.stage, step, until, line)

    @contextlib.contextmanager
    def _shown(self, step: int, until: int) -> Iterator[None]:
        if not console.is_terminal:
            yield
            return
        with Progress(*bar_columns(), TextColumn("{task.fields[figures]}"), console=console) as progress:
            self._bar = (progress, progress.add_task(self.stage, total=until, completed=step, figures=""))
            try:
                yield
            finally:
                self._bar = None

    def write_metrics(self) -> None:
        """Write `metrics.csv` as far as the run is."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _number(value) for key, value in finite(row).items()} for row in self.rows)
        atomic.write_text(self.metrics_file, text.getvalue())


def finite(row: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is not finite: JSON has no NaN, and an empty cell says "not measured"."""
    return {key: value for key, value in row.items() if math.isfinite(value)}


def metrics_of(folder: Path, fingerprint: str) -> Path:
    """Where a configuration's metrics are, which another one may have set aside."""
    return kept if (kept := _kept(folder, fingerprint)).exists() else folder / METRICS


def _kept(folder: Path, fingerprint: str) -> Path:
    return folder / f"metrics-{fingerprint[:8]}.csv"


def _end_last_line(events: Path) -> None:
    """What a full disk cut off must not take the next event with it."""
    if events.exists() and not events.read_bytes().endswith(b"\n"):
        with events.open("a") as file:
            file.write("\n")


def _last_begun(events: Path) -> str | None:
    """The fingerprint of the configuration that began last; None if that is not known."""
    found = None
    for line in events.read_text().splitlines() if events.exists() else ():
        # The last line of a run that was killed may be cut.
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            found = event.get("fingerprint") if event["event"] == "begin" else found
    return found


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a `metrics.csv`; empty cells are left out. A file that is not there has no rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"

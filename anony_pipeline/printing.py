"""Tables for the terminal."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from anony_pipeline.doctor import Finding
from anony_pipeline.evaluation.schema import ANONYMIZER, METRICS, Figure, Row, Scorecard

if TYPE_CHECKING:  # both load more than a table needs
    from anony_pipeline.anonymize.folder import FolderReport
    from anony_pipeline.datasets.unify import UnifyReport
    from anony_pipeline.evaluation.comparison import Compared

COLUMNS = (
    "kid",
    "arcface_mean_sim",
    "reid_rank1",
    "reid_excess",
    "plate_leak_rate",
    "easyocr_plate_acc",
    "map_retention",
    "coverage",
)
"""What the short table shows; the report has all of it."""


def findings(found: Sequence[Finding]) -> Table:
    """What was looked at, one row each, with what to do where something is not fine."""
    table = Table(box=box.SIMPLE, show_edge=False)
    for column in ("", "what", "found", "do"):
        table.add_column(column, overflow="fold")
    for finding in found:
        mark = (
            "[green]ok[/green]" if finding.fine else "[red]missing[/red]" if finding.needed else "[yellow]look[/yellow]"
        )
        table.add_row(mark, *map(escape, (finding.name, finding.what, "" if finding.fine else finding.do)))
    return table


def report(value: Any, title: str) -> Table:  # noqa: ANN401 - any report dataclass
    """The plain fields of a report, one row each."""
    table = Table(title=escape(title), box=box.SIMPLE, show_header=False, show_edge=False)
    for name, item in dataclasses.asdict(value).items():
        if not isinstance(item, list | tuple) or len(item) <= 5:
            table.add_row(name.replace("_", " "), escape(str(item)))
    return table


def scorecard(card: Scorecard) -> list[Table | str]:
    """The overall figures of every method, the reasons where there is none, and the gates."""
    table = Table(
        title=escape(f"{card.name}: {card.subject.checkpoint}, held-out judges, overall"),
        box=box.SIMPLE,
        show_edge=False,
    )
    table.add_column("method")
    table.add_column("boxes")
    for metric in COLUMNS:
        arrow = "↓" if METRICS[metric].better == "lower" else "↑"
        table.add_column(f"{METRICS[metric].title} {arrow}", justify="right")
    notes: dict[str, int] = {}
    for row in card.rows:
        if row.slice == "overall" and row.panel == "held_out":
            of_folder = card.subject.kind == "folder" and row.method == ANONYMIZER
            name, boxes = ("the folder's images", "") if of_folder else (row.method, row.boxes.replace("_", " "))
            table.add_row(name, boxes, *(_cell(row, metric, notes) for metric in COLUMNS))
    parts: list[Table | str] = [table]
    parts += [f"  [{number}] {escape(reason)}" for reason, number in notes.items()]
    ours = card.row()
    told = ours.figures.get("canary_auc") if ours is not None else None
    if told is not None and told.value is not None:
        parts += [f"  canaries told apart: {_with_interval(told)} of {told.n}; a guess is {told.chance}"]
    return [*parts, "", _gates(card)]


def comparison(cards: Sequence[Scorecard], found: "Sequence[Compared]") -> Table:
    """Figures of the headline row of several scorecards, the last against the first."""
    table = Table(box=box.SIMPLE, show_edge=False, title="anonymizer end to end, held-out judges")
    for column in ("figure", *(escape(f"{card.name} {card.subject.checkpoint}") for card in cards), "the last one is"):
        table.add_column(column, overflow="fold")
    for metric, figures, clear in found:
        arrow = "↓" if METRICS[metric].better == "lower" else "↑"
        cells = ["" if f is None else "null" if f.value is None else _with_interval(f) for f in figures]
        table.add_row(f"{METRICS[metric].title} {arrow}", *cells, clear or "")
    return table


def _with_interval(figure: Figure) -> str:
    ends = f" ({figure.interval[0]:.3f} to {figure.interval[1]:.3f})" if figure.interval is not None else ""
    return f"{figure.value:.3f}{ends}"


def unified(report: "UnifyReport", output: str) -> Table:
    """What `unify` made, by source and split, and what was wrong."""
    table = Table(title=escape(output), box=box.SIMPLE, show_edge=False)
    for column in ("source", "split", "images", "boxes", "faces", "plates", "iscrowd", "without boxes"):
        table.add_column(column, justify="left" if column in ("source", "split") else "right")
    for source, by_split in report.by_source.items():
        for split, count in by_split.items():
            cells = (
                count.images,
                count.boxes,
                count.faces,
                count.license_plates,
                count.iscrowd,
                count.images_without_boxes,
            )
            table.add_row(escape(source), split, *(f"{cell:,}" for cell in cells))
    total = (report.images, report.boxes, "", "", report.iscrowd, report.images_without_boxes)
    table.add_section()
    table.add_row("all", "", *(f"{cell:,}" if cell != "" else "" for cell in total))
    clipped = (
        "not done, because the images were not looked at" if report.clipped is None else f"{report.clipped:,} boxes"
    )
    table.caption = (
        f"dropped: {report.dropped:,} boxes without an area; clipped: {clipped}; left out: "
        f"{report.left_out_frames:,} frames\n"
        f"bad: {report.bad_images:,} images, {report.bad_rows:,} rows (report.json names them)"
    )
    return table


def folder(report: "FolderReport") -> Table:
    """What `anonymize` did, and what it could not."""
    table = Table(box=box.SIMPLE, show_edge=False, show_header=False)
    table.add_row("would be written" if report.dry_run else "written", f"{len(report.written):,} images")
    table.add_row("finished before", f"{len(report.skipped):,} images")
    for name, count in [*report.regions.items(), *report.reasons.items()]:
        table.add_row(name, f"{count:,}")
    for suffix, count in report.other_files.items():
        table.add_row(escape(f"no image of a known format: {suffix}"), f"{count:,}")
    for problem in report.problems:
        table.add_row(f"[red]nothing written[/red] for {escape(problem.image)}", escape(problem.reason))
    return table


def _cell(row: Row, metric: str, notes: dict[str, int]) -> str:
    figure: Figure | None = row.figures.get(metric)
    if figure is None:
        return ""
    if figure.value is not None:
        return f"{figure.value:.3f}"
    reason = figure.reason or "no reason given"
    return f"- \\[{notes.setdefault(reason, len(notes) + 1)}]"


def _gates(card: Scorecard) -> Table:
    table = Table(title="gates of the release", box=box.SIMPLE, show_edge=False)
    for column in ("", "gate", "figure", "bound", "rule"):
        table.add_column(column, overflow="fold")
    for gate in card.gates:
        mark = "[green]pass[/green]" if gate.passed else "[red]fail[/red]"
        value = f"{gate.value:.3f}" if gate.value is not None else escape(f"none: {gate.reason}")
        table.add_row(mark, gate.name, value, f"{gate.bound:g}", gate.rule)
    return table

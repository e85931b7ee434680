"""The scorecard as one self-contained page, and as a table on the terminal. Aggregates and procedural pictures only."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import jinja2
import numpy as np
from rich.table import Table

from anony_pipeline.evaluation.schema import ANONYMIZER, METRICS, OVERALL, REAL_HALVES, Figure, Row, Scorecard

TEMPLATES = Path(__file__).parent / "templates"
Shown = tuple[str, np.ndarray, Mapping[str, np.ndarray]]
"""A picture's name, the original, and the result by method."""

HEADLINE = (
    "reid_rank1",
    "reid_excess",
    "arcface_mean_sim",
    "plate_leak_rate",
    "easyocr_plate_acc",
    "map_retention",
    "kid",
    "coverage",
)
"""The columns of the first table, and of the terminal's."""

DETAILS = tuple(name for name in METRICS if name not in HEADLINE)
TITLES = {
    f"{ANONYMIZER}/detected": "anonymizer, end to end",
    f"{ANONYMIZER}/ground_truth": "anonymizer, given boxes",
    REAL_HALVES: "originals, half against half",
    "none": "none (the originals)",
}
PICTURED = ("none", f"{ANONYMIZER}/detected", "base", "fit", "blur", "other_face")


def title_of(row: Row) -> str:
    """What a row is called in tables."""
    return TITLES.get(f"{row.method}/{row.boxes}", TITLES.get(row.method, row.method))


def number(value: float) -> str:
    """A figure with as many digits as say something.

    >>> number(0.12345), number(1234.5), number(0.00012), number(0.0)
    ('0.123', '1234', '1.2e-04', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"


def scorecard_table(card: Scorecard) -> Table:
    """The overall figures by the held-out judges, for the terminal."""
    table = Table(title=f"{card.name}: {card.subject.checkpoint}", caption=_caption(card))
    table.add_column("method", no_wrap=True)
    for name in HEADLINE:
        arrow = "↑" if METRICS[name].better == "higher" else "↓"
        table.add_column(f"{METRICS[name].title} {arrow}", justify="right")
    for row in overall_rows(card):
        cells = [_plain(row.figures.get(name)) for name in HEADLINE]
        table.add_row(title_of(row), *cells, style="bold" if row.method == ANONYMIZER else None)
    return table


def _plain(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return "null" if figure.value is None else number(figure.value)


def _caption(card: Scorecard) -> str:
    lines = [f"gate {g.name}: {'holds' if g.passed else f'fails, {g.reason}'}" for g in card.gates]
    lines += [f"{key}: {judge.blind}" for key, judge in card.judges.items() if judge.blind]
    if not card.overall_of_this_run:
        lines.append("the overall rows are not of this run")
    return "\n".join(lines)


def overall_rows(card: Scorecard) -> list[Row]:
    """The rows of the first table: overall, by the held-out judges."""
    return [row for row in card.rows if row.slice == OVERALL and row.panel == "held_out"]


def render(card: Scorecard, pictures: Sequence[Shown] = ()) -> str:
    """Make the page: HTML without a script or a link to anything outside.

    Args:
        card: The scorecard.
        pictures: Procedural regions before and after; none of real people.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(number=number, title_of=title_of, metrics=METRICS)
    slices = sorted({row.slice for row in card.rows} - {OVERALL})
    return environment.get_template("report.html.j2").render(
        card=card,
        headline=HEADLINE,
        overall=overall_rows(card),
        best=best(overall_rows(card)),
        details=_details(card),
        training=[row for row in card.rows if row.slice == OVERALL and row.panel == "training"],
        slices=[(name, _slice_rows(card, name)) for name in slices],
        reasons=_reasons(card),
        pictures=[_gallery(shown) for shown in pictures],
        pictured=[(key, TITLES.get(key, key)) for key in PICTURED if any(key in after for _, _, after in pictures)],
    )


def best(rows: Sequence[Row]) -> dict[str, float]:
    """The best value of each headline column among the methods that replace something."""
    found: dict[str, float] = {}
    for name in HEADLINE:
        values = [
            figure.value
            for row in rows
            if row.method not in ("none", REAL_HALVES)
            and (figure := row.figures.get(name)) is not None
            and figure.value is not None
        ]
        if values:
            found[name] = max(values) if METRICS[name].better == "higher" else min(values)
    return found


def _details(card: Scorecard) -> list[tuple[str, list[tuple[Row, Figure]]]]:
    rows = overall_rows(card)
    return [
        (name, shown)
        for name in DETAILS
        if (shown := [(row, row.figures[name]) for row in rows if name in row.figures])
    ]


def _slice_rows(card: Scorecard, name: str) -> list[Row]:
    shown = ("detected", "ground_truth")
    rows = [row for row in card.rows if row.slice == name and row.panel == "held_out"]
    return [row for row in rows if row.method == ANONYMIZER and row.boxes in shown] + [
        row for row in rows if row.method in ("none", "blur", "other_face")
    ]


def _reasons(card: Scorecard) -> list[str]:
    """The reasons of the overall figures that are null, each once, in the order in which they appear."""
    found: dict[str, None] = {}
    for row in overall_rows(card):
        for name in HEADLINE:
            figure = row.figures.get(name)
            if figure is not None and figure.reason is not None:
                found.setdefault(f"{METRICS[name].title}: {figure.reason}")
    return list(found)


def _gallery(shown: Shown) -> tuple[str, list[tuple[str, str]]]:
    name, before, after = shown
    pairs = [("none", before), *((key, after[key]) for key in PICTURED if key in after and key != "none")]
    return name, [(TITLES.get(key, key), _data_uri(picture)) for key, picture in pairs]


def _data_uri(image_rgb: np.ndarray) -> str:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()

"""The scorecard as one self-contained page. Aggregates and procedural pictures only."""

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from anony_pipeline.evaluation import plots
from anony_pipeline.evaluation.schema import ANONYMIZER, METRICS, OVERALL, REAL_HALVES, Figure, Panel, Row, Scorecard
from anony_pipeline.ops import images

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
"""The columns of the first table."""

PRIVACY = {
    "Singling out": (
        "Can somebody be told from the rest by what is left of the face or the plate?",
        (
            "coverage",
            "reid_rank1",
            "reid_excess",
            "tar_at_far_1e2",
            "tar_at_far_1e3",
            "plate_leak_rate",
            "plate_leak_candidates",
        ),
    ),
    "Linkability": (
        "Can two anonymized images of one person be linked, or can an attacker learn to?",
        ("attack_linkability", "attack_parrot", "reid_rank1_same_photo"),
    ),
    "Inference": (
        "Does a result tell what the training images or the original looked like?",
        ("attack_restoration", "memorization_gap", "canary_auc", "nearest_training_identity", "diversity_effective"),
    ),
}
"""The three risks of the Article 29 Working Party's Opinion 05/2014 (WP216): what is asked, and by which figures."""

PROOFS = {"recognizer": "rank-1", "reader": "exact reads", "detector": "mAP50", "features": "KID of solid color"}
"""What a kind of judge proves itself by."""

TRADE_OFFS = (("map_retention", "reid_rank1"), ("map_retention", "plate_leak_rate"))
"""Utility (more is better) and what leaks (less is better), plotted over one another."""
CURVES = ("reid_rank1", "plate_leak_rate", "map_retention", "kid")

DETAILS = tuple(name for name in METRICS if name not in HEADLINE)
TITLES = {
    f"{ANONYMIZER}/detected": "anonymizer, end to end",
    f"{ANONYMIZER}/ground_truth": "anonymizer, given boxes",
    REAL_HALVES: "originals, half against half",
    "none": "none (the originals)",
}
SLICES = {"style": "plate style", "size": "height", "kind": "only", "skin": "skin tone", "time": "light by"}
GIVEN = "the folder's images"
SHEET_CELL_HW = (64, 192)
PICTURED = ("none", f"{ANONYMIZER}/detected", "base", "fit", "blur", "other_face")


def title_of(row: Row, kind: str = "checkpoint") -> str:
    """What a row is called in tables, by what was judged: a checkpoint, or a folder of anybody's images."""
    if kind == "folder" and row.method == ANONYMIZER:
        return GIVEN
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


def title_of_slice(name: str) -> str:
    """A slice in words.

    >>> title_of_slice("size:<16"), title_of_slice("style:FR"), title_of_slice("pose:frontal")
    ('height <16 px', 'plate style FR', 'pose frontal')
    """
    group, _, value = name.partition(":")
    value = {"face": "faces", "license_plate": "plates"}.get(value, value)
    return f"{SLICES.get(group, group)} {value}{' px' * (group == 'size')}"


def _with_interval(figure: Figure) -> str:
    if figure.value is None:
        return "null"
    ends = f" ({number(figure.interval[0])} to {number(figure.interval[1])})" if figure.interval else ""
    return f"{number(figure.value)}{ends}"


def overall_rows(card: Scorecard) -> list[Row]:
    """The rows of the first table: overall, by the held-out judges."""
    return [row for row in card.rows if row.slice == OVERALL and row.panel == "held_out"]


def before_and_after(pictures: Sequence[Shown]) -> np.ndarray:
    """A sheet of each region as it was and as the anonymizer made it, side by side, ``(H, W, 3)`` uint8.

    Args:
        pictures: As `render` takes them; faces and plates differ in width, so each pair is brought to one.
    """
    pairs = [side for _, before, after in pictures for side in (before, after.get(f"{ANONYMIZER}/detected", before))]
    return images.sheet([_in_cell(side) for side in pairs], SHEET_CELL_HW, columns=6)


def _in_cell(picture: np.ndarray) -> np.ndarray:
    height, width = SHEET_CELL_HW
    shown = images.resize(picture, (height, min(width, round(picture.shape[1] * height / picture.shape[0]))))
    rest = width - shown.shape[1]
    return np.pad(shown, ((0, 0), (rest // 2, rest - rest // 2), (0, 0)), constant_values=255)


def render(card: Scorecard, pictures: Sequence[Shown] = (), history: Sequence[Scorecard] = ()) -> str:
    """Make the page: HTML without a script or a link to anything outside.

    Args:
        card: The scorecard.
        pictures: Procedural regions before and after; none of real people.
        history: Comparable scorecards by step, this one among them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    titles = partial(title_of, kind=card.subject.kind)
    environment.globals.update(number=number, title_of=titles, metrics=METRICS, arrowed=_with_arrow, proofs=PROOFS)
    # In the scorecard's order: small regions before large ones.
    slices = [name for name in dict.fromkeys(row.slice for row in card.rows) if name != OVERALL]
    return environment.get_template("report.html.j2").render(
        card=card,
        headline=HEADLINE,
        overall=overall_rows(card),
        best=best(overall_rows(card)),
        details=_details(card),
        panels=[
            (panel, rows, _told(rows), _reasons(rows, HEADLINE))
            for panel in ("second", "training")
            if (rows := [row for row in card.rows if row.slice == OVERALL and row.panel == panel])
        ],
        trade_offs=[Markup(drawn) for drawn in map(partial(_trade_off, card), TRADE_OFFS) if drawn],  # noqa: S704 - ours
        curves=[Markup(drawn) for drawn in map(partial(_curve, history), CURVES) if drawn],  # noqa: S704 - ours
        privacy=PRIVACY,
        originals=card.row("none"),
        untrained=_untrained(card),
        attacked=[row for row in overall_rows(card) if "attack_linkability" in row.figures],
        slices=[_slice(card, name) for name in slices],
        reasons=_reasons(overall_rows(card), HEADLINE),
        detail_reasons=_reasons(overall_rows(card), DETAILS),
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


def _untrained(card: Scorecard) -> str | None:
    """Canaries told by the base model, which saw none of them; None without an audit or a base."""
    base = card.row("base")
    figure = base.figures.get("canary_auc") if base is not None else None
    return None if figure is None else _with_interval(figure)


def _details(card: Scorecard) -> list[tuple[str, list[Figure | None]]]:
    """The figures that the first table does not show, by method; what is null for all is a reason alone."""
    rows = overall_rows(card)
    found = [(name, [row.figures.get(name) for row in rows]) for name in DETAILS]
    return [(name, figures) for name, figures in found if any(f is not None and f.value is not None for f in figures)]


def _told(rows: Sequence[Row]) -> list[str]:
    """The headline's columns of which some row has a figure, or a reason why not."""
    return [name for name in HEADLINE if any(name in row.figures for row in rows)]


def _trade_off(card: Scorecard, metrics: tuple[str, str]) -> str:
    """What leaks over what stays useful, a point a method; empty if fewer than two methods have both figures.

    Where the held-out detector is blind, the second one says what stays useful: one judge an axis, never two.
    """
    judges: dict[Panel, str] = {"held_out": "", "second": ", by the second detector"}
    for panel, by in judges.items():
        points = _points(card, metrics, panel)
        if len(points) > 1:
            x = plots.span(_with_arrow(metrics[0]) + by, [point.x for point in points])
            y = plots.span(_with_arrow(metrics[1]), [point.y for point in points])
            return plots.scatter(points, x, y, chance=_guess(card) if metrics[1] == "reid_rank1" else None)
    return ""


def _points(card: Scorecard, metrics: tuple[str, str], panel: Panel) -> list[plots.Point]:
    """What stays useful by a panel's detector, and what leaks by the held-out judge."""
    points = []
    for row in overall_rows(card):
        useful = card.row(row.method, panel=panel, boxes=row.boxes)
        first, second = useful.figures.get(metrics[0]) if useful else None, row.figures.get(metrics[1])
        if first is None or second is None or first.value is None or second.value is None:
            continue
        whole = GIVEN if card.subject.kind == "folder" else "end to end"
        name = {"anonymizer/detected": whole, "anonymizer/ground_truth": "given boxes"}.get(
            f"{row.method}/{row.boxes}", row.method
        )
        points.append(plots.Point(first.value, second.value, name, row.method == ANONYMIZER))
    return points


def _guess(card: Scorecard) -> float | None:
    figures = [row.figures.get("reid_chance") for row in overall_rows(card)]
    return next((figure.value for figure in figures if figure is not None and figure.value is not None), None)


def _curve(history: Sequence[Scorecard], name: str) -> str:
    """The headline's figure over the steps of its checkpoints; empty if there is only one."""
    points = [
        (float(card.subject.step), figure.value, figure.interval)
        for card in history
        if (row := card.row()) is not None
        and (figure := row.figures.get(name)) is not None
        and figure.value is not None
    ]
    if len(points) < 2:
        return ""
    ends = [value for _, _, interval in points for value in interval or ()]
    x = plots.Axis("step", points[0][0], points[-1][0])
    return plots.curve(points, x, plots.span(_with_arrow(name), [*(point[1] for point in points), *ends]))


def _with_arrow(name: str) -> str:
    return f"{METRICS[name].title} {'↑' if METRICS[name].better == 'higher' else '↓'}"


def _slice(card: Scorecard, name: str) -> tuple[str, list[Row], list[str], list[str]]:
    """A slice's title with its number of regions, its rows if they have a figure, the columns, why some are null."""
    rows = _slice_rows(card, name)
    measured = any((figure := row.figures.get(name)) and figure.value is not None for row in rows for name in HEADLINE)
    regions = max((figure.n or 0 for row in rows if (figure := row.figures.get("coverage")) is not None), default=0)
    return (
        f"{title_of_slice(name)}: {regions} region{'s' * (regions != 1)}",
        rows if measured else [],
        _told(rows),
        _reasons(rows, HEADLINE),
    )


def _slice_rows(card: Scorecard, name: str) -> list[Row]:
    shown = ("detected", "ground_truth")
    rows = [row for row in card.rows if row.slice == name and row.panel == "held_out"]
    return [row for row in rows if row.method == ANONYMIZER and row.boxes in shown] + [
        row for row in rows if row.method in ("none", "blur", "other_face")
    ]


def _reasons(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Why figures are null, each reason once with the columns that it is of, in the order in which they appear."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in names:
            figure = row.figures.get(name)
            if figure is not None and figure.reason is not None:
                found.setdefault(figure.reason, {})[METRICS[name].title] = None
    return [f"{', '.join(titles)}: {reason}" for reason, titles in found.items()]


def _gallery(shown: Shown) -> tuple[str, list[tuple[str, str]]]:
    name, before, after = shown
    pairs = [("none", before), *((key, after[key]) for key in PICTURED if key in after and key != "none")]
    return name, [(TITLES.get(key, key), _data_uri(picture)) for key, picture in pairs]


def _data_uri(image_rgb: np.ndarray) -> str:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()

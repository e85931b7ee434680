"""From reports of the library to Dagster metadata: numbers under stable names, small pictures, tables."""

import base64
import dataclasses
import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from upath import UPath

from anony_pipeline.config.schema import Config

if TYPE_CHECKING:
    import numpy as np

    from anony_pipeline.datasets.coco import CocoSet
    from anony_pipeline.evaluation.schema import Figure, Gate, Row, Scorecard
    from anony_pipeline.targets.report import TargetReport

PICTURE_BYTES = 200_000
TABLE_ROWS = 50


def numbers(report: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - any dataclass or mapping
    """The numbers of a report, nested names joined by ``/``; NaN, infinity and anything else is left out.

    >>> numbers({"images": 3, "boxes": {"face": 2}, "note": "x"})
    {'images': 3, 'boxes/face': 2}
    """
    if dataclasses.is_dataclass(report) and not isinstance(report, type):
        report = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    found: dict[str, Any] = {}
    for name, value in report.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) or dataclasses.is_dataclass(value):
            found |= numbers(value, f"{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[key] = value
    return found


def path(value: object) -> dg.MetadataValue:
    """A file or folder, or a URL of a store."""
    return dg.MetadataValue.path(str(value))


def table(rows: Sequence[dict[str, Any]]) -> dg.MetadataValue:
    """A table; a long one is cut, because dialogs get slow. Rows may lack columns."""
    if not rows:
        return dg.MetadataValue.text("no rows")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return dg.MetadataValue.table(
        [
            dg.TableRecord({name: "" if row.get(name) is None else row[name] for name in columns})
            for row in rows[:TABLE_ROWS]
        ]
    )


COLUMN_SCHEMA = "dagster/column_schema"
"""Where Dagster's pages look for the columns of what an asset holds."""


def columns(described: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """What the columns of an asset's rows are: name to type and meaning."""
    return dg.TableSchema([dg.TableColumn(name, kind, text) for name, (kind, text) in described.items()])


def columns_of(record: type) -> dg.TableSchema:
    """The columns of rows that are a dataclass's fields, with the meanings that its docstring gives them."""
    section = (inspect.getdoc(record) or "").partition("Attributes:\n")[2]
    meanings = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE))
    return columns(
        {
            field.name: (getattr(field.type, "__name__", str(field.type)), " ".join(meanings[field.name].split()))
            for field in dataclasses.fields(record)
        }
    )


def of_unified(splits: Mapping[str, "CocoSet"], config: Config) -> dict[str, Any]:
    """Class balance of the splits in numbers and by plate style; some labeled images if all are procedural."""
    from anony_pipeline.datasets import overview
    from anony_pipeline.ops import images

    by_style = {split: overview.balance_by_style(coco) for split, coco in splits.items()}
    totals = {split: sum(found.values(), start=overview.Balance()) for split, found in by_style.items()}
    rows = [
        {"plate style": style} | numbers({split: found[style] for split, found in by_style.items() if style in found})
        for style in sorted({style for found in by_style.values() for style in found})
    ]
    shown = {**numbers(totals), "balance": table(rows)}
    if is_procedural(config, splits.values()):
        pictures = overview.labeled(splits["train"], 12)
        height, width = pictures[0].shape[:2]
        shown["labeled images"] = picture(images.sheet(pictures, (height, width), columns=4), "labeled images")
    return shown


def is_procedural(config: Config, splits: Iterable["CocoSet"]) -> bool:
    """Whether this program drew all images: only then do pictures go into metadata, which is not private.

    The images say it, because a unified set that is there is used as it is: each one is of a drawn source, and lies in
    that source's folder.
    """
    from anony_pipeline.storage.locations import location

    if config.data.streetscape is None:
        return False
    drawn = {source.name: location(source.root) for source in config.data.sources if source.ground_truth is not None}

    def is_drawn(split: "CocoSet", source: str | None) -> bool:
        return source in drawn and split.roots.get(source) == drawn[source]

    return all(is_drawn(split, name) for split in splits for name in {image.get("source") for image in split.images})


def picture(image_rgb: "np.ndarray", name: str) -> dg.MetadataValue:
    """A picture inside the metadata: JPEG, shrunk until it fits into `PICTURE_BYTES`.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, of procedural or rendered content only.
        name: The alternative text.
    """
    import cv2

    image, quality = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), 85
    while True:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        text = base64.b64encode(data).decode()
        if len(text) <= PICTURE_BYTES:
            return dg.MetadataValue.md(f"![{name}](data:image/jpeg;base64,{text})")
        image = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)


def picture_file(file: Path | UPath, name: str) -> dg.MetadataValue:
    """A picture file of procedural content inside the metadata (see `picture`)."""
    from anony_pipeline.ops import images

    return picture(images.read(file), name)


def curves(file: str | None) -> dict[str, dg.MetadataValue]:
    """The losses' curves inside the metadata, and where the page about them lies; nothing if nothing was drawn."""
    if file is None:
        return {}
    text = base64.b64encode(Path(file).read_bytes()).decode()
    return {
        "curves": dg.MetadataValue.md(f"![losses and figures over the steps](data:image/png;base64,{text})"),
        "summary": path(Path(file).with_name("summary.html")),
    }


def of_row(row: "Row | None", metrics: Sequence[str]) -> dict[str, Any]:
    """A scorecard row's figures: numbers under the metric's name, and the reason where there is none.

    Args:
        row: `evaluation.schema.Row`, or None if the scorecard has no such row.
        metrics: Which ones.
    """
    shown: dict[str, Any] = {}
    for metric in metrics:
        figure = row.figures.get(metric) if row is not None else None
        if figure is None:
            shown[f"{metric}/reason"] = "not in the scorecard"
        elif figure.value is None:
            shown[f"{metric}/reason"] = figure.reason
        else:
            shown[metric] = figure.value
    return shown


def headline(card: "Scorecard") -> dict[str, Any]:
    """The anonymizer's overall figures on detected boxes, by the held-out judges."""
    row = card.row()
    return of_row(row, list(row.figures) if row is not None else [])


def scorecard_columns() -> dg.TableSchema:
    """What the scorecard's figures mean, and whether more or less of each is better."""
    from anony_pipeline.evaluation.schema import METRICS

    return columns(
        {name: ("float", f"{metric.meaning}; {metric.better} is better") for name, metric in METRICS.items()}
    )


def scorecard_table(card: "Scorecard") -> dg.MetadataValue:
    """A row a method, overall, with the reason where there is no figure."""
    return table(
        [
            {"method": row.method, "boxes": row.boxes, "judges": row.panel}
            | {name: _shown(figure) for name, figure in row.figures.items()}
            for row in card.rows
            if row.slice == "overall"
        ]
    )


def _shown(figure: "Figure") -> str:
    return f"{figure.value:.3f}" if figure.value is not None else f"- ({figure.reason})"


def gate_result(gate: "Gate") -> dg.AssetCheckResult:
    """A gate as the result of an asset check: a failed one warns and doesn't stop the run."""
    facts = {"value": gate.value, "bound": gate.bound, "rule": gate.rule, "reason": gate.reason}
    return dg.AssetCheckResult(
        check_name=gate.name,
        passed=gate.passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: value for name, value in facts.items() if value is not None},
    )


def of_targets(report: "TargetReport", config: Config, coco: "CocoSet") -> dict[str, Any]:
    """Counts of pseudo-targets, and pairs of original and target where all images of the set are procedural."""
    shown: dict[str, Any] = {
        name: getattr(report, name) for name in ("regions", "made", "reused", "too_small", "seconds")
    }
    if report.manifest is not None:
        shown["manifest"] = path(report.manifest)
    from anony_pipeline.targets.store import TargetRecord

    shown[COLUMN_SCHEMA] = columns_of(TargetRecord)
    shown |= {"method": report.method} | {f"failed/{reason}": count for reason, count in report.failed.items()}
    if report.examples and is_procedural(config, [coco]):
        from anony_pipeline.ops import images

        pairs = [image for pair in report.examples[:12] for image in pair]
        height, width = pairs[0].shape[:2]
        shown["original and target"] = picture(images.sheet(pairs, (96, 96 * width // height), columns=8), report.name)
    return shown

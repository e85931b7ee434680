"""Plots of the report as inline SVG: they take the page's colors, light and dark, and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 108, 14, 42
LINE_PX, LETTER_PX, LABEL_PX = 13, 6.5, 9
"""A label's height, the width of its letters, and its distance from its point, in user units."""


class Point(NamedTuple):
    """A labelled point."""

    x: float
    y: float
    label: str
    ours: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis, in data units."""

    title: str
    low: float
    high: float


def span(title: str, values: Sequence[float]) -> Axis:
    """An axis from 0 (or below, if a value is) to the next round number above all values.

    Args:
        title: What it measures.
        values: At least one.

    >>> span("", [0.03, 0.66]).high, span("", [-0.1, 0.5]).low
    (0.8, -0.1)
    """
    low, high = min(0.0, *values), max(values)
    unit = 10.0 ** math.floor(math.log10(max(high, -low, 1e-9)))
    high = next(step * unit for step in (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= high - 1e-12)
    return Axis(title, low, high)


def scatter(points: Sequence[Point], x: Axis, y: Axis, *, chance: float | None = None) -> str:
    """Points with their names beside them; names that would overlap move up or down.

    Args:
        points: What is drawn.
        x: The horizontal axis.
        y: The vertical axis.
        chance: Draws a line at this height.
    """
    parts = [_frame(x, y)]
    if chance is not None and y.low <= chance <= y.high:
        level = _y(chance, y)
        parts.append(f'<line class="chance" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text class="soft" x="{WIDTH - RIGHT + 4}" y="{level + 4:.1f}">a guess</text>')
    places = [(_x(point.x, x), _y(point.y, y)) for point in points]
    heights = _spread(places, [point.label for point in points])
    for point, place, height in zip(points, places, heights, strict=True):
        kind = ' class="ours"' if point.ours else ""
        label = place[0] + LABEL_PX
        parts.append(f'<circle{kind} cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{5 if point.ours else 4}"/>')
        if abs(height - place[1]) > LINE_PX / 2:
            parts.append(
                f'<line class="lead" x1="{place[0]:.1f}" y1="{place[1]:.1f}" x2="{label - 2:.1f}" y2="{height:.1f}"/>'
            )
        parts.append(f'<text{kind} x="{label:.1f}" y="{height + 4:.1f}">{escape(point.label)}</text>')
    return _svg(parts, f"{y.title} over {x.title}")


def curve(points: Sequence[tuple[float, float, tuple[float, float] | None]], x: Axis, y: Axis) -> str:
    """A line through points, with their intervals.

    Args:
        points: ``(x, y, interval of y)``, by x.
        x: The horizontal axis.
        y: The vertical axis.
    """
    parts = [_frame(x, y)]
    path = " ".join(f"{_x(a, x):.1f},{_y(b, y):.1f}" for a, b, _ in points)
    parts.append(f'<polyline points="{path}"/>')
    for a, b, interval in points:
        if interval is not None:
            ends = [_y(min(max(value, y.low), y.high), y) for value in interval]
            parts.append(
                f'<line class="whisker" x1="{_x(a, x):.1f}" x2="{_x(a, x):.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>'
            )
        parts.append(f'<circle class="ours" cx="{_x(a, x):.1f}" cy="{_y(b, y):.1f}" r="4"/>')
    return _svg(parts, f"{y.title} over {x.title}")


def _x(value: float, axis: Axis) -> float:
    return LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - (value - axis.low) / (axis.high - axis.low) * (HEIGHT - TOP - BOTTOM)


def _spread(places: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[float]:
    """Heights of labels, in the same order: beside their points, or as little above or below as keeps them apart."""
    placed: list[tuple[float, float, float]] = []
    for (x, y), label in zip(places, labels, strict=True):
        end = x + LABEL_PX + LETTER_PX * len(label)
        near = [(low, high, height) for low, high, height in placed if low < end and x < high]
        tries = [y + sign * step * LINE_PX / 2 for step in range(2 * len(places)) for sign in (-1, 1)]
        free = [
            height
            for height in tries
            if TOP <= height <= HEIGHT - BOTTOM and all(abs(height - other) >= LINE_PX for _, _, other in near)
        ]
        placed.append((x, end, free[0] if free else y))
    return [height for _, _, height in placed]


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for share in (0, 0.5, 1):
        a, b = x.low + share * (x.high - x.low), y.low + share * (y.high - y.low)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(b, y):.1f}" y2="{_y(b, y):.1f}"/>'
            f'<text class="soft" text-anchor="end" x="{LEFT - 6}" y="{_y(b, y) + 4:.1f}">{_short(b)}</text>'
            f'<text class="soft" text-anchor="middle" x="{_x(a, x):.1f}" y="{HEIGHT - BOTTOM + 15}">{_short(a)}</text>'
        )
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text text-anchor="middle" x="{middle_x}" y="{HEIGHT - 8}">{escape(x.title)}</text>')
    turned = f'text-anchor="middle" transform="rotate(-90 13 {middle_y})"'
    parts.append(f'<text {turned} x="13" y="{middle_y}">{escape(y.title)}</text>')
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def _svg(parts: Sequence[str], title: str) -> str:
    inner = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{inner}</svg>'

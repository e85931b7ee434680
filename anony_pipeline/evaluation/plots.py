"""Plots of the report as inline SVG: they take the page's colors, light and dark, and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 108, 14, 42
LINE_PX, LETTER_PX, LABEL_PX, DOT_PX = 13, 6.5, 9, 5
"""A label's height, the width of its letters, its distance from its point, and a point's radius, in user units."""


class Point(NamedTuple):
    """A labeled point."""

    x: float
    y: float
    label: str
    ours: bool = False


class Box(NamedTuple):
    """A place in the plot, in user units."""

    left: float
    top: float
    right: float
    bottom: float


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
    """Points with their names beside them; a name that would cover another one or a point moves.

    Args:
        points: What is drawn.
        x: The horizontal axis.
        y: The vertical axis.
        chance: Draws a line at this height.
    """
    parts, taken = [_frame(x, y)], []
    if chance is not None and y.low <= chance <= y.high:
        level = _y(chance, y)
        parts.append(f'<line class="chance" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text class="soft" x="{WIDTH - RIGHT + 4}" y="{level + 4:.1f}">a guess</text>')
        taken = [
            Box(LEFT, level - 1, WIDTH - RIGHT, level + 1),
            Box(WIDTH - RIGHT + 4, level - LINE_PX / 2, WIDTH, level + LINE_PX / 2),
        ]
    places = [(_x(point.x, x), _y(point.y, y)) for point in points]
    boxes = label_boxes(places, points, taken)
    for point, (across, down), box in zip(points, places, boxes, strict=True):
        kind = ' class="ours"' if point.ours else ""
        middle, leftward = (box.top + box.bottom) / 2, box.right < across
        if abs(middle - down) > LINE_PX / 2:
            end = box.right + 2 if leftward else box.left - 2
            parts.append(f'<line class="lead" x1="{across:.1f}" y1="{down:.1f}" x2="{end:.1f}" y2="{middle:.1f}"/>')
        parts.append(f'<circle{kind} cx="{across:.1f}" cy="{down:.1f}" r="{DOT_PX if point.ours else DOT_PX - 1}"/>')
        side = f'text-anchor="end" x="{box.right:.1f}"' if leftward else f'x="{box.left:.1f}"'
        parts.append(f'<text{kind} {side} y="{middle + 4:.1f}">{escape(point.label)}</text>')
    return _svg(parts, f"{y.title} over {x.title}")


def label_boxes(places: Sequence[tuple[float, float]], points: Sequence[Point], taken: Sequence[Box] = ()) -> list[Box]:
    """Where the labels stand: right or left of their points, and as little above or below as keeps all apart.

    Args:
        places: The points in user units.
        points: Their labels; the anonymizer's choose first.
        taken: What must not be covered either.

    Returns:
        A box a label, in the points' order. Where there is no room, a label covers something.
    """
    occupied = [*taken, *(Box(x - DOT_PX, y - DOT_PX, x + DOT_PX, y + DOT_PX) for x, y in places)]
    found: dict[int, Box] = {}
    for number in sorted(range(len(points)), key=lambda i: not points[i].ours):
        tries = _tries(places[number], LETTER_PX * len(points[number].label), 2 * len(points) + 2)
        found[number] = next((box for box in tries if not any(_meet(box, other) for other in occupied)), tries[0])
        occupied.append(found[number])
    return [found[number] for number in range(len(points))]


def _tries(place: tuple[float, float], width: float, steps: int) -> list[Box]:
    """The places of a label from the nearest on, all inside the plot; the one beside its point at least."""
    x, y = place
    sides = [(x + LABEL_PX, x + LABEL_PX + width), (x - LABEL_PX - width, x - LABEL_PX)]
    tries = [
        Box(left, y + shift - LINE_PX / 2, right, y + shift + LINE_PX / 2)
        for step in range(steps)
        for shift in sorted({-step * LINE_PX / 2, step * LINE_PX / 2})
        for left, right in sides
        if left >= LEFT and right <= WIDTH and TOP <= y + shift <= HEIGHT - BOTTOM
    ]
    return tries or [Box(sides[0][0], y - LINE_PX / 2, sides[0][1], y + LINE_PX / 2)]


def _meet(first: Box, second: Box) -> bool:
    across = first.left < second.right and second.left < first.right
    return across and first.top < second.bottom and second.top < first.bottom


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

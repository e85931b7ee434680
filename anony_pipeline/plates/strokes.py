"""Characters of one stroke width, drawn from skeletons: what embossing dies cut, and the same on every machine.

DIN 1451 and its many descendants on plates are made of level and upright strokes joined by arcs. A skeleton is a few
lines through a unit box; how wide, how heavy and how round it is drawn makes it one country's letters or another's.
"""

import functools

import cv2
import numpy as np

FACE = "strokes"
"""A style's ``font.face`` that means these skeletons."""

MASTER_PX = 192
WIDTH = 0.6
"""Of an ordinary character over its height, before condensing."""
FINE = 4
"""Drawn so much larger, then averaged down."""

SKELETONS = {
    "A": "0,1 .5,0 1,1 | .17,.68 .83,.68",
    "B": "0,1 0,0 ~.94,0 ~.94,.47 0,.47 | .5,.47 ~1,.47 ~1,1 0,1",
    "C": "1,.27 ~1,0 ~0,0 ~0,1 ~1,1 1,.73",
    "D": "0,0 ~1,0 ~1,1 0,1 0,0",
    "E": "1,0 0,0 0,1 1,1 | 0,.48 .85,.48",
    "F": "1,0 0,0 0,1 | 0,.5 .85,.5",
    "G": "1,.25 ~1,0 ~0,0 ~0,1 ~1,1 1,.55 .55,.55",
    "H": "0,0 0,1 | 1,0 1,1 | 0,.48 1,.48",
    "I": ".5,0 .5,1",
    "J": "1,0 ~1,1 ~0,1 0,.74",
    "K": "0,0 0,1 | 1,0 0,.62 | .36,.4 1,1",
    "L": "0,0 0,1 1,1",
    "M": "0,1 0,0 .5,.62 1,0 1,1",
    "N": "0,1 0,0 1,1 1,0",
    "O": ".5,0 ~1,0 ~1,1 ~0,1 ~0,0 .5,0",
    "P": "0,1 0,0 ~1,0 ~1,.54 0,.54",
    "Q": ".5,0 ~1,0 ~1,1 ~0,1 ~0,0 .5,0 | .6,.72 1.05,1.02",
    "R": "0,1 0,0 ~1,0 ~1,.54 0,.54 | .45,.54 1,1",
    "S": "1,.24 ~1,0 ~0,0 ~0,.48 ~1,.48 ~1,1 ~0,1 0,.76",
    "T": "0,0 1,0 | .5,0 .5,1",
    "U": "0,0 ~0,1 ~1,1 1,0",
    "V": "0,0 .5,1 1,0",
    "W": "0,0 .26,1 .5,.25 .74,1 1,0",
    "X": "0,0 1,1 | 1,0 0,1",
    "Y": "0,0 .5,.52 1,0 | .5,.52 .5,1",
    "Z": "0,0 1,0 0,1 1,1",
    "0": ".5,0 ~1,0 ~1,1 ~0,1 ~0,0 .5,0",
    "1": "0,.26 1,0 1,1",
    "1bar": "0,.1 1,0 1,1",
    "2": "0,.26 ~0,0 ~1,0 ~1,.42 0,1 1,1",
    "3": "0,.22 ~0,0 ~1,0 ~1,.46 .4,.46 | .4,.46 ~1,.46 ~1,1 ~0,1 0,.78",
    "4": ".6,0 0,.74 1,.74 | .74,.44 .74,1",
    "5": ".93,0 .06,0 .06,.44 | .06,.44 ~.2,.36 ~1,.36 ~1,1 ~0,1 0,.8",
    "6": "1,.2 ~1,0 ~0,0 0,.5 ~0,1 ~1,1 ~1,.42 ~.0,.42 0,.6",
    "7": "0,0 1,0 .36,1",
    "8": ".5,0 ~.95,0 ~.95,.46 ~.05,.46 ~.05,0 .5,0 | .5,.46 ~1,.46 ~1,1 ~0,1 ~0,.46 .5,.46",
    "9": "0,.8 ~0,1 ~1,1 1,.5 ~1,0 ~0,0 ~0,.58 ~1,.58 1,.4",
}
"""Lines between ``|``; points ``x,y`` of the strokes' middle in a unit box; a corner marked ``~`` is rounded.

Other forms of a character have its name and one of their own."""

WIDTHS = {"I": 0.0, "1": 0.62, "1bar": 0.2, "M": 1.22, "W": 1.4, "J": 0.92, "A": 1.08, "V": 1.05, "Q": 1.02}
"""Of a character's skeleton over the ordinary one's."""

Line = list[tuple[float, float, bool]]


@functools.lru_cache(maxsize=4096)
def master(character: str, condense: float, weight: float, roundness: float) -> np.ndarray:
    """Coverage of one character ``MASTER_PX`` high without any margin, ``(h, w)`` uint8.

    Args:
        character: One of `SKELETONS`, a character or a named form of it.
        condense: Width of an ordinary character over `WIDTH` of the height.
        weight: Stroke width over the height.
        roundness: Radius of rounded corners over the skeleton's width; 0.5 makes O a stadium.
    """
    stroke = weight * MASTER_PX * FINE
    inner_width = max(0.0, WIDTH * condense * MASTER_PX * FINE - stroke) * WIDTHS.get(character, 1.0)
    inner = np.array((inner_width, MASTER_PX * FINE - stroke))
    ordinary = max(1.0, WIDTH * condense * MASTER_PX * FINE - stroke)
    width = max(FINE, round((inner_width + stroke) / FINE) * FINE)
    canvas = np.zeros((MASTER_PX * FINE, width), np.uint8)
    for line in _lines(character):
        points = _rounded_corners(line, inner, roundness * ordinary) + stroke / 2
        _draw(canvas, points, stroke)
    ink = cv2.resize(canvas, (width // FINE, MASTER_PX), interpolation=cv2.INTER_AREA)
    ink.setflags(write=False)
    return ink


@functools.cache
def _lines(character: str) -> tuple[Line, ...]:
    def point(text: str) -> tuple[float, float, bool]:
        x, y = text.lstrip("~").split(",")
        return float(x), float(y), text.startswith("~")

    return tuple([point(text) for text in line.split()] for line in SKELETONS[character].split("|"))


def _rounded_corners(line: Line, size: np.ndarray, radius: float) -> np.ndarray:
    """The line's points in pixels, ``(N, 2)``, with an arc in place of each rounded corner."""
    corners = np.array([(x, y) for x, y, _ in line]) * size
    points = [corners[0]]
    for i in range(1, len(corners) - 1):
        before, corner, after = corners[i - 1 : i + 2]
        if not line[i][2]:
            points.append(corner)
            continue
        # An arc takes at most the whole of a side that ends there, and half of one that is rounded at both ends.
        sides = [float(np.hypot(*(other - corner))) for other in (before, after)]
        free = [side / (2 if line[j][2] else 1) for side, j in zip(sides, (i - 1, i + 1), strict=True)]
        reach = min(radius, *free)
        start = corner + (before - corner) * (reach / max(sides[0], 1e-6))
        end = corner + (after - corner) * (reach / max(sides[1], 1e-6))
        # A quarter of a circle as a rational quadratic curve.
        t = np.linspace(0, 1, 13)[:, None]
        weight = np.sqrt(0.5)
        over = (1 - t) ** 2 + 2 * weight * t * (1 - t) + t**2
        points += list(((1 - t) ** 2 * start + 2 * weight * t * (1 - t) * corner + t**2 * end) / over)
    points.append(corners[-1])
    return np.array(points)


def _draw(canvas: np.ndarray, points: np.ndarray, stroke: float) -> None:
    whole = np.rint((points - 0.5) * 16).astype(np.int32)
    cv2.polylines(canvas, [whole], False, 255, max(1, round(stroke)), cv2.LINE_8, 4)

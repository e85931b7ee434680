"""Where each character of a serial stands on its plate."""

from collections.abc import Sequence
from dataclasses import dataclass

from anony_pipeline.plates import glyphs
from anony_pipeline.plates.styles import Mark, Piece, PlateStyle

MARK_OF_TEXT = {"-": Mark.HYPHEN, " ": Mark.GAP, "·": Mark.DOT}


@dataclass(frozen=True, slots=True)
class Placed:
    """One thing that is drawn for a serial.

    Attributes:
        box: ``(x_min, y_min, x_max, y_max)`` in shares of the plate's width and height.
        character: A letter or digit; None for a mark.
        mark: A hyphen, dot or seal; None for a character.
    """

    box: tuple[float, float, float, float]
    character: str | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class _Item:
    """Something with a width on a plate, in the middle of a cell that may be wider."""

    width: float
    cell: float
    character: str | None = None
    mark: Mark | None = None


def place(style: PlateStyle, serial: str, font_ratio: float) -> list[Placed]:
    """Lay a serial out in the style's text area: centered, row by row, squeezed in width where it would not fit.

    Args:
        style: The plate's style.
        serial: A serial of the style. A text that its grammar doesn't accept is laid out as it is written.
        font_ratio: The characters' height over the plate's, in ``(0, 1]``; bounded by the text area's height and
            by the nominal height of the style's characters: what fits one country is too tall in another.

    Returns:
        Characters and marks, left to right, top to bottom; all inside the text area.
    """
    rows = _rows(style.serial.split(serial) or _as_written(serial))
    x_min, y_min, x_max, y_max = style.text_area_mm
    shares = style.row_shares if len(style.row_shares) == len(rows) else (1.0,) * len(rows)
    placed, top = [], y_min
    for row, share in zip(rows, shares, strict=True):
        row_height = (y_max - y_min) * share / sum(shares)
        # Rows need some ground between them.
        tallest = min(style.glyph_height_mm, row_height * (1 if len(rows) == 1 else 0.86))
        height = min(font_ratio * style.size_mm[1], tallest)
        items = [item for piece in row for item in _items(style, piece, height)]
        placed += _place_row(style, items, height, (x_min, x_max), top + row_height / 2)
        top += row_height
    return placed


def _as_written(text: str) -> tuple[Piece, ...]:
    pieces = []
    for character in text.upper():
        if character in MARK_OF_TEXT:
            pieces.append(Piece("", MARK_OF_TEXT[character]))
        elif character.isalnum():
            pieces.append(Piece(character))
    return tuple(pieces)


def _rows(pieces: Sequence[Piece]) -> list[list[Piece]]:
    rows: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece.mark is Mark.ROW:
            rows.append([])
        else:
            rows[-1].append(piece)
    return rows


def _items(style: PlateStyle, piece: Piece, height: float) -> list[_Item]:
    if piece.mark is None:
        widths = [glyphs.width_over_height(style.font, character) * height for character in piece.text]
        least = style.spacing.cell_mm * height / style.glyph_height_mm
        return [
            _Item(width, max(width, least), character=character)
            for width, character in zip(widths, piece.text, strict=True)
        ]
    spacing = style.spacing
    width_of = {
        Mark.GAP: spacing.gap_mm,
        Mark.HYPHEN: spacing.hyphen_mm,
        Mark.DOT: spacing.dot_mm,
        Mark.SEAL: spacing.seal_mm,
    }
    width = width_of[piece.mark] * height / style.glyph_height_mm
    return [_Item(width, width, mark=piece.mark)]


def _place_row(
    style: PlateStyle, items: list[_Item], height: float, reach: tuple[float, float], middle: float
) -> list[Placed]:
    scale = height / style.glyph_height_mm
    space = style.spacing.character_mm * scale
    # A gap is what stands between two characters, so it takes the place of the space on one of its sides.
    advances = [max(0.0, item.cell - space) if item.mark is Mark.GAP else item.cell for item in items]
    total = sum(advances) + space * (len(items) - 1)
    squeeze = min(1.0, (reach[1] - reach[0]) / total)
    x = (reach[0] + reach[1] - total * squeeze) / 2
    placed = []
    for item, advance in zip(items, advances, strict=True):
        cell = advance * squeeze
        if item.mark is not Mark.GAP:
            tall = _height_of(item, height, scale, style)
            wide_mm, tall_mm = style.size_mm
            left = x + (cell - item.width * squeeze) / 2
            box = (left / wide_mm, middle - tall / 2, (left + item.width * squeeze) / wide_mm, middle + tall / 2)
            placed.append(Placed((box[0], box[1] / tall_mm, box[2], box[3] / tall_mm), item.character, item.mark))
        x += cell + space * squeeze
    return placed


def _height_of(item: _Item, height: float, scale: float, style: PlateStyle) -> float:
    if item.mark is Mark.HYPHEN:
        return 0.14 * height
    if item.mark is Mark.DOT:
        return style.spacing.dot_mm * scale
    return height

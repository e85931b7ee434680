"""Draw a plate: ground, border, bands and emblems once a style and size, the serial's characters on top, then wear."""

import functools
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from anony_pipeline.errors import ConfigError
from anony_pipeline.plates import finish as finishes
from anony_pipeline.plates import glyphs, layout
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import Mark, PlateStyle
from anony_pipeline.plates.styles.schema import Band, Caption, Emblem

CANVAS_WIDTH_PX = 768
"""Drawn at least so wide, in a whole multiple of the wanted size, then averaged down: every edge is antialiased."""
MIN_SIDE_PX = 4

Canvas = np.ndarray
Mm = tuple[float, float]
"""Canvas pixels for each millimeter, along x and y."""


def render(
    style: PlateStyle,
    serial: str,
    size_hw: tuple[int, int],
    *,
    font_ratio: float = 0.65,
    rng: np.random.Generator | None = None,
    wear: float = 0.0,
    finish: Finish | None = None,
) -> np.ndarray:
    """Draw a plate that fills the whole picture, seen from straight ahead in even light.

    Args:
        style: The plate's style.
        serial: The text on it, usually one that `serials.draw` made.
        size_hw: Height and width in px, each at least 4; another aspect than the style's stretches the plate.
        font_ratio: The characters' height over the plate's, in ``(0, 1]``; bounded by the style's text area and by
            the nominal height of its characters.
        rng: Where dirt, fading and shadows come from; needed for ``wear`` above 0 and for a ``finish``.
        wear: 0 is new and evenly lit, 1 is dirty, faded and half in the shadow.
        finish: How it is made, mounted, worn and lit, each by itself; without one it is flat.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ConfigError: If the size, the ratio or the wear is out of its range, or the serial has no characters.
    """
    _check(serial, size_hw, font_ratio, wear, rng)
    if finish is not None and rng is None:
        raise ConfigError("a finish is random and needs a generator", where="rng", got=None, do="pass rng")
    ground = _ground(style, _variant(style, serial), size_hw)
    ink, seals = _ink(style, serial, size_hw, font_ratio)
    image = _blend(ground, ink, style.colors.text)
    if seals is not None:
        for coverage, color in zip(seals, ("#8d9096", "#d9dad8"), strict=True):
            image = _blend(image, coverage, color)
    if finish is not None and rng is not None:
        image = finishes.finished(_flat(style, image, ink), finish, rng)
    if wear > 0 and rng is not None:
        image = finishes.worn(image, rng, wear)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _flat(style: PlateStyle, image: np.ndarray, ink: np.ndarray) -> finishes.Flat:
    height, width = ink.shape
    mm = (width / style.size_mm[0], height / style.size_mm[1])
    left, top, right, bottom = style.text_area_mm
    area = (left * mm[0], top * mm[1], right * mm[0], bottom * mm[1])
    brighter = sum(_rgb(style.colors.text)) > sum(_rgb(style.colors.background))
    return finishes.Flat(image, ink, area, mm, brighter)


def text_mask(style: PlateStyle, serial: str, size_hw: tuple[int, int], *, font_ratio: float = 0.65) -> np.ndarray:
    """Coverage of the serial's characters alone, ``(H, W)`` float32 in ``[0, 1]`` (see `render`)."""
    _check(serial, size_hw, font_ratio, 0.0, None)
    return _ink(style, serial, size_hw, font_ratio)[0]


def _check(
    serial: str, size_hw: tuple[int, int], font_ratio: float, wear: float, rng: np.random.Generator | None
) -> None:
    if min(size_hw) < MIN_SIDE_PX:
        raise ConfigError("a plate can't be drawn so small", where="size_hw", got=size_hw, allowed="4 px or more")
    if not 0 < font_ratio <= 1:
        raise ConfigError("the font ratio is out of range", where="font_ratio", got=font_ratio, allowed="(0, 1]")
    if not 0 <= wear <= 1:
        raise ConfigError("the wear is out of range", where="wear", got=wear, allowed="[0, 1]")
    if wear > 0 and rng is None:
        raise ConfigError("wear is random and needs a generator", where="rng", got=None, do="pass rng")
    if not any(character.isalnum() for character in serial):
        raise ConfigError("a serial needs a letter or digit", where="serial", got=repr(serial))


Variant = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""What of the ground depends on the serial: the texts of bands and captions, and the emblems' colors."""


def _variant(style: PlateStyle, serial: str) -> Variant:
    pieces = style.serial.split(serial)
    first = pieces[0].text if pieces else ""
    bare = "".join(piece.text for piece in pieces) if pieces else serial
    choice = zlib.crc32(bare.encode())
    lines = [*(band.texts for band in style.bands), *(caption.texts for caption in style.captions)]
    texts = tuple(line[choice % len(line)] if line else "" for line in lines)
    return texts, tuple(emblem.colors_by.get(first, emblem.colors) for emblem in style.emblems)


@functools.lru_cache(maxsize=512)
def _ground(style: PlateStyle, variant: Variant, size_hw: tuple[int, int]) -> np.ndarray:
    """The plate without its serial, ``(H, W, 3)`` float32 in ``[0, 255]``."""
    factor = _factor(size_hw)
    canvas = np.empty((size_hw[0] * factor, size_hw[1] * factor, 3), np.uint8)
    canvas[:] = _rgb(style.colors.background)
    mm = (canvas.shape[1] / style.size_mm[0], canvas.shape[0] / style.size_mm[1])
    texts, emblem_colors = variant
    edge = _draw_border(canvas, style, mm)
    for band, text in zip(style.bands, texts, strict=False):
        _draw_band(canvas, style, band, text, edge, mm)
    for caption, text in zip(style.captions, texts[len(style.bands) :], strict=True):
        _draw_caption(canvas, caption, text, mm)
    for emblem, colors in zip(style.emblems, emblem_colors, strict=True):
        _draw_emblem(canvas, emblem, colors, mm)
    ground = _averaged(canvas, size_hw).astype(np.float32)
    ground.setflags(write=False)
    return ground


def _factor(size_hw: tuple[int, int]) -> int:
    return max(2, -(-CANVAS_WIDTH_PX // max(size_hw)))


def _averaged(canvas: Canvas, size_hw: tuple[int, int]) -> np.ndarray:
    return cv2.resize(canvas, size_hw[::-1], interpolation=cv2.INTER_AREA)


def _draw_border(canvas: Canvas, style: PlateStyle, mm: Mm) -> float:
    """Draw the border line and tell how far it reaches in from the plate's edge, in mm."""
    border = style.border
    if border is None:
        return 0.0
    width, height = style.size_mm
    outer, reach = border.inset_mm, border.inset_mm + border.width_mm
    _rounded(canvas, (outer, outer, width - outer, height - outer), border.radius_mm, _rgb(border.color), mm)
    inner_radius = max(0.0, border.radius_mm - border.width_mm)
    _rounded(canvas, (reach, reach, width - reach, height - reach), inner_radius, _rgb(style.colors.background), mm)
    return reach


def _draw_band(canvas: Canvas, style: PlateStyle, band: Band, text: str, edge: float, mm: Mm) -> None:
    width, height = style.size_mm
    boxes = {
        "left": (edge, edge, edge + band.width_mm, height - edge),
        "right": (width - edge - band.width_mm, edge, width - edge, height - edge),
        "top": (edge, edge, width - edge, edge + band.width_mm),
    }
    box = boxes[band.side]
    radius = max(0.0, style.border.radius_mm - style.border.width_mm) if style.border else 0.0
    # The corner that touches the border is round like it; on the other side the strip ends square.
    _rounded(canvas, box, min(radius, band.width_mm / 2), _rgb(band.color), mm)
    if band.side == "top":
        _fill(canvas, (box[0], box[1] + band.width_mm / 2, box[2], box[3]), _rgb(band.color), mm)
    else:
        half = band.width_mm / 2
        inner = (
            (box[0] + half, box[1], box[2], box[3]) if band.side == "left" else (box[0], box[1], box[2] - half, box[3])
        )
        _fill(canvas, inner, _rgb(band.color), mm)
    tall = box[3] - box[1]
    if band.stars:
        center = ((box[0] + box[2]) / 2, box[1] + 0.33 * tall)
        _draw_stars(canvas, center, 0.34 * band.width_mm, _rgb(band.stars), mm)
    if text:
        below = (0.64, 0.90) if band.side != "top" else (0.2, 0.8)
        inset = 0.14 * band.width_mm
        place = (box[0] + inset, box[1] + below[0] * tall, box[2] - inset, box[1] + below[1] * tall)
        _draw_line(canvas, "DejaVuSans-Bold", text, place, _rgb(band.text_color), mm)


def _draw_stars(canvas: Canvas, center: tuple[float, float], radius: float, color: Sequence[int], mm: Mm) -> None:
    # At the size of a plate in a street a star is a dot.
    for turn in np.arange(12) * (np.pi / 6):
        x, y = center[0] + radius * np.sin(turn), center[1] - radius * np.cos(turn)
        _ellipse(canvas, (x, y), (0.15 * radius, 0.15 * radius), color, mm)


def _draw_caption(canvas: Canvas, caption: Caption, text: str, mm: Mm) -> None:
    _draw_line(canvas, caption.face, text, caption.box_mm, _rgb(caption.color), mm)


def _draw_emblem(canvas: Canvas, emblem: Emblem, colors: tuple[str, ...], mm: Mm) -> None:
    x_min, y_min, x_max, y_max = emblem.box_mm
    first, second = _rgb(colors[0]), _rgb(colors[-1])
    if emblem.kind == "sticker":
        _rounded(canvas, emblem.box_mm, 2, first, mm)
        lines = ((0.2, 0.2, 0.8, 0.4), (0.3, 0.55, 0.7, 0.8))
        for x0, y0, x1, y1 in lines:
            width, height = x_max - x_min, y_max - y_min
            _fill(
                canvas, (x_min + x0 * width, y_min + y0 * height, x_min + x1 * width, y_min + y1 * height), second, mm
            )
        return
    outline = _shield(emblem.box_mm)
    _polygon(canvas, outline, (30, 30, 30), mm)
    inner = (outline - outline.mean(axis=0)) * 0.93 + outline.mean(axis=0)
    _polygon(canvas, inner, first, mm)
    width, height = x_max - x_min, y_max - y_min
    middle = ((x_min + x_max) / 2, (y_min + y_max) / 2 - 0.03 * height)
    if emblem.kind == "cross_shield":
        arm, half = 0.32 * width, 0.1 * width
        _fill(canvas, (middle[0] - arm, middle[1] - half, middle[0] + arm, middle[1] + half), second, mm)
        _fill(canvas, (middle[0] - half, middle[1] - arm, middle[0] + half, middle[1] + arm), second, mm)
    else:
        _polygon(
            canvas, np.array([p for p in inner if (p[0] - x_min) / width > (p[1] - y_min) / height - 0.05]), second, mm
        )


def _shield(box: tuple[float, float, float, float]) -> np.ndarray:
    """The outline of a shield: square above, round to a point below."""
    t = np.linspace(0, 1, 16)
    right = np.stack([1 - 0.5 * t**2.2, 0.5 + 0.5 * t], axis=1)
    left = np.stack([0.5 * t[::-1] ** 2.2, 0.5 + 0.5 * t[::-1]], axis=1)
    points = np.concatenate([[[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]], right, left])
    return points * (box[2] - box[0], box[3] - box[1]) + box[:2]


def _draw_line(
    canvas: Canvas, face: str, text: str, box: tuple[float, float, float, float], color: Sequence[int], mm: Mm
) -> None:
    """Write a line as large as the box allows, in its middle."""
    left, top, right, bottom = (round(value * mm[axis % 2]) for axis, value in enumerate(box))
    mask = glyphs.line_mask(face, text, max(1, bottom - top))
    # The canvas may be stretched against the plate; the letters are stretched with it.
    natural = mask.shape[1] * mm[0] / mm[1]
    shrink = min(1.0, (right - left) / natural)
    size_wh = (max(1, round(natural * shrink)), max(1, round(mask.shape[0] * max(shrink, 0.6))))
    mask = cv2.resize(mask, (min(size_wh[0], right - left), size_wh[1]), interpolation=cv2.INTER_AREA)
    y, x = (top + bottom - mask.shape[0]) // 2, (left + right - mask.shape[1]) // 2
    part = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    part[:] = np.rint(_blend(part, mask[: part.shape[0], : part.shape[1]].astype(np.float32) / 255, color))


def _ink(
    style: PlateStyle, serial: str, size_hw: tuple[int, int], font_ratio: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Coverage ``(H, W)`` float32 of the text, and of the seals' rims and faces where there are some."""
    factor = _factor(size_hw)
    height, width = size_hw[0] * factor, size_hw[1] * factor
    canvas = np.zeros((height, width), np.uint8)
    rims: Canvas | None = None
    faces: Canvas | None = None
    for item in layout.place(style, serial, font_ratio):
        left, top, right, bottom = (value * (width, height)[axis % 2] for axis, value in enumerate(item.box))
        # Inward, so that no character leaves its box; never empty.
        x, y = int(np.ceil(left - 1e-6)), int(np.ceil(top - 1e-6))
        x_end, y_end = max(x + 1, int(right + 1e-6)), max(y + 1, int(bottom + 1e-6))
        if item.character is not None:
            mask = glyphs.character_mask(style.font, item.character, (y_end - y, x_end - x))
            np.maximum(canvas[y:y_end, x:x_end], mask, out=canvas[y:y_end, x:x_end])
        elif item.mark is Mark.HYPHEN:
            canvas[y:y_end, x:x_end] = 255
        elif item.mark is Mark.DOT:
            _disc(canvas, (left, top, right, bottom), 1.0)
        elif item.mark is Mark.SEAL:
            rims = np.zeros_like(canvas) if rims is None else rims
            faces = np.zeros_like(canvas) if faces is None else faces
            _draw_seals(rims, faces, (left, top, right, bottom))
    ink = _averaged(canvas, size_hw).astype(np.float32) / 255
    if rims is None or faces is None:
        return ink, None
    return ink, (_averaged(rims, size_hw).astype(np.float32) / 255, _averaged(faces, size_hw).astype(np.float32) / 255)


def _draw_seals(rims: Canvas, faces: Canvas, box: tuple[float, float, float, float]) -> None:
    """Two round stickers, one above the other."""
    left, top, right, bottom = box
    middle, radius = (left + right) / 2, (right - left) / 2
    reach = min(radius, (bottom - top) / 4.2)
    for center in (top + reach, bottom - reach):
        place = (middle - radius, center - reach, middle + radius, center + reach)
        _disc(rims, place, 1.0)
        _disc(faces, place, 0.62)


def _disc(canvas: Canvas, box: tuple[float, float, float, float], share: float) -> None:
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    axes = ((box[2] - box[0]) / 2 * share, (box[3] - box[1]) / 2 * share)
    _ellipse(canvas, center, axes, (255,), (1.0, 1.0))


def _blend(below: np.ndarray, coverage: np.ndarray, color: str | Sequence[int]) -> np.ndarray:
    rgb = np.array(_rgb(color) if isinstance(color, str) else color, np.float32)
    return below + (rgb - below) * coverage[..., None]


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


# cv2 draws at whole pixels or, with `shift`, at fractions of them; these take millimeters.
SHIFT = 4


def _fixed(points_mm: np.ndarray, mm: Mm) -> np.ndarray:
    return np.rint((np.asarray(points_mm) * mm - 0.5) * 2**SHIFT).astype(np.int32)


def _polygon(canvas: Canvas, points_mm: np.ndarray, color: Sequence[int], mm: Mm) -> None:
    if len(points_mm) >= 3:
        cv2.fillPoly(canvas, [_fixed(points_mm, mm)], color, shift=SHIFT)


def _fill(canvas: Canvas, box: tuple[float, float, float, float], color: Sequence[int], mm: Mm) -> None:
    left, top, right, bottom = (round(value * mm[axis % 2]) for axis, value in enumerate(box))
    canvas[top:bottom, left:right] = color


def _rounded(
    canvas: Canvas, box: tuple[float, float, float, float], radius: float, color: Sequence[int], mm: Mm
) -> None:
    x_min, y_min, x_max, y_max = box
    _fill(canvas, (x_min + radius, y_min, x_max - radius, y_max), color, mm)
    _fill(canvas, (x_min, y_min + radius, x_max, y_max - radius), color, mm)
    if radius > 0:
        for x in (x_min + radius, x_max - radius):
            for y in (y_min + radius, y_max - radius):
                _ellipse(canvas, (x, y), (radius, radius), color, mm)


def _ellipse(
    canvas: Canvas, center: tuple[float, float], axes: tuple[float, float], color: Sequence[int], mm: Mm
) -> None:
    middle = _fixed(np.array(center), mm)
    size = np.maximum(1, np.rint(np.array(axes) * mm * 2**SHIFT)).astype(int)
    cv2.ellipse(canvas, tuple(map(int, middle)), tuple(map(int, size)), 0, 0, 360, color, -1, shift=SHIFT)

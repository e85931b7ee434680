"""Characters as coverage masks: found fonts, one master mask a character, resampled to any size and cached."""

import functools
import logging
import os
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anony_pipeline.errors import ConfigError
from anony_pipeline.plates import strokes
from anony_pipeline.plates.styles.schema import Font, Script

LOG = logging.getLogger(__name__)
MASTER_PX = 192
SYSTEM_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "~/.local/share/fonts", "~/.fonts")


def find_face(face: str) -> Path | None:
    """Find a font file by its name without suffix: first among those that matplotlib brings, then the system's.

    matplotlib's come first because they are the same on every machine, and so are the pictures then.
    """
    bundled = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    return bundled if bundled.is_file() else _system_faces().get(face.lower())


@functools.cache
def _system_faces() -> dict[str, Path]:
    windows = Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"
    folders = [*(Path(folder).expanduser() for folder in SYSTEM_FOLDERS), windows]
    files = (path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.[tTo]*[fFcC]")))
    return {path.stem.lower(): path for path in files}


@functools.cache
def face_file(face: str, fallback: str, package: str | None) -> Path:
    """The file of a face, or of its fallback where it is not installed: then a warning says so, once, with the package.

    Raises:
        ConfigError: If the fallback is missing as well.
    """
    found = find_face(face)
    if found is not None:
        return found
    install = f"install {package}" if package else f"put {face}.ttf or {face}.otf under {SYSTEM_FOLDERS[-1]}"
    replacement = find_face(fallback)
    if replacement is None:
        raise ConfigError(
            "neither a plate's font nor its fallback is installed",
            where="font.fallback",
            got=f"{face}, {fallback}",
            do=f"{install}, or name a face that matplotlib brings, such as DejaVuSans-Bold",
        )
    LOG.warning("the font %s is not installed; plates are drawn with %s. To have it, %s", face, fallback, install)
    return replacement


def width_over_height(font: Font, character: str) -> float:
    """The ink width of a character over the height of the capitals."""
    master = _master_of(font, character)
    return master.shape[1] / master.shape[0]


@functools.lru_cache(maxsize=16384)
def character_mask(font: Font, character: str, size_hw: tuple[int, int]) -> np.ndarray:
    """Coverage of one character that fills its box from edge to edge.

    Args:
        font: The style's font.
        character: A letter or digit.
        size_hw: The box's height and width in px.

    Returns:
        ``(h, w)`` uint8, 255 where the ink covers the pixel. Shared: not to be written to.
    """
    master = _master_of(font, character)
    shrinks = size_hw[0] < master.shape[0]
    mask = cv2.resize(master, size_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mask.setflags(write=False)
    return mask


@functools.lru_cache(maxsize=4096)
def _master_of(font: Font, character: str) -> np.ndarray:
    if font.face == strokes.FACE and character in strokes.SKELETONS:
        form = next((form for form in font.forms if form[0] == character), character)
        return strokes.master(form, font.condense, font.weight, font.roundness)
    if character.isascii() or not font.scripts:
        face = font.fallback if font.face == strokes.FACE else font.face
        return _master(face_file(face, font.fallback, font.package), character, font.condense, font.weight)
    # Characters of another script keep their own proportions.
    return _master(_script_file(font, character), character, 1.0, 0.0)


def _script_file(font: Font, character: str) -> Path:
    """The first of the font's faces of other scripts that has a picture of the character; else the fallback."""
    for script in font.scripts:
        found = find_face(script.face)
        if found is not None and has_picture(found, character):
            return found
    _warn_of_missing_script(font.scripts, font.fallback)
    replacement = find_face(font.fallback)
    if replacement is None:
        raise ConfigError("a plate's fallback font is not installed", where="font.fallback", got=font.fallback)
    return replacement


@functools.cache
def _warn_of_missing_script(scripts: tuple[Script, ...], fallback: str) -> None:
    faces, packages = (" or ".join(getattr(script, name) for script in scripts) for name in ("face", "package"))
    LOG.warning(
        "no font with the plate's script is installed (%s); %s draws an empty box for such characters. To have them, "
        "install %s",
        faces,
        fallback,
        packages,
    )


@functools.cache
def has_picture(file: Path, character: str) -> bool:
    """Whether a font draws a character as something else than what it draws for one that it doesn't know."""
    font = _font(file)
    unknown, known = (bytes(font.getmask(text)) for text in ("\U0010ffff", character))
    return known != unknown


@functools.lru_cache(maxsize=2048)
def _master(file: Path, character: str, condense: float, weight: float) -> np.ndarray:
    """A character ``MASTER_PX`` high, without any margin.

    Each character is stretched to the capitals' height: plates have no descenders and no overshoot. The weight is put
    on after condensing, so that upright and level strokes come out alike, as they do on stamped plates.
    """
    font = _font(file)
    capital = font.getbbox("H", anchor="ls")
    ink = _drawn(font, character)
    rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
    if not len(rows):
        raise ConfigError("a font has no picture of a character", where=file, got=character, do="choose another face")
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    extra = round(weight * MASTER_PX)
    width = max(2, round(ink.shape[1] / -capital[1] * condense * MASTER_PX))
    ink = cv2.resize(ink, (width, MASTER_PX - 2 * extra), interpolation=cv2.INTER_AREA)
    if extra:
        ink = cv2.copyMakeBorder(ink, extra, extra, extra, extra, cv2.BORDER_CONSTANT, value=0)
        ink = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * extra + 1, 2 * extra + 1)))
    return ink


@functools.lru_cache(maxsize=2048)
def line_mask(face: str, text: str, height_px: int) -> np.ndarray:
    """Coverage of a line of small print, ``(height_px, w)`` uint8, cropped to its ink."""
    ink = _drawn(_font(face_file(face, "DejaVuSans-Bold", "matplotlib")), text)
    width = max(1, round(ink.shape[1] * height_px / ink.shape[0]))
    return cv2.resize(ink, (width, height_px), interpolation=cv2.INTER_AREA)


def _drawn(font: ImageFont.FreeTypeFont, text: str) -> np.ndarray:
    left, top, right, bottom = (round(value) for value in font.getbbox(text, anchor="ls"))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), text, font=font, fill=255, anchor="ls")
    return np.asarray(image)


@functools.cache
def _font(file: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(file), size=2 * MASTER_PX)

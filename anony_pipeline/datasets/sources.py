"""What the readers hand to `unify`: images with boxes as their files give them, and every problem by name."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from upath import UPath

from anony_pipeline.config.schema import Source
from anony_pipeline.errors import DatasetError
from anony_pipeline.storage import locations
from anony_pipeline.structures.regions import Kind

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
TEXT_LIMIT = 120
# Stricter than float(): no underscores, no digits of other scripts, no "inf" and "nan".
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?"
NUMBERS = re.compile(rf"\s*{NUMBER}(?:\s+{NUMBER})*\s*")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a source, named so that it can be found and mended.

    Attributes:
        scope: What is lost by it: an ``image``, a ``row``, a whole ``split`` that isn't there, or nothing (``note``).
            Images and rows count against ``data.max_bad_share``.
        source: The source's name in the configuration.
        where: The file below the source's root, with its line where there is one: ``annotations/paris/1.txt:3``.
        what: What is wrong.
        got: What stands there, shortened.
    """

    scope: Literal["image", "row", "split", "note"]
    source: str
    where: str
    what: str
    got: str | None = None

    def __str__(self) -> str:
        """One line: ``widerface wider_face_split/…txt:7: the row has too few numbers (got '1 2 3')``."""
        return f"{self.source} {self.where}: {self.what}" + (f" (got {self.got!r})" if self.got is not None else "")


@dataclass(frozen=True, slots=True)
class SourceBox:
    """One box as its source gives it.

    Attributes:
        kind: Face or plate.
        box_xywh: ``(x_min, y_min, width, height)``, in pixels or, where the image says ``normalized``, in shares of its
            size.
        iscrowd: Not to be trained on or counted (WIDERFace's ``invalid``).
        attributes: WIDERFace's six attributes.
    """

    kind: Kind
    box_xywh: tuple[float, float, float, float]
    iscrowd: bool = False
    attributes: dict[str, int] | None = None


@dataclass(slots=True)
class SourceImage:
    """One image that a source names.

    Attributes:
        file_name: Its path below the source's root, with forward slashes.
        where: The file (and line) of its annotation.
        group: The folder that the source sorts it into; None without one.
        split: The source's own split; None where `unify` decides.
        boxes: What is labeled, after boxes without an area were dropped.
        normalized: Whether boxes are shares of the image's width and height.
        unsure: Kinds of which a label may be missing, because a row couldn't be read.
    """

    file_name: str
    where: str
    group: str | None
    split: Split | None = None
    boxes: list[SourceBox] = field(default_factory=list)
    normalized: bool = False
    unsure: set[Kind] = field(default_factory=set)


@dataclass(slots=True)
class SourceSet:
    """All that one source holds, or one split of it.

    Attributes:
        images: In the order of the annotation (WIDERFace) or of the frames (PP4AV).
        problems: Everything that could not be read, in the order of the files.
        images_named: Images that the source names, good and bad.
        rows: Rows that the annotations hold, good and bad.
        dropped: Boxes left out because they have no area.
    """

    images: list[SourceImage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    images_named: int = 0
    rows: int = 0
    dropped: int = 0


def root_of(source: Source) -> UPath:
    """The source's folder.

    Raises:
        DatasetError: If it isn't there.
    """
    root = locations.location(source.root)
    if not root.is_dir():
        raise DatasetError(
            "the data set's folder is not there",
            where=f"source {source.name}",
            got=root,
            allowed=f"a folder in the layout of {source.layout}",
            do="check `root` in data.sources, add `download` and `sha256`, or procedural data: `anony streetscape`",
        )
    return root


def read_text(path: UPath | Path) -> str:
    """Read an annotation file: UTF-8, with or without a byte order mark.

    Raises:
        DatasetError: If it can't be read or is no UTF-8 text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            "the annotation is no UTF-8 text",
            where=path,
            got=f"byte {error.object[error.start]:#04x} at {error.start}",
            do="copy the file again, or convert it to UTF-8",
        ) from error
    except OSError as error:
        raise DatasetError(
            "the annotation can't be read", where=path, got=error.strerror or type(error).__name__, do="check the file"
        ) from error


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield ``(line number from 1, text)`` of the lines that are not blank, whatever ends them (LF, CRLF, CR)."""
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def numbers_of(text: str) -> list[float] | None:
    """The numbers of a row that are separated by blanks; None if anything in it is no finite number.

    >>> numbers_of("1 -2.5 3e2 "), numbers_of("1 nan"), numbers_of("1 1e999")
    ([1.0, -2.5, 300.0], None, None)
    """
    if NUMBERS.fullmatch(text) is None:
        return None
    values = [float(part) for part in text.split()]
    return values if math.isfinite(sum(values)) or all(map(math.isfinite, values)) else None


def stays_inside(name: str) -> bool:
    """Whether a relative path from an annotation stays below the folder that it counts from."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def shortened(text: str) -> str:
    """What stands in a file, cut to a length that fits a message."""
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"

"""WIDERFace: one annotation file a split, with image name, number of faces and one row a face.

Layout: ``<root>/WIDER_{train,val}/images/<event>/*.jpg`` and
``<root>/wider_face_split/wider_face_{train,val}_bbx_gt.txt``. Yang et al., "WIDER FACE: A Face Detection Benchmark",
CVPR 2016; the columns are those of the file's own readme.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from upath import UPath

from anony_pipeline.config.schema import Source
from anony_pipeline.datasets import sources
from anony_pipeline.datasets.sources import Problem, SourceBox, SourceImage, SourceSet, Split
from anony_pipeline.errors import DatasetError
from anony_pipeline.structures.regions import Kind

# The columns after `x y w h`, each with its largest value. `invalid` stands before `occlusion`, and `pose` is last.
ATTRIBUTES = {"blur": 2, "expression": 1, "illumination": 1, "invalid": 1, "occlusion": 2, "pose": 1}
COLUMNS = 4 + len(ATTRIBUTES)
NAME_ENDS = tuple(sorted(sources.IMAGE_SUFFIXES))


def annotation_file(root: UPath, split: Split) -> UPath:
    """Where a split's annotation lies."""
    return root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"


def missing_splits(source: Source, *, without_images: bool = False) -> dict[Split, str]:
    """Which splits can't be read, and why.

    Args:
        source: A source of the layout ``widerface``.
        without_images: The image folders need not be there.

    Returns:
        The missing splits, each with the file or folder that it lacks; at most one.

    Raises:
        DatasetError: If the folder is not there, or no split is.
    """
    root = sources.root_of(source)
    missing: dict[Split, str] = {}
    for split in sources.SPLITS:
        needed = [annotation_file(root, split), *([] if without_images else [root / f"WIDER_{split}" / "images"])]
        if absent := [path for path in needed if not path.exists()]:
            missing[split] = absent[0].relative_to(root).as_posix()
    if len(missing) == len(sources.SPLITS):
        raise DatasetError(
            "the folder holds no split of WIDERFace",
            where=root,
            got=f"neither {' nor '.join(missing.values())}",
            allowed="WIDER_train or WIDER_val with images/, and wider_face_split/ with its *_bbx_gt.txt",
            do="unpack WIDER_train.zip, WIDER_val.zip and wider_face_split.zip into this folder",
        )
    return missing


def read(source: Source, split: Split) -> SourceSet:
    """Read one split's annotation; image files are not touched.

    An image without faces carries one dummy row of zeros. Boxes without an area are dropped and counted (the official
    file has ten of zero size, and one of negative width). A row that can't be read is a problem of its line; its image
    keeps its other rows, and says that a face may be unlabeled. Byte order mark, CRLF, trailing spaces and blank lines
    are taken as they come.

    Args:
        source: A source of the layout ``widerface``.
        split: ``train`` or ``val``.

    Raises:
        DatasetError: If the annotation is missing, empty, or no text.
    """
    root = sources.root_of(source)
    path = annotation_file(root, split)
    if not path.exists():
        raise DatasetError("the annotation is not there", where=path, do="unpack wider_face_split.zip into the root")
    text = sources.read_text(path)
    if not text.strip():
        raise DatasetError(
            "the annotation is empty",
            where=path,
            got=f"{path.stat().st_size} bytes",
            allowed="image name, number of faces, and one row a face",
            do="copy the file again: the download or the unpacking broke off",
        )
    parser = _Parser(source.name, path.relative_to(root).as_posix(), split)
    return parser.parse(list(sources.lines_of(text)))


@dataclass
class _Parser:
    """Walks the file image by image; names are told from rows, so that a wrong count never shifts what follows."""

    source: str
    file: str
    split: Split
    result: SourceSet = field(default_factory=SourceSet)
    seen: dict[str, SourceImage] = field(default_factory=dict)

    def parse(self, lines: Sequence[tuple[int, str]]) -> SourceSet:
        begins = [i for i, (_, text) in enumerate(lines) if _is_name(text)]
        begin = begins[0] if begins else len(lines)
        if begin > 0:
            number, text = lines[0]
            self._report("image", number, f"{begin} lines stand before the first image name", text)
            self.result.images_named += 1
        for begin, end in itertools.pairwise([*begins, len(lines)]):
            self._read_image(lines[begin:end])
        return self.result

    def _read_image(self, lines: Sequence[tuple[int, str]]) -> None:
        (number, name), below = lines[0], lines[1:]
        self.result.images_named += 1
        if not sources.stays_inside(name):
            self._report("image", number, "the image's name must be a relative path that stays in its folder", name)
            return
        if earlier := self.seen.get(name):
            self._report("image", number, f"the image's name stands twice, first at {earlier.where}", name)
            earlier.unsure.add(Kind.FACE)  # nobody knows which of the two is whole
            return
        group = str(PurePosixPath(name).parent)
        image = SourceImage(
            file_name=f"WIDER_{self.split}/images/{name}",
            where=f"{self.file}:{number}",
            group=None if group == "." else group,
            split=self.split,
        )
        self.seen[name] = image
        count = _count(below[0][1]) if below else None
        if count is None:
            at, got = below[0] if below else (number, "the next image")
            self._report("row", at, "the number of faces should stand here", got)
            image.unsure.add(Kind.FACE)
        rows = below if below and count is None and len(below[0][1].split()) > 1 else below[1:]
        if count == 0 and len(rows) == 1 and _is_dummy(rows[0][1]):
            rows = []
        self.result.rows += len(rows)
        if count is not None and count != len(rows):
            at, _ = below[0]
            self._report("row", at, f"the number of faces is {count}, but {len(rows)} rows follow", below[0][1])
            image.unsure.add(Kind.FACE)
        for at, text in rows:
            self._read_row(image, at, text)
        self.result.images.append(image)

    def _read_row(self, image: SourceImage, number: int, text: str) -> None:
        values = sources.numbers_of(text)
        attributes = _attributes(tuple(values[4:])) if values is not None and len(values) == COLUMNS else None
        if values is None or attributes is None:
            self._report("row", number, _mistake(values), text)
            image.unsure.add(Kind.FACE)
            return
        x, y, width, height = values[:4]
        if width <= 0 or height <= 0:
            self.result.dropped += 1
            if width < 0 or height < 0:
                self._report("note", number, "the box is dropped: its width or height is negative", text)
            return
        image.boxes.append(SourceBox(Kind.FACE, (x, y, width, height), attributes["invalid"] == 1, attributes))

    def _report(self, scope: str, line: int, what: str, got: str) -> None:
        self.result.problems.append(
            Problem(scope, self.source, f"{self.file}:{line}", what, sources.shortened(got))  # type: ignore[arg-type]
        )


def _is_name(text: str) -> bool:
    # Names may hold spaces, and rows never end with an image's suffix.
    return text.lower().endswith(NAME_ENDS)


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _is_dummy(text: str) -> bool:
    values = sources.numbers_of(text)
    return values is not None and not any(values)


@functools.cache
def _attributes(flags: tuple[float, ...]) -> dict[str, int] | None:
    """The six attributes by name, one dictionary for all rows with the same; None if a value is not allowed."""
    named = zip(flags, ATTRIBUTES.items(), strict=True)
    return {name: int(flag) for flag, (name, _) in named} if _first_wrong(flags) is None else None


def _first_wrong(flags: tuple[float, ...]) -> str | None:
    for flag, (name, largest) in zip(flags, ATTRIBUTES.items(), strict=True):
        if flag not in range(largest + 1):
            return f"{name} must be a whole number from 0 to {largest}: got {flag:g}"
    return None


def _mistake(values: list[float] | None) -> str:
    """Why a row can't be read."""
    if values is None:
        return "the row holds something that is no finite number"
    if len(values) != COLUMNS:
        few = "few" if len(values) < COLUMNS else "many"
        return f"the row has too {few} numbers: {len(values)} instead of {COLUMNS} (x y w h {' '.join(ATTRIBUTES)})"
    return _first_wrong(tuple(values[4:])) or ""

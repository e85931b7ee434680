"""PP4AV: one text file an image, one row ``class x_center y_center width height`` a box, in shares of the image's size.

Layout: ``<root>/images/<group>/*`` and ``<root>/annotations/<group>/*.txt``; class 0 is a face, 1 a license plate.
Trinh et al., "PP4AV: A Benchmarking Dataset for Privacy-preserving Autonomous Driving", WACV 2023. Some
distributions hold ``class x1 y1 x2 y2`` instead; nothing in a file says which, so the whole data set is looked at
before it is believed.
"""

import re
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from upath import UPath

from anony_pipeline.config.schema import Source
from anony_pipeline.datasets import sources
from anony_pipeline.datasets.sources import Problem, SourceBox, SourceImage, SourceSet
from anony_pipeline.errors import DatasetError
from anony_pipeline.runtime.progress import track
from anony_pipeline.structures.regions import Kind

CLASSES = {"0": Kind.FACE, "1": Kind.PLATE}
COLUMNS = 5
# The groups of the data set's card of which the country is known; `fisheye` (WoodScape) mixes countries.
PLATE_STYLES: dict[str, str | None] = {
    "paris": "FR",
    "strasbourg": "FR",
    "netherlands_day": "NL",
    "netherlands_night": "NL",
    "switzerland": "CH",
    "zurich": "CH",
    "stuttgart": "DE",
}

# A row of the form `xyxy` has x2 > x1 and y2 > y1. A true `xywh` row has width > x_center and height > y_center only
# if its box hugs the upper left corner or fills the image; that (nearly) all rows of a data set do can only be
# another format.
XYXY_SHARE = 0.98
# ... and read as `xywh` their boxes leave the image, or are larger than faces and plates in street images are.
OUTSIDE_SHARE = 0.01
MEDIAN_AREA = 0.01
READERS = 8

_VIDEO = re.compile(r"(?P<video>.+\.(?:mp4|avi|mov|mkv|webm|m4v|mpg|mpeg|ts))(?![a-z0-9])", re.IGNORECASE)


def read(source: Source) -> SourceSet:
    """Read all annotations; image files are listed, not opened.

    An image without its text file is a problem; an empty text file means that nothing is in the image. Images come in
    the natural order of their names, so that frame 9 stands before frame 10.

    Args:
        source: A source of the layout ``pp4av``; ``box_format`` says how its rows give boxes.

    Raises:
        DatasetError: If a folder is missing or holds no image, or the rows are of the other box format.
    """
    root = sources.root_of(source)
    images = _files(root, "images")
    annotations = {_key(path, root / "annotations"): path for path in _files(root, "annotations") if _is_text(path)}
    result = SourceSet()
    named = _images_by_key(source, root, images, result)
    keys = sorted(named, key=natural_key)
    with ThreadPoolExecutor(READERS) as pool:
        texts = pool.map(_text_of, [annotations.get(key) for key in keys])
        parsed = [
            _parse_image(source, key, named[key], text, result)
            for key, text in track(zip(keys, texts, strict=True), f"{source.name}: annotations", total=len(keys))
        ]
    for key in sorted(annotations.keys() - named.keys(), key=natural_key):
        result.images_named += 1
        where = annotations[key].relative_to(root).as_posix()
        result.problems.append(
            Problem("image", source.name, where, "there is no image of this name", f"images/{key}.*")
        )
    found = [image for image in parsed if image is not None]
    _refuse_other_format(source, root, [row for image in found for row in image.rows])
    result.images = [_with_boxes(source, image, result) for image in found]
    return result


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that counts digits as numbers: ``t=9`` stands before ``t=10``.

    >>> sorted(["t=10", "t=9", "s"], key=natural_key)
    ['s', 't=9', 't=10']
    """
    parts = re.split(r"([0-9]+)", name)
    # Every second part is digits. The text itself breaks ties such as `1` and `01`.
    return (*((1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)), (2, 0, name))


def video_of(file_name: str) -> str | None:
    """The video that a frame was taken from, where its name tells; None where it doesn't.

    >>> video_of("images/romania/dayride_001.mp4#t=793.jpg")
    'dayride_001.mp4'
    >>> video_of("images/zurich/zurich_000010_000019.png") is None
    True
    """
    match = _VIDEO.match(file_name.rpartition("/")[2])
    return match["video"] if match else None


@dataclass(slots=True)
class _Row:
    """A row that is five numbers: its line, its kind, and four values whose meaning is still to be decided."""

    line: int
    kind: Kind
    values: tuple[float, float, float, float]


@dataclass(slots=True)
class _Parsed:
    """An image with its readable rows."""

    image: SourceImage
    file: str
    rows: list[_Row]


def _files(root: UPath, name: str) -> list[UPath]:
    folder = root / name
    if not folder.is_dir():
        raise DatasetError(
            "a folder of the data set is not there",
            where=folder,
            allowed="images/<group>/* and annotations/<group>/*.txt",
            do="check `root` in data.sources: it is the folder that holds images/ and annotations/",
        )
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    # rglob doesn't enter linked folders; started at each group, it finds the files of a group that is a link.
    below = [path for entry in entries if entry.is_dir() for path in entry.rglob("*") if not path.name.startswith(".")]
    return [path for path in [*entries, *below] if path.is_file()]


def _is_text(path: UPath) -> bool:
    return path.suffix.lower() == ".txt"


def _key(path: UPath, folder: UPath) -> str:
    return path.relative_to(folder).as_posix()[: -len(path.suffix)]


def _images_by_key(source: Source, root: UPath, files: list[UPath], result: SourceSet) -> dict[str, str]:
    """Image files by their name without suffix; of two that would share one annotation, none can be believed twice."""
    named: dict[str, str] = {}
    for path in sorted(files, key=lambda file: natural_key(file.as_posix())):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in sources.IMAGE_SUFFIXES:
            result.problems.append(
                Problem("note", source.name, name, "the file is no image and is not read", path.suffix)
            )
            continue
        result.images_named += 1
        key = _key(path, root / "images")
        if key in named:
            what = f"another image shares its annotation: {named[key]}"
            result.problems.append(Problem("image", source.name, name, what))
            continue
        named[key] = name
    if not named:
        raise DatasetError(
            "the data set holds no image",
            where=root / "images",
            allowed=" ".join(sorted(sources.IMAGE_SUFFIXES)),
            do="check `root` in data.sources, or copy the images again",
        )
    return named


def _text_of(path: UPath | None) -> str | DatasetError | None:
    """The file's text; an error is handed on, because one bad file doesn't stop the reading."""
    if path is None:
        return None
    try:
        return sources.read_text(path)
    except DatasetError as error:
        return error


def _parse_image(
    source: Source, key: str, name: str, text: str | DatasetError | None, result: SourceSet
) -> _Parsed | None:
    file = f"annotations/{key}.txt"
    if text is None:
        result.problems.append(Problem("image", source.name, name, "its annotation is not there", file))
        return None
    if isinstance(text, DatasetError):
        result.problems.append(Problem("image", source.name, file, text.what, str(text.got)))
        return None
    folder, _, _ = key.rpartition("/")
    image = SourceImage(name, file, group=folder.partition("/")[0] or None, normalized=True)
    parsed = _Parsed(image, file, rows=[])
    for number, line in sources.lines_of(text):
        result.rows += 1
        row = _parse_row(number, line)
        if isinstance(row, str):
            _reject(source, parsed, number, row, line, result)
        else:
            parsed.rows.append(row)
    return parsed


def _parse_row(number: int, text: str) -> _Row | str:
    values = sources.numbers_of(text)
    if values is None:
        return "the row holds something that is no finite number"
    if len(values) != COLUMNS:
        few = "few" if len(values) < COLUMNS else "many"
        return f"the row has too {few} numbers: {len(values)} instead of {COLUMNS}"
    kind = CLASSES.get(text.split(maxsplit=1)[0])
    if kind is None:
        return "the class is unknown; 0 is a face, 1 a license plate"
    if not all(0 <= value <= 1 for value in values[1:]):
        return "coordinates are shares of the image's size, from 0 to 1"
    return _Row(number, kind, (values[1], values[2], values[3], values[4]))


def _reject(source: Source, parsed: _Parsed, line: int, what: str, got: str, result: SourceSet) -> None:
    result.problems.append(Problem("row", source.name, f"{parsed.file}:{line}", what, sources.shortened(got)))
    # The lost row may have been of either kind.
    parsed.image.unsure.update(Kind)


def _refuse_other_format(source: Source, root: UPath, rows: Sequence[_Row]) -> None:
    if not rows:
        return
    ordered = sum(c > a and d > b for a, b, c, d in (row.values for row in rows)) / len(rows)
    if source.box_format == "xywh" and ordered >= XYXY_SHARE and _is_implausible([row.values for row in rows]):
        raise DatasetError(
            "the rows look like corners (x1 y1 x2 y2), not like center and size",
            where=root / "annotations",
            got=f"x2 > x1 and y2 > y1 in {ordered:.0%} of {len(rows)} rows, and as center and size they make no sense",
            allowed="class x_center y_center width height",
            do=f"if they are corners, set `box_format: xyxy` for the source {source.name}",
        )
    if source.box_format == "xyxy" and ordered < 0.5:
        raise DatasetError(
            "the rows look like center and size, not like corners (x1 y1 x2 y2)",
            where=root / "annotations",
            got=f"x2 > x1 and y2 > y1 in only {ordered:.0%} of {len(rows)} rows",
            allowed="class x1 y1 x2 y2",
            do=f"remove `box_format: xyxy` from the source {source.name}",
        )


def _is_implausible(rows: Sequence[tuple[float, float, float, float]]) -> bool:
    outside = sum(max(c / 2 - a, d / 2 - b, a + c / 2 - 1, b + d / 2 - 1) > OUTSIDE_SHARE for a, b, c, d in rows)
    return outside > 0 or statistics.median(c * d for _, _, c, d in rows) >= MEDIAN_AREA


def _with_boxes(source: Source, parsed: _Parsed, result: SourceSet) -> SourceImage:
    for row in parsed.rows:
        a, b, c, d = row.values
        x, y, width, height = (a, b, c - a, d - b) if source.box_format == "xyxy" else (a - c / 2, b - d / 2, c, d)
        if width < 0 or height < 0:
            what = "the second corner stands left of or above the first"
            _reject(source, parsed, row.line, what, " ".join(f"{value:g}" for value in row.values), result)
        elif width == 0 or height == 0:
            result.dropped += 1
        else:
            parsed.image.boxes.append(SourceBox(row.kind, (x, y, width, height)))
    return parsed.image

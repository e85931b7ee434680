"""The unified set: COCO files of faces and license plates that `pycocotools` loads unchanged.

Beyond COCO, an image says its ``source``, ``group``, ``plate_style`` and LVIS's ``not_exhaustive_category_ids`` (Gupta
et al., "LVIS", CVPR 2019): kinds that may be there without a label, and therefore never count as negatives.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from upath import UPath

from anony_pipeline.errors import DatasetError
from anony_pipeline.storage import atomic, locations
from anony_pipeline.storage.locations import AnyPath
from anony_pipeline.structures.regions import CATEGORY_IDS, KINDS_BY_CATEGORY, Region

FORMAT = "anony_pipeline.unified/1"
CATEGORIES = [{"id": number, "name": kind.value, "supercategory": "region"} for kind, number in CATEGORY_IDS.items()]
PROBLEMS_NAMED = 5
LEAST_AREA_PX = 0.01
"""Of a plate's four corners: less is a line, along which rounding alone leaves an area."""

Record = dict[str, Any]


@dataclass(frozen=True)
class CocoSet:
    """One split of the unified set, in memory.

    Attributes:
        path: The file that it was read from.
        info: COCO's ``info``; ``sources`` gives each source's ``root``, relative to the file's folder or absolute.
        images: Records with ``id``, ``file_name`` (below the source's root), ``width`` and ``height`` (missing if the
            set was made without images), ``source``, ``group``, ``plate_style``, ``not_exhaustive_category_ids``, and
            ``time`` where known.
        annotations: Records with ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels),
            ``area``, ``iscrowd``, and ``attributes, identity, serial, quad, landmarks, person`` where known.
        cache: The private folder where copies of images that aren't on this machine are kept; None keeps none.
    """

    path: UPath | Path
    info: Record
    images: list[Record]
    annotations: list[Record]
    cache: Path | None = None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    @cached_property
    def annotations_by_image(self) -> dict[int, list[Record]]:
        """Annotations by ``image_id``, in the file's order; every image has an entry."""
        grouped: dict[int, list[Record]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    def regions_by_image(self) -> dict[int, list[Region]]:
        """Regions by image id, in the order of `annotations_by_image`; every image has an entry.

        Annotations with ``iscrowd`` are among them: they hold faces too.
        """
        grouped = self.annotations_by_image
        return {image["id"]: regions_of(image, grouped[image["id"]]) for image in self.images}

    def image_file(self, image: Record) -> Path | UPath:
        """Where an image lies: a `Path` on this machine (with a cache, that of the copy), a `UPath` elsewhere."""
        root = self.roots.get(image.get("source"))
        if root is None:
            root = locations.location(self.path.parent)
        file = root / image["file_name"]
        if locations.is_local(file):
            return Path(str(file))
        return locations.local_copy(file, self.cache) if self.cache is not None and file.exists() else file

    @cached_property
    def is_remote(self) -> bool:
        """Whether images of some source lie elsewhere than on this machine."""
        return not all(
            locations.is_local(root) for root in [locations.location(self.path.parent), *self.roots.values()]
        )

    @cached_property
    def roots(self) -> dict[str | None, UPath]:
        """The folder of each source's images, by the source's name."""
        folder = locations.location(self.path.parent)
        return {
            name: locations.location(source["root"], relative_to=folder)
            for name, source in self.info.get("sources", {}).items()
        }


def regions_of(image: Record, annotations: Sequence[Record]) -> list[Region]:
    """The regions of one image, in the order of its annotations."""
    return [Region.from_coco(annotation, style=image.get("plate_style")) for annotation in annotations]


def load(path: AnyPath) -> CocoSet:
    """Read and check a unified file.

    Raises:
        DatasetError: If the file is missing, no JSON, or not what the unified set is; the first problems are named.
    """
    location = locations.location(path)
    try:
        content = json.loads(location.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError("there is no such unified file", where=location, do="make it: `anony unify`") from error
    except (OSError, ValueError) as error:
        raise DatasetError(
            "the unified file can't be read", where=location, got=f"{type(error).__name__}: {error}", do="make it anew"
        ) from error
    return checked(content, location)


def checked(
    content: Any,  # noqa: ANN401 - anything that JSON can say
    location: UPath | Path,
    what: str = "the unified file",
    do: str = "mend the file, or remove it and make it anew: `anony unify`",
) -> CocoSet:
    """Check the content of a unified file.

    Args:
        content: What the JSON says.
        location: Where it was read from.
        what: What it is called in an error.
        do: What mends it.

    Raises:
        DatasetError: See `load`.
    """
    if not isinstance(content, dict):
        raise DatasetError(f"{what} must be a JSON object", where=location, got=type(content).__name__)
    if problems := _problems(content):
        raise DatasetError(
            f"{what} is not COCO of faces and license plates:\n{first_of(problems)}",
            where=location,
            allowed="images, annotations, and the categories 1 face and 2 license_plate",
            do=do,
        )
    return CocoSet(location, content.get("info", {}), content["images"], content["annotations"])


def first_of(problems: Sequence[str]) -> str:
    """The first problems for an error's message, a line each, and how many more there are."""
    more = len(problems) - PROBLEMS_NAMED
    return "\n".join(
        f"  {line}" for line in [*problems[:PROBLEMS_NAMED], *([f"... and {more} more"] if more > 0 else [])]
    )


def refuse_shares(annotations: Sequence[Record], where: object) -> None:
    """Refuse boxes of which all could be shares of their image's size, as other formats have them.

    Raises:
        DatasetError: If there are boxes, and all their numbers are within 0 to 1.
    """
    if annotations and all(0 <= value <= 1 for annotation in annotations for value in annotation["bbox"]):
        raise DatasetError(
            "the boxes are in shares of the image's size, not in pixels",
            where=where,
            got=f"annotation {annotations[0]['id']}: bbox {annotations[0]['bbox']}; all are within 0 to 1",
            allowed="x, y, width and height in pixels",
            do="multiply them by the width and height of their images",
        )


def save(path: Path | UPath, info: Record, images: Iterable[Record], annotations: Iterable[Record]) -> None:
    """Write a unified file: one record a line, keys sorted, so that equal sets give equal bytes.

    Raises:
        ValueError: If a number is not finite: JSON has none of those.
    """
    with atomic.writing(path) as file:
        file.write(b'{"annotations": ')
        _write_records(file, annotations)
        file.write(b',\n"categories": ')
        _write_records(file, CATEGORIES)
        file.write(b',\n"images": ')
        _write_records(file, images)
        file.write(b',\n"info": ' + _line(info) + b"}\n")


def _write_records(file: Any, records: Iterable[Record]) -> None:  # noqa: ANN401 - any binary file
    file.write(b"[")
    for number, record in enumerate(records):
        file.write((b",\n" if number else b"\n") + _line(record))
    file.write(b"\n]")


def _line(record: Record) -> bytes:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _problems(content: Record) -> list[str]:
    for key in ("images", "annotations", "categories"):
        value = content.get(key)
        if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
            return [f"{key}: must be a list of objects"]
    categories = [[category.get("id"), category.get("name")] for category in content["categories"]]
    if sorted(categories, key=str) != [[number, kind.value] for number, kind in KINDS_BY_CATEGORY.items()]:
        return [f"categories: got {categories}"]
    info = content.get("info", {})
    named = info.get("sources", {}) if isinstance(info, dict) else None
    if not isinstance(named, dict) or not all(
        isinstance(source, dict) and "root" in source for source in named.values()
    ):
        return ["info: must be an object, and each of its sources must have a root"]
    problems = _repeated("images", content["images"]) + _repeated("annotations", content["annotations"])
    for number, image in enumerate(content["images"]):
        if mistake := _image_mistake(image):
            problems.append(f"images[{number}]: {mistake}")
    if problems:
        return problems
    known = {image["id"] for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        if mistake := _annotation_mistake(annotation, known):
            problems.append(f"annotations[{number}]: {mistake}")
    return problems


def _repeated(name: str, records: Sequence[Record]) -> list[str]:
    ids = [record.get("id") for record in records]
    if not all(type(number) is int for number in ids):
        return [f"{name}: every id must be a whole number"]
    return [f"{name}: the id {number} stands {count} times" for number, count in Counter(ids).items() if count > 1]


def _image_mistake(image: Record) -> str | None:
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        return "file_name must be text"
    for name in ("source", "plate_style"):
        if not isinstance(image.get(name), str | None):
            return f"{name} must be text: got {image[name]!r}"
    unlabeled = image.get("not_exhaustive_category_ids") or []
    if not isinstance(unlabeled, list) or not all(type(number) is int for number in unlabeled):
        return f"not_exhaustive_category_ids must be a list of whole numbers: got {unlabeled!r}"
    for name in ("width", "height"):
        edge = image.get(name)
        if edge is not None and not (_are_numbers([edge], 1) and edge > 0):
            return f"{name} must be a number of pixels above 0: got {edge!r}"
    return None


def _annotation_mistake(annotation: Record, known_images: set[Any]) -> str | None:
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if type(image) is not int or image not in known_images:
        return f"image_id {image!r} names no image"
    if type(category) is not int or category not in KINDS_BY_CATEGORY:
        return f"category_id must be 1 or 2: got {category!r}"
    box: Any = annotation.get("bbox")
    if not _are_numbers(box, 4) or box[2] <= 0 or box[3] <= 0:
        return f"bbox must be x, y, and a width and height above 0: got {box!r}"
    if not _are_numbers([annotation.get("score", 1.0)], 1):
        return f"score must be a number: got {annotation['score']!r}"
    for name, count in (("quad", 4), ("landmarks", 5)):
        points: Any = annotation.get(name) or [[0, 0]] * count
        if not isinstance(points, list) or len(points) != count or not all(_are_numbers(point, 2) for point in points):
            return f"{name} must be {count} points x, y: got {points!r}"
    # No crop can be turned or straightened by what has no extent.
    if annotation.get("landmarks") and len({tuple(point) for point in annotation["landmarks"]}) == 1:
        return f"landmarks must not be one and the same point: got {annotation['landmarks']!r}"
    if annotation.get("quad") and _area(annotation["quad"]) < LEAST_AREA_PX:
        return f"quad must enclose an area: got {annotation['quad']!r}"
    return None


def _area(quad: Sequence[Sequence[float]]) -> float:
    """Of four corners in their order, by Gauss's formula."""
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(quad, [*quad[1:], quad[0]], strict=True))) / 2


def _are_numbers(values: object, count: int) -> bool:
    """Whether a JSON value is a list of so many numbers, none of them infinite or NaN."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )

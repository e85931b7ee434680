"""Anybody's COCO file that says where faces and license plates are, for `anony anonymize` and `anony evaluate` alike.

Categories count by their names, in whatever numbers. Those that are neither by name (person, car ...) are left out of
account, with a warning; a file that leaves open whether one is meant is refused, for what is not understood would be
left as it is, or not judged.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from upath import UPath

from anony_pipeline.datasets import coco
from anony_pipeline.datasets.coco import Record
from anony_pipeline.errors import DatasetError
from anony_pipeline.runtime.progress import log
from anony_pipeline.storage import locations
from anony_pipeline.structures.regions import CATEGORY_IDS, CATEGORY_NAMES, Kind, kind_of_category

WHAT = "the boxes file"
MEND = "mend the file: a region whose box is wrong would be left as it is, or not judged"


@dataclass(frozen=True)
class GivenBoxes:
    """What a boxes file says.

    Attributes:
        document: The file's content, unchanged.
        images: Its records of images; no two are of one image.
        annotations: Its annotations of faces and plates, with the unified set's numbers of categories.
        kinds: What is meant by its own numbers of categories; one that is missing is left out of account.
    """

    document: dict[str, Any]
    images: list[Record]
    annotations: list[Record]
    kinds: dict[int, Kind]


def read(path: Path | UPath) -> GivenBoxes:
    """Read a COCO file with faces and license plates.

    Args:
        path: The file, local or of any fsspec file system.

    Raises:
        DatasetError: If the file is missing or no COCO file, if it has neither category, if it is not clear whether
            one of its categories is meant, if an image has two records, or if boxes are in shares of the image's size.
    """
    try:
        document = json.loads(locations.location(path).read_bytes())
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        kinds = {number: kind for number, name in names.items() if (kind := kind_of_category(name)) is not None}
        given = list(document["annotations"])
        content = {
            "images": document["images"],
            "annotations": [_renumbered(annotation, kinds) for annotation in given],
            "categories": coco.CATEGORIES,
        }
    except FileNotFoundError as error:
        raise DatasetError("there is no such boxes file", where=path, do="give --boxes a COCO file") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            "the boxes can't be read: the file is not COCO",
            where=path,
            got=repr(error)[:200],
            allowed="images, annotations, and categories named face and license_plate",
            do="write the regions as COCO",
        ) from error
    _check_categories(document["categories"], given, path)
    found = coco.checked(content, locations.location(path), WHAT, MEND)
    _refuse_twins(found.images, path)
    ours = [new for new, old in zip(found.annotations, given, strict=True) if old["category_id"] in kinds]
    coco.refuse_shares(ours, path)
    if others := sorted(name for number, name in names.items() if number not in kinds):
        log.warning("%s: neither faces nor license plates, so left out of account: %s", path, ", ".join(others))
    return GivenBoxes(document, found.images, ours, kinds)


def _renumbered(annotation: Record, kinds: Mapping[Any, Kind]) -> Record:
    """An annotation in the unified set's numbers; one of another category keeps its place, and no more is asked of it.

    Errors name an annotation by its place in the list.
    """
    kind = kinds.get(annotation.get("category_id"))
    if kind is not None:
        return {**annotation, "category_id": CATEGORY_IDS[kind]}
    same = {name: annotation.get(name) for name in ("id", "image_id")}
    return {**same, "category_id": CATEGORY_IDS[Kind.FACE], "bbox": [0, 0, 1, 1]}


def _check_categories(categories: Sequence[Record], annotations: Sequence[Record], path: Path | UPath) -> None:
    """Refuse a file that leaves open what is meant.

    Raises:
        DatasetError: If neither kind is there, a category may be meant for one, or an annotation's is not listed.
    """
    names = {category["id"]: str(category["name"]) for category in categories}
    known = [name for name in names.values() if kind_of_category(name) is not None]
    unclear = [name for name in names.values() if name not in known and re.search("face|plate", name.lower())]
    if unclear or not known or len(names) < len(categories):
        raise DatasetError(
            "it is not clear which categories are faces and license plates",
            where=path,
            got=unclear or [category["name"] for category in categories],
            allowed=list(CATEGORY_NAMES),
            do="rename them or take them out, and give each its own id: what is neither is left out of account",
        )
    if unknown := [annotation for annotation in annotations if annotation.get("category_id") not in names]:
        raise DatasetError(
            f"{len(unknown)} annotations are of categories that the file does not list",
            where=path,
            got=f"annotation {unknown[0].get('id')}: category_id {unknown[0].get('category_id')!r}",
            allowed=list(names),
            do="add the categories, or mend the annotations",
        )


def _refuse_twins(records: Sequence[Record], path: Path | UPath) -> None:
    """Of an image with two records each would be anonymized or judged without the other's boxes."""
    counted = Counter(PurePosixPath(record["file_name"]) for record in records)
    if twins := [f"{name} has {count} records" for name, count in counted.items() if count > 1]:
        raise DatasetError(
            f"{len(twins)} of {len(counted)} images have more than one record:\n{coco.first_of(twins)}",
            where=path,
            allowed="one record an image, with all of its boxes",
            do="join them",
        )

"""COCO boxes in and out, for images that are anonymized file by file."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anony_pipeline.datasets import coco, given_boxes
from anony_pipeline.datasets.coco import Record
from anony_pipeline.datasets.given_boxes import GivenBoxes
from anony_pipeline.errors import DatasetError, MediaError
from anony_pipeline.ops import images
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind, Region

WHO_IT_WAS = ("identity", "serial")
"""What labels may say about the originals, and those of anonymized images must not."""
CATEGORIES = [{"id": number, "name": kind.value} for kind, number in CATEGORY_IDS.items()]


@dataclass(frozen=True)
class Labels:
    """A COCO file with the regions of images.

    Attributes:
        path: The file, for messages.
        document: Its content, unchanged.
        record_of: The record of each image that the file knows, by the image's name; no two share one.
        annotations_of: The annotations by image id.
    """

    path: Path
    document: dict[str, Any]
    record_of: dict[str, Record]
    annotations_of: dict[int, list[Record]]

    @classmethod
    def read(cls, path: Path, sources: Mapping[str, Path]) -> "Labels":
        """Read a COCO file with faces and license plates (see `given_boxes.read`).

        Args:
            path: The file.
            sources: The images to anonymize by their relative names, for which records are looked for.

        Raises:
            DatasetError: See `given_boxes.read`; also if a box lies beyond its image, whose region would be left.
        """
        given = given_boxes.read(path)
        _refuse_boxes_beyond(given, path)
        grouped: dict[int, list[Record]] = {}
        for annotation in given.annotations:
            grouped.setdefault(annotation["image_id"], []).append(annotation)
        return cls(path, given.document, _matched(given.images, sources), grouped)

    def regions(self, name: str, size_hw: tuple[int, int]) -> list[Region]:
        """The regions of one image.

        Args:
            name: The image's relative name.
            size_hw: The image's height and width in pixels.

        Raises:
            DatasetError: If the file doesn't know the image, or knows it in another size: its boxes would miss.
        """
        if name not in self.record_of:
            raise DatasetError(
                "the boxes file does not know the image",
                where=self.path,
                got=name,
                allowed="a record of this name; one of its last part alone, if no other image or record has that",
                do="add the image to the file, or anonymize without boxes",
            )
        record = self.record_of[name]
        told = (record.get("height"), record.get("width"))
        if None not in told and told != tuple(size_hw):
            raise DatasetError(
                "the image has another size than its boxes were drawn for", where=name, got=size_hw, allowed=told
            )
        return coco.regions_of(record, self.annotations_of.get(record["id"], []))

    def kept(self, names: Sequence[str]) -> dict[str, Any]:
        """The document with the records of the named images alone; labels unchanged but for who it was."""
        records = [self.record_of[name] for name in names]
        numbers = {record["id"] for record in records}
        annotations = [without_who_it_was(a) for a in self.document["annotations"] if a["image_id"] in numbers]
        return {**self.document, "images": records, "annotations": annotations}


def _refuse_boxes_beyond(given: GivenBoxes, path: Path) -> None:
    size_of = {record["id"]: [record.get(name) or math.inf for name in ("width", "height")] for record in given.images}
    problems = [
        f"annotation {annotation['id']}: {mistake}"
        for annotation in given.annotations
        if (mistake := _mistake(annotation, *size_of[annotation["image_id"]]))
    ]
    if problems:
        raise DatasetError(
            f"the boxes file can't be right:\n{coco.first_of(problems)}",
            where=path,
            allowed="boxes x, y, width, height in pixels that lie in their images at least in part",
            do=given_boxes.MEND,
        )


def _mistake(annotation: Record, width: float, height: float) -> str | None:
    x, y, wide, high = annotation["bbox"]
    if x >= width or y >= height or x + wide <= 0 or y + high <= 0:
        size = f" of {width:g} x {height:g} px" if max(width, height) < math.inf else ""
        return f"bbox lies beyond its image{size}: got {annotation['bbox']}"
    return None


def _matched(records: Sequence[Record], sources: Mapping[str, Path]) -> dict[str, Record]:
    """The record of each image that has one.

    An image has the record of its name. If there is none, it has that whose last part is its own, if it is the only
    such record and no other image's, and if the folders that the record names are those where the image lies:
    cameras number their images alike, and boxes of another one would leave all faces as they are.
    """
    record_at = {PurePosixPath(record["file_name"]): record for record in records}
    found = {name: record_at[PurePosixPath(name)] for name in sources if PurePosixPath(name) in record_at}
    taken = {record["id"] for record in found.values()}
    alike: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in record_at:
        alike[file.name].append(file)
    asking: dict[PurePosixPath, list[str]] = defaultdict(list)
    for name in sources.keys() - found.keys():
        files = alike[PurePosixPath(name).name]
        if len(files) == 1 and record_at[files[0]]["id"] not in taken and _lies_at(sources[name], files[0]):
            asking[files[0]].append(name)
    return found | {names[0]: record_at[file] for file, names in asking.items() if len(names) == 1}


def _lies_at(source: Path, file: PurePosixPath) -> bool:
    return source.absolute().parts[-len(file.parts) :] == file.parts


def without_who_it_was(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """A COCO annotation without what names the person or the plate that was there."""
    return {name: value for name, value in annotation.items() if name not in WHO_IT_WAS}


def found_labels(names: Sequence[str], rows: Mapping[str, Sequence[Mapping[str, Any]]], output: Path) -> dict[str, Any]:
    """A COCO document of what was found, from the ledger's rows.

    Args:
        names: The images in their order.
        rows: The ledger's rows by image.
        output: Where the anonymized images lie.
    """
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(names, start=1):
        height, width = _size_of(output / name)
        records.append({"id": number, "file_name": name, "width": width, "height": height})
        for row in rows.get(name, ()):
            box = boxes.xyxy_to_xywh(boxes.clip([row["box_xyxy"]], width, height))[0].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY_IDS[Kind(row["kind"])],
                    "bbox": [round(value, 2) for value in box],
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "score": row["score"],
                }
            )
    return {"images": records, "annotations": annotations, "categories": CATEGORIES}


def _size_of(path: Path) -> tuple[int, int]:
    # Not by OpenCV's own reading of files: it ends the process at a name that is not UTF-8.
    try:
        return images.read(path).shape[:2]
    except MediaError as error:
        raise MediaError(
            "an anonymized image can't be read again", where=path, got=error.what, do="remove it and run again"
        ) from error

"""COCO boxes in and out, for images that are anonymized file by file."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from anony_pipeline.errors import DatasetError, MediaError
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, CATEGORY_NAMES, Kind, Region, kind_of_category

WHO_IT_WAS = ("identity", "serial")
"""What labels may say about the originals, and those of anonymized images must not."""
CATEGORIES = [{"id": number, "name": kind.value} for kind, number in CATEGORY_IDS.items()]


@dataclass(frozen=True)
class Labels:
    """A COCO file with the regions of images.

    Attributes:
        path: The file, for messages.
        document: Its content, unchanged.
        images: The image records by file name.
        regions_of: The annotations by image id.
    """

    path: Path
    document: dict[str, Any]
    images: dict[str, dict[str, Any]]
    regions_of: dict[int, list[dict[str, Any]]]

    @classmethod
    def read(cls, path: Path) -> "Labels":
        """Read a COCO file with faces and licence plates; categories that are neither by name are left out of account.

        Raises:
            DatasetError: If the file is missing or no COCO file, if it has neither category, or if it is not clear
                whether one of its categories is meant: its regions would be left as they are.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8-sig"))
            named = {image["file_name"]: image for image in document["images"]}
            names = {category["id"]: str(category["name"]) for category in document["categories"]}
            kinds = {number: kind for number, name in names.items() if (kind := kind_of_category(name)) is not None}
            regions: dict[int, list[dict[str, Any]]] = {}
            for annotation in document["annotations"]:
                if annotation["category_id"] in kinds:
                    number = CATEGORY_IDS[kinds[annotation["category_id"]]]
                    regions.setdefault(annotation["image_id"], []).append({**annotation, "category_id": number})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                "the boxes can't be read",
                where=path,
                got=repr(error)[:200],
                allowed="a COCO file with images, annotations and the categories face and license_plate",
                do="check the file",
            ) from error
        unclear = [
            name for number, name in names.items() if number not in kinds and re.search("face|plate", name.lower())
        ]
        if unclear or not kinds:
            raise DatasetError(
                "it is not clear which categories are faces and licence plates",
                where=path,
                got=unclear or list(names.values()),
                allowed=list(CATEGORY_NAMES),
                do="rename them, or take them out: regions of other categories are left as they are",
            )
        return cls(path, document, named, regions)

    def regions(self, name: str, size_hw: tuple[int, int]) -> list[Region]:
        """The regions of one image.

        Args:
            name: The image's relative name; its last part serves if only one record has it.
            size_hw: The image's height and width in pixels.

        Raises:
            DatasetError: If the file doesn't know the image, or knows it in another size: its boxes would miss.
        """
        record = self._record(name)
        told = (record.get("height"), record.get("width"))
        if None not in told and told != tuple(size_hw):
            raise DatasetError(
                "the image has another size than its boxes were drawn for", where=name, got=size_hw, allowed=told
            )
        style = record.get("plate_style")
        return [Region.from_coco(annotation, style) for annotation in self.regions_of.get(record["id"], [])]

    def _record(self, name: str) -> dict[str, Any]:
        if name in self.images:
            return self.images[name]
        last = Path(name).name
        matches = [record for file, record in self.images.items() if Path(file).name == last]
        if len(matches) != 1:
            raise DatasetError(
                "the boxes file does not know the image",
                where=self.path,
                got=f"{len(matches)} records named {last}",
                do="add the image to the file, or anonymize without boxes",
            )
        return matches[0]

    def kept(self, names: Sequence[str]) -> dict[str, Any]:
        """The document with the records of the named images alone; labels unchanged but for who it was."""
        records = [self._record(name) for name in names]
        numbers = {record["id"] for record in records}
        annotations = [without_who_it_was(a) for a in self.document["annotations"] if a["image_id"] in numbers]
        return {**self.document, "images": records, "annotations": annotations}


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
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise MediaError("an anonymized image can't be read again", where=path, do="remove it and run again")
    return image.shape[:2]

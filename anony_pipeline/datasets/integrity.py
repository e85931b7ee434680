"""What must hold of a unified set before hours are spent on it."""

from collections.abc import Collection, Iterator

from anony_pipeline.datasets import similarity
from anony_pipeline.datasets.coco import CocoSet, Record
from anony_pipeline.structures import boxes

TOLERANCE_PX = 0.01
"""Boxes are written with six digits."""


def boxes_in_images(unified: CocoSet) -> list[str]:
    """Name the annotations whose box has no area or leaves its image; images without a size can't be checked."""
    images = {image["id"]: image for image in unified.images}
    return [
        f"{unified.path.name}: annotation {annotation['id']} of {image['file_name']}: {fault}"
        for annotation in unified.annotations
        if (fault := _fault(annotation, image := images[annotation["image_id"]])) is not None
    ]


def _fault(annotation: Record, image: Record) -> str | None:
    x_min, y_min, x_max, y_max = boxes.xywh_to_xyxy([annotation["bbox"]])[0].tolist()
    if x_max <= x_min or y_max <= y_min:
        return f"no area: {annotation['bbox']}"
    if image.get("width") is None or image.get("height") is None:
        return None
    over = max(-x_min, -y_min, x_max - image["width"], y_max - image["height"])
    return f"{over:.2f} px outside: {annotation['bbox']}" if over > TOLERANCE_PX else None


def missing_files(unified: CocoSet) -> list[str]:
    """Name the images that are not there."""
    return [
        f"{unified.path.name}: {image['file_name']} of {image.get('source')}"
        for image in unified.images
        if not unified.image_file(image).exists()
    ]


def leaks(train: CocoSet, val: CocoSet) -> list[str]:
    """Name the images of val that stand in train also, by file or by looks (see `similarity.near_duplicates`)."""
    return [*_same_files(train, val), *(str(pair) for pair in similarity.near_duplicates(train, val))]


def _same_files(train: CocoSet, val: CocoSet) -> Iterator[str]:
    known = {(image.get("source"), image["file_name"]) for image in train.images}
    for image in val.images:
        if (image.get("source"), image["file_name"]) in known:
            yield f"{image['file_name']} of {image.get('source')} stands in both splits"


def unknown_styles(unified: CocoSet, known: Collection[str]) -> list[str]:
    """Name the plate styles of images that there is no style file for, with how many images each has."""
    found = [image["plate_style"] for image in unified.images if image.get("plate_style") is not None]
    return [
        f"{unified.path.name}: {style}, {found.count(style)} images; known: {', '.join(known)}"
        for style in sorted(set(found) - set(known))
    ]

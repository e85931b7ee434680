"""Landmarks of faces whose data set has none, by OpenCV's YuNet; donors are then aligned by eyes, nose and mouth."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.models.detector import YuNet
from anony_pipeline.ops import crops, images
from anony_pipeline.runtime import progress
from anony_pipeline.storage import atomic
from anony_pipeline.structures import boxes
from anony_pipeline.targets import selection
from anony_pipeline.targets.selection import Chosen
from anony_pipeline.targets.store import TargetStore, key_of

Landmarks = tuple[tuple[float, float], ...]

SEEN_PX = 320
"""The crop about a face is looked at in this size: YuNet's own, so that a small face is enlarged."""
MIN_IOU = 0.4
"""A face that is found elsewhere than the box says is somebody else's."""


def add_landmarks(coco: CocoSet, chosen: Sequence[Chosen], detector: YuNet, store: TargetStore) -> list[Chosen]:
    """Give each face without landmarks those that YuNet finds in its box; a face in which it finds none keeps none.

    What was found is kept in the store, so that a second run reads no image for it.

    Args:
        coco: For the images.
        chosen: Faces.
        detector: YuNet.
        store: The private store of the targets.

    Returns:
        The faces, in the same order.
    """
    blank = [item for item in chosen if item.region.landmarks is None]
    sums = selection.image_sums(coco, blank)
    keys = {
        item.annotation["id"]: key_of(image=sums[item.image["id"]], box=item.region.box_xyxy, window=item.window)
        for item in blank
    }
    file = store.root / f"landmarks-{detector.judge.sha256[:16]}.json"
    known: dict[str, Landmarks | None] = json.loads(file.read_text()) if file.exists() else {}
    missing = [item for item in blank if keys[item.annotation["id"]] not in known]
    for group in progress.track(selection.by_image(missing).values(), "face landmarks"):
        image = images.read(coco.image_file(group[0].image))
        for item in group:
            known[keys[item.annotation["id"]]] = find_landmarks(image, item, detector)
    if missing:
        atomic.write_json(file, known, mode=0o600)
    return [
        _with(item, known[keys[item.annotation["id"]]]) if item.region.landmarks is None else item for item in chosen
    ]


def find_landmarks(image_rgb: np.ndarray, item: Chosen, detector: YuNet) -> Landmarks | None:
    """Five points ``(x, y)`` in pixels of the image, in the order of `Region.landmarks`; None if there is no such face.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, the whole image.
        item: The face.
        detector: YuNet.
    """
    crop = crops.cut(image_rgb, item.window, (SEEN_PX, SEEN_PX))
    found = detector.find(crop)
    box = crops.to_crop(np.array(item.region.box_xyxy).reshape(2, 2), item.window, (SEEN_PX, SEEN_PX)).reshape(1, 4)
    if not found:
        return None
    overlaps = boxes.iou(box, np.array([region.box_xyxy for region in found]))[0]
    best = int(overlaps.argmax())
    points = found[best].landmarks
    if overlaps[best] < MIN_IOU or points is None:
        return None
    left, top, right, bottom = item.window
    scale = np.array([right - left, bottom - top]) / SEEN_PX
    return tuple((float(x), float(y)) for x, y in np.array(points) * scale + (left, top))


def _with(item: Chosen, points: Sequence[Sequence[float]] | None) -> Chosen:
    if points is None:
        return item
    landmarks = tuple((float(x), float(y)) for x, y in points)
    return dataclasses.replace(item, region=dataclasses.replace(item.region, landmarks=landmarks))

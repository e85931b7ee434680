"""Detections of one thing become one region, so that nothing is generated on top of something generated."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Kind, Region, boxes_of

SAME_THING = 0.5
"""Least share of the smaller box that lies in the other one."""
SAME_ROW = 0.5
"""Least share of the lower plate's height beside the other one that makes them halves of one."""


def merge(regions: Sequence[Region]) -> list[Region]:
    """Join regions that overlap by half of the smaller one or more, of whatever kinds, and plates that touch in a row.

    A detector finds a plate twice, or a plate on a poster's face; non-maximum suppression looks at intersection over
    union within one kind, and lets a small box in a large one pass. A plate that is wider than it knows is found as two
    halves; no two of the 303 plates that others annotated in 289 street photographs touch. The more confident of two
    gives kind, style and track; the box is the smallest around both, so that nothing that was covered is uncovered.
    Boxes that were *given* are never merged: who annotated them knows better.

    Args:
        regions: What a detector found.

    Returns:
        Regions of which no two overlap so much, the most confident first.
    """
    kept: list[Region] = []
    # Ties are broken by place: the result doesn't depend on the order in which regions come.
    waiting = sorted(regions, key=lambda region: (-region.score, region.kind, region.box_xyxy))
    while waiting:
        region = waiting.pop(0)
        same = [i for i in range(len(kept)) if _are_one(kept[i], region)]
        if not same:
            kept.append(region)
            continue
        # The grown region may reach others that stood apart from both of its parts.
        waiting.insert(0, _joined(kept.pop(same[0]), region))
    return sorted(kept, key=lambda region: -region.score)


def _are_one(one: Region, other: Region) -> bool:
    overlap = _overlap(one, other)
    if overlap >= SAME_THING or overlap == 0 or {one.kind, other.kind} != {Kind.PLATE}:
        return overlap >= SAME_THING
    (_, top, _, bottom), (_, other_top, _, other_bottom) = one.box_xyxy, other.box_xyxy
    shared = min(bottom, other_bottom) - max(top, other_top)
    return shared >= SAME_ROW * min(bottom - top, other_bottom - other_top)


def _overlap(one: Region, other: Region) -> float:
    both = boxes_of([one, other])
    smaller = float(boxes.area(both).min())
    return float(boxes.intersection(both[:1], both[1:])[0, 0]) / smaller if smaller > 0 else 0.0


def _joined(better: Region, other: Region) -> Region:
    both = boxes_of([better, other])
    x_min, y_min, x_max, y_max = np.concatenate([both[:, :2].min(axis=0), both[:, 2:].max(axis=0)]).tolist()
    if (x_min, y_min, x_max, y_max) == better.box_xyxy:
        return better
    # Its corners and landmarks are those of a part of the new box; the outline is looked for anew.
    return replace(better, box_xyxy=(x_min, y_min, x_max, y_max), quad=None, landmarks=None)

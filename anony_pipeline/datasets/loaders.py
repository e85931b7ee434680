"""From the unified set to images with their regions, one after another."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import coco, unify
from anony_pipeline.datasets.coco import CocoSet, Record
from anony_pipeline.datasets.sources import Split
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Region

Item = TypeVar("Item")

# Decoded images that wait for each worker; more would cost memory and gain nothing.
AHEAD = 2


class RegionExample(NamedTuple):
    """One image with all that is labeled in it.

    Attributes:
        image: Its record in the unified file.
        image_rgb: ``(H, W, 3)`` uint8 RGB, upright.
        regions: Its regions, those of ``iscrowd`` annotations among them.
        annotations: The regions' annotation records, in the same order.
    """

    image: Record
    image_rgb: np.ndarray
    regions: list[Region]
    annotations: list[Record]


def open_split(config: Config, split: Split) -> CocoSet:
    """Read one split of the unified set that the configuration names; images that lie elsewhere are copied once.

    Raises:
        DatasetError: If the file is not there (`unify.ensure_unified` makes it), or is not what the unified set is.
    """
    unified = coco.load(unify.unified_file(config.paths.unified, split))
    return replace(unified, cache=unify.image_cache(config)) if unified.is_remote else unified


def examples(unified: CocoSet, *, workers: int = 0) -> Iterator[RegionExample]:
    """Yield every image with its regions, in the file's order, whatever the number of workers.

    Memory stays bounded: at most ``2 * workers`` decoded images wait.

    Args:
        unified: One split.
        workers: Threads that decode ahead (decoding lets other threads run); 0 decodes when asked.

    Raises:
        MediaError: If an image can't be read: `unify` saw it whole, so it was changed or lost since.
    """
    if workers == 0:
        for image in unified.images:
            yield _example(unified, image)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        waiting: deque[Future[RegionExample]] = deque()
        try:
            for image in unified.images:
                waiting.append(pool.submit(_example, unified, image))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also when the caller stops early
            for future in waiting:
                future.cancel()


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield items in lists of ``size``, the last one of what is left: images that are worked on together.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


def _example(unified: CocoSet, image: Record) -> RegionExample:
    annotations = unified.annotations_by_image[image["id"]]
    return RegionExample(
        image, images.read(unified.image_file(image)), coco.regions_of(image, annotations), annotations
    )

"""Which of the training images are trained on: some of them, or all but one fold.

Folds are for cross-fitting (Chernozhukov et al., Double/debiased machine learning, 2018, section 1), which keeps what a
model memorized of an image out of what is computed on that image: each is anonymized by a model that saw neither it nor
another frame of its video.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

from anony_pipeline.config.schema import Config, Source
from anony_pipeline.datasets.coco import CocoSet, Record
from anony_pipeline.datasets.pp4av import video_of
from anony_pipeline.errors import DatasetError


def trained_on(config: Config, coco: CocoSet) -> CocoSet:
    """What is trained on of a training split: without the fold `training.left_out`, at most `training.max_images`.

    Raises:
        DatasetError: See `folds_of`.
    """
    training = config.training
    if training.folds > 1:
        coco = without_fold(coco, config.data.sources, training.folds, training.left_out)
    return some(coco, training.max_images, config.seed) if training.max_images else coco


def folds_of(coco: CocoSet, sources: Sequence[Source], folds: int) -> dict[int, int]:
    """Put every image into a fold: frames of one sequence together, the folds as even as that allows.

    Args:
        coco: One split.
        sources: Say which images are frames of sequences; stills stand alone.
        folds: How many.

    Returns:
        The fold of each image id, the same whenever it is asked for the same set.

    Raises:
        DatasetError: If there are fewer sequences and stills than folds.
    """
    in_sequences = {source.name for source in sources if source.layout == "pp4av" and source.sequences is not False}
    together: dict[str, list[int]] = {}
    for image in coco.images:
        together.setdefault(_sequence_of(image, in_sequences), []).append(image["id"])
    if len(together) < folds:
        raise DatasetError(
            "there are fewer sequences and stills than folds",
            where=coco.path,
            got=len(together),
            allowed=f"{folds} or more (training.folds)",
            do="lower training.folds; frames of one sequence are never in two folds",
        )
    sizes = [0] * folds
    found: dict[int, int] = {}
    # The largest first, each to the smallest fold so far; names are hashed, so that no fold is all of one source.
    for name in sorted(together, key=lambda name: (-len(together[name]), hashlib.sha256(name.encode()).hexdigest())):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(together[name])
        found |= dict.fromkeys(together[name], fold)
    return found


def without_fold(coco: CocoSet, sources: Sequence[Source], folds: int, left_out: int) -> CocoSet:
    """The set without the images of one fold; see `folds_of`."""
    fold_of = folds_of(coco, sources, folds)
    return only(coco, {number for number, fold in fold_of.items() if fold != left_out})


def some(coco: CocoSet, count: int, seed: int) -> CocoSet:
    """At most so many of a set's images, drawn by lot, of each source as many as of the others while it has them.

    Args:
        coco: One split.
        count: Images.
        seed: Of the lot. An image that joins the set changes few others' lots.
    """
    by_source: dict[str | None, list[Record]] = {}
    for image in sorted(coco.images, key=lambda image: _lot(seed, image)):
        by_source.setdefault(image.get("source"), []).append(image)
    # Each source's first, then each source's second ...
    turns = sorted(
        (place, _lot(seed, image), image["id"]) for images in by_source.values() for place, image in enumerate(images)
    )
    return only(coco, {number for _, _, number in turns[:count]})


def only(coco: CocoSet, image_ids: set[int]) -> CocoSet:
    """The set with some of its images alone."""
    return dataclasses.replace(
        coco,
        images=[image for image in coco.images if image["id"] in image_ids],
        annotations=[annotation for annotation in coco.annotations if annotation["image_id"] in image_ids],
    )


def _lot(seed: int, image: Record) -> str:
    return hashlib.sha256(f"{seed}/{image.get('source')}/{image['file_name']}".encode()).hexdigest()


def _sequence_of(image: Record, in_sequences: set[str]) -> str:
    if image.get("source") in in_sequences:
        return f"{image.get('source')}/{image.get('group')}/{video_of(image['file_name'])}"
    return f"{image.get('source')}/{image['file_name']}"

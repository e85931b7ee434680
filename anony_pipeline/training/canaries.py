"""Planted canaries: what a generator memorizes of faces that it should not know, measured in one training run.

Some faces are chosen by lot, and a second lot decides which half of them is planted: trained on with *itself* as
target, the worst that could happen to it. The other half is not trained on at all. If the outputs tell which was which,
the generator memorized (Steinke, Nasr and Jagielski, Privacy Auditing with One (1) Training Run, 2023, section 4).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import ConfigError
from anony_pipeline.evaluation.canaries import Canary
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime import seeding
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets.faces import choose_faces, face_size_hw
from anony_pipeline.targets.store import TargetRecord
from anony_pipeline.training import cache
from anony_pipeline.training.cache import SampleSet


@dataclass(frozen=True)
class Canaries:
    """Faces that an audit looks at.

    Attributes:
        samples: Their crops, planted or not.
        drawn: Who they are, in the same order.
    """

    samples: SampleSet
    drawn: tuple[Canary, ...]

    @property
    def planted(self) -> np.ndarray:
        """``(N,)`` bool: which of them were trained on, with themselves as targets."""
        return np.array([canary.planted for canary in self.drawn])


class Lot(NamedTuple):
    """Whom the lots fell on, by annotation.

    Attributes:
        planted: Faces that are trained on with themselves as targets.
        left_out: Faces that are not trained on at all, nor seen in anybody's target.
    """

    planted: frozenset[int]
    left_out: frozenset[int]


def draw(config: Config, coco: CocoSet) -> Lot:
    """Choose canaries, before targets are made: the face of one that is left out must not be anybody's donor.

    Args:
        config: With `training.canaries` and the seed, by which the lots are drawn.
        coco: The training split.

    Raises:
        ConfigError: If there are not so many faces.
    """
    count = config.training.canaries
    if count == 0:
        return Lot(frozenset(), frozenset())
    faces = sorted(item.annotation["id"] for item in choose_faces(config, coco)[0])
    if len(faces) < 2 * count:
        raise ConfigError(
            "too many canaries for so few faces",
            where="training.canaries",
            got=f"{count} of {len(faces)} faces",
            allowed=f"{len(faces) // 2} or fewer: half of the faces that are large enough",
            do="lower training.canaries, or train on more images",
        )
    drawn = [int(n) for n in seeding.numpy_generator(config.seed, "canaries").choice(faces, count, replace=False)]
    return Lot(frozenset(drawn[::2]), frozenset(drawn[1::2]))


def plant(
    config: Config, coco: CocoSet, records: Sequence[TargetRecord], lot: Lot
) -> tuple[list[TargetRecord], Canaries | None]:
    """Change what is trained on: planted canaries get themselves as targets, the others are left out.

    Args:
        config: The configuration.
        coco: The training split.
        records: The pseudo-targets.
        lot: Of `draw`; a face without a target is no canary.

    Returns:
        The records to train on, and the canaries; None if there are none.
    """
    planted, left_out = lot
    chosen = [record for record in records if record.annotation_id in planted | left_out]
    if not chosen:
        return list(records), None
    trained_on = [
        dataclasses.replace(record, method=cache.CANARY, key=f"{cache.CANARY} {record.key}")
        if record.annotation_id in planted
        else record
        for record in records
        if record.annotation_id not in left_out
    ]
    samples = _samples(config, coco, chosen)
    boxes = {annotation["id"]: tuple(annotation["bbox"]) for annotation in coco.annotations}
    numbers = [row.annotation_id for row in samples.rows]
    return trained_on, Canaries(samples, tuple(Canary(n, boxes[n], n in planted) for n in numbers))


def _samples(config: Config, coco: CocoSet, records: Sequence[TargetRecord]) -> SampleSet:
    size_hw, regions = face_size_hw(config), coco.regions_by_image()
    annotations = {annotation["id"]: annotation for annotation in coco.annotations}
    crowds = cache.crowds_of(coco.annotations)
    of_image = {image["id"]: image for image in coco.images}
    originals, holes, rows = [], [], []
    for record in records:
        annotation = annotations[record.annotation_id]
        image = of_image[annotation["image_id"]]
        others = regions[image["id"]]
        originals.append(crops.cut(images.read(coco.image_file(image)), record.window, size_hw))
        holes.append(masks.crop_mask(others, record.window, size_hw))
        region = Region.from_coco(annotation, image.get("plate_style"))
        rows.append(cache.sample_row(region, others, image, annotation, record.window, size_hw, None, crowds))
    pixels = np.stack(originals)
    return SampleSet(Kind.FACE, pixels, pixels, None, np.stack(holes).astype(np.uint8), rows)

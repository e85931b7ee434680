"""What a generator has to beat, and what an attacker reaches where there is nothing left to recognize."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from anony_pipeline.anonymize.anonymizer import Anonymizer, Job
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.evaluation.methods import Mask, Method, Scene, Simple, Treated
from anony_pipeline.evaluation.schema import ANONYMIZER, BoxSource
from anony_pipeline.ops import crops, images, masks, redact
from anony_pipeline.plates.styles import NEUTRAL, PlateStyle
from anony_pipeline.runtime import seeding
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets import faces as face_targets
from anony_pipeline.targets import plates as plate_targets
from anony_pipeline.targets import selection
from anony_pipeline.targets.selection import Chosen

DONORS = 200
"""Faces that baselines take from the training split: enough to choose from, few enough to keep."""

FACES_ONLY = frozenset({Kind.FACE})
REDACTIONS: dict[str, redact.Redaction] = {
    "blur": redact.blur,
    "pixelate": redact.pixelate,
    "solid": redact.solid,
    "inpaint": redact.inpaint,
}


def none() -> Method:
    """The originals: by them the judges prove themselves."""
    return Simple("none", "none", lambda scene: Treated(scene.image_rgb))


def redaction(name: str) -> Method:
    """Blur, pixelate, solid or inpaint on the annotated boxes.

    Args:
        name: A key of `REDACTIONS`.
    """
    how = REDACTIONS[name]

    def treat(scene: Scene) -> Treated:
        treated = _begun(scene)
        for mask in treated.masks_xyxy:
            _redact_inside(treated.image_rgb, mask, how)
        return treated

    return Simple(name, "ground_truth", treat)


def masks_of(scene: Scene) -> list[Mask]:
    """The whole pixels that are replaced for each annotated region, as the anonymizer grows and rounds them."""
    return [masks.mask_box(region, scene.image_rgb.shape[:2]) for region in scene.regions]


def _begun(scene: Scene) -> Treated:
    return Treated(scene.image_rgb.copy(), masks_of(scene), [None] * len(scene.regions))


def _redact_inside(image_rgb: np.ndarray, mask: Mask, how: redact.Redaction) -> None:
    """Redact one box in place, looking at its surroundings alone: whole images would take a hundred times as long."""
    x_min, y_min, x_max, y_max = mask
    margin = max(16, x_max - x_min, y_max - y_min)
    rows = slice(max(0, y_min - margin), y_max + margin)
    columns = slice(max(0, x_min - margin), x_max + margin)
    part = image_rgb[rows, columns]
    hole = np.zeros(part.shape[:2], np.float32)
    hole[y_min - rows.start : y_max - rows.start, x_min - columns.start : x_max - columns.start] = 1
    image_rgb[rows, columns] = how(part, hole)


@dataclass
class Donors:
    """Faces of the training split that are put in the place of others, in memory alone."""

    config: Config
    pool: face_targets.Pool
    crops_rgb: dict[int, np.ndarray] = field(default_factory=dict)
    of_judged: bool = False

    @classmethod
    def read(cls, config: Config, train: CocoSet, *, of_judged: bool = False) -> "Donors":
        """Choose up to `DONORS` faces of the training split and cut them out.

        Args:
            config: For the size of crops and the seed.
            train: The training split.
            of_judged: Whether these are the very images that are judged, where there is no training split: then donors
                of the same photograph, and of the same person where that is known, are left out.
        """
        size_hw = face_targets.face_size_hw(config)
        chosen, _ = selection.choose(
            train,
            Kind.FACE,
            min_region_px=max(config.data.min_region_px, 16),
            size_hw=size_hw,
            context=config.model.generator.face_context,
        )
        order = seeding.numpy_generator(config.seed, "baseline donors").permutation(len(chosen))[:DONORS]
        donors = cls(
            config,
            face_targets.make_pool([chosen[number] for number in sorted(order)], config.seed),
            of_judged=of_judged,
        )
        numbers = {id(face): number for number, face in enumerate(donors.pool.faces)}
        for group in selection.by_image(donors.pool.faces).values():
            image = images.read(train.image_file(group[0].image))
            for item in group:
                donors.crops_rgb[numbers[id(item)]] = crops.cut(image, item.window, size_hw)
        return donors

    def replace(self, scene: Scene, index: int, image_rgb: np.ndarray, *, faces: int, stream: int) -> bool:
        """Put another person's face (or the mean of several) into a region, in place.

        Args:
            scene: The original.
            index: Which of its regions.
            image_rgb: The image that is changed, on the face's ellipse alone.
            faces: How many donors are averaged.
            stream: Another number chooses other donors.

        Returns:
            Whether there were donors.
        """
        size_hw = face_targets.face_size_hw(self.config)
        region = scene.regions[index]
        window = crops.window_around(region.box_xyxy, size_hw, self.config.model.generator.face_context)
        # Images of the two splits may have the same number; a donor is never of the same photograph there.
        record = scene.record if self.of_judged else {**scene.record, "id": -1}
        item = Chosen(record, scene.annotations[index], region, window)
        donors = face_targets.rank_donors(item, self.pool, self.config.seed + stream)[:faces]
        if len(donors) < faces:
            return False
        place = face_targets.region_in_crop(item, size_hw)
        warped = [
            face_targets.warp_onto(
                self.crops_rgb[number], face_targets.region_in_crop(self.pool.faces[number], size_hw), place
            )
            for number in donors
        ]
        face = np.mean(warped, axis=0).round().astype(np.uint8) if len(warped) > 1 else warped[0]
        blended = face_targets.blend_face(crops.cut(scene.image_rgb, window, size_hw), face, place)
        _paste(image_rgb, scene.image_rgb, blended, window, masks.mask_box(region, scene.image_rgb.shape[:2]))
        return True


def _paste(image_rgb: np.ndarray, original: np.ndarray, crop: np.ndarray, window: crops.Window, mask: Mask) -> None:
    x_min, y_min, x_max, y_max = mask
    if x_max <= x_min or y_max <= y_min:
        return
    before = crops.on_image(crops.cut(original, window, crop.shape[:2]), window, mask)
    after = crops.on_image(crop, window, mask)
    # Only what the donor changed is put in: the crop's own resampling would soften the rest.
    part = image_rgb[y_min:y_max, x_min:x_max]
    part[:] = np.where(after == before, part, after)


def other_face(donors: Donors) -> Method:
    """Another person's face in the same head: what hair and outline alone give away. It does nothing to plates."""

    def treat(scene: Scene) -> Treated:
        treated = Treated(scene.image_rgb.copy())
        places = masks_of(scene)
        for index, region in enumerate(scene.regions):
            if region.kind is not Kind.FACE:
                continue
            if not donors.replace(scene, index, treated.image_rgb, faces=1, stream=1):
                _redact_inside(treated.image_rgb, places[index], redact.solid)
            treated.masks_xyxy.append(places[index])
            treated.serials.append(None)
        return treated

    return Simple("other_face", "ground_truth", treat, FACES_ONLY)


def fit(donors: Donors, styles: dict[str, PlateStyle]) -> Method:
    """The pseudo-target itself, pasted: what the generator is taught."""
    config = donors.config
    faces = {"donor_blend": 1, "k_same": config.targets.k, "self": 0}[config.targets.face_method]

    def treat(scene: Scene) -> Treated:
        treated = _begun(scene)
        for index, region in enumerate(scene.regions):
            if region.kind is Kind.PLATE:
                treated.serials[index] = _fit_plate(config, scene, index, treated.image_rgb, styles)
            elif faces and not donors.replace(scene, index, treated.image_rgb, faces=faces, stream=0):
                _redact_inside(treated.image_rgb, treated.masks_xyxy[index], redact.solid)
        return treated

    return Simple("fit", "ground_truth", treat)


def _fit_plate(
    config: Config, scene: Scene, index: int, image_rgb: np.ndarray, styles: dict[str, PlateStyle]
) -> str | None:
    region = scene.regions[index]
    drawn = plate_targets.draw(config, styles[region.style or NEUTRAL], scene.annotations[index])
    x_min, y_min, x_max, y_max = masks.mask_box(region, scene.image_rgb.shape[:2])
    if x_max - x_min < 2 or y_max - y_min < 2:
        return None
    margin = max(x_max - x_min, y_max - y_min)
    top, left = max(0, y_min - margin), max(0, x_min - margin)
    part = np.s_[top : y_max + margin, left : x_max + margin]
    shifted = region.moved(lambda points: points - (left, top))
    replaced, _ = plate_targets.replace(scene.image_rgb[part], shifted, drawn)
    changed = (replaced != scene.image_rgb[part]).any(axis=2)
    image_rgb[part][changed] = replaced[changed]
    return drawn.serial


@dataclass(frozen=True)
class Generated:
    """The anonymizer as a method, on detected or on annotated boxes, with or without its adapters."""

    anonymizer: Anonymizer
    boxes: BoxSource
    name: str = ANONYMIZER
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    kinds: frozenset[Kind] = frozenset(Kind)

    def apply(self, scenes: Sequence[Scene]) -> list[Treated]:
        """See `Method.apply`."""
        given = self.boxes == "ground_truth"
        jobs = [Job(s.image_rgb, s.name, s.regions if given else None, s.style) for s in scenes]
        with self.within():
            finished = self.anonymizer.anonymize_batch(jobs)
        return [
            Treated(
                done.image_rgb,
                [row.mask_xyxy for row in done.rows],
                [row.serial for row in done.rows],
                [f"{row.kind} {row.method}" + (f": {row.reason}" if row.reason else "") for row in done.rows],
            )
            for done in finished
        ]

"""Pseudo-targets of faces: another person's face, the mean of several, or the face itself.

`donor_blend` puts another person's face of similar size and pose into the head: aligned, its color matched, blended
band by band (Burt and Adelson, A Multiresolution Spline With Application to Image Mosaics, 1983). `k_same` does so with
the mean of k faces (Newton et al., Preserving Privacy by De-identifying Face Images, 2005). `self` is
self-reconstruction.
"""

import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from upath import UPath

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.models import recognizer as recognizers
from anony_pipeline.models.detector import YuNet
from anony_pipeline.models.recognizer import Recognizer
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime import parallel, progress, seeding
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import selection
from anony_pipeline.targets.landmarks import add_landmarks
from anony_pipeline.targets.report import TargetReport
from anony_pipeline.targets.selection import Chosen
from anony_pipeline.targets.store import TargetRecord, TargetStore, key_of

VERSION = 3
"""Of the code below: a change of what it makes raises it, and then targets are made anew."""

POOL = 2_000
"""Faces that may serve as donors; more give no better match and cost memory."""

CANDIDATES = 16
"""Donors tried for one face, best match first."""

EMBED_BATCH = 64

FACES_AT_ONCE = 1_000
"""Whose crops are in memory together."""

BANDS = 3


@dataclass(frozen=True)
class Pool:
    """The faces that may serve as donors, and what is compared of them.

    Attributes:
        faces: The donors.
        log_sizes: ``(N,)`` base-2 logarithm of the box's height in pixels.
        aspects: ``(N,)`` width over height of the box.
        yaws: ``(N,)`` the nose's offset from the eyes' middle over the eyes' distance; NaN without landmarks.
        owners: ``(N,)`` image ids: a donor is never of the same photograph.
        identities: ``(N,)`` names of persons, "" where unknown.
    """

    faces: list[Chosen]
    log_sizes: np.ndarray
    aspects: np.ndarray
    yaws: np.ndarray
    owners: np.ndarray
    identities: np.ndarray


def choose_faces(config: Config, coco: CocoSet) -> tuple[list[Chosen], int]:
    """The faces of a set that are large enough to be trained on, and how many are not."""
    chosen, left_out = selection.choose(
        coco,
        Kind.FACE,
        min_region_px=config.data.min_region_px,
        size_hw=face_size_hw(config),
        context=config.model.generator.face_context,
    )
    return chosen, len(left_out)


def make_face_targets(
    config: Config,
    coco: CocoSet,
    *,
    recognizer: Recognizer | None = None,
    no_donors: Collection[int] = (),
) -> TargetReport:
    """Make the targets of all faces of a training set, and write the manifest ``faces.json`` in the store.

    Args:
        config: Its `targets` section says how.
        coco: The training split.
        recognizer: Rejects donors that are too close; the configured one if None.
        no_donors: Annotations of faces that must not be seen in anybody's target.

    Returns:
        Counts, the records and examples. Faces for which no donor serves are counted in `failed` and have no target.
    """
    begin = time.monotonic()
    size_hw = face_size_hw(config)
    chosen, too_small = choose_faces(config, coco)
    store = TargetStore(Path(config.paths.targets), config.paths.retention_days)
    if config.targets.landmarks and config.targets.face_method != "self":
        chosen = add_landmarks(coco, chosen, YuNet(Path(config.targets.landmarks)), store)
    report = TargetReport("faces", config.targets.face_method, regions=len(chosen) + too_small, too_small=too_small)
    if config.targets.face_method == "self" or not chosen:
        keys = {item.annotation["id"]: key for item, key in zip(chosen, _self_keys(config, coco, chosen), strict=True)}
        _make_self(coco, chosen, keys, store, size_hw, report)
    else:
        judge = recognizer or recognizers.load_recognizer(
            config.judges.recognizer, weights_dir=Path(config.paths.weights), offline=config.model.offline
        )
        donors = [item for item in chosen if item.annotation["id"] not in no_donors]
        _FaceTargets(config, coco, (chosen, donors), store, judge, report).make()
    report.records.sort(key=lambda record: record.annotation_id)
    facts = {"method": report.method, "regions": report.regions, "failed": report.failed, "too_small": too_small}
    report.manifest = store.write_manifest("faces", report.records, facts)
    store.write_sheet("faces", report.examples)
    report.seconds = time.monotonic() - begin
    return report


def face_size_hw(config: Config) -> tuple[int, int]:
    """Height and width of a face crop in pixels."""
    return (config.model.generator.face_size, config.model.generator.face_size)


def _self_keys(config: Config, coco: CocoSet, chosen: list[Chosen]) -> list[str]:
    sums = selection.image_sums(coco, chosen)
    return [
        key_of(
            version=VERSION,
            method="self",
            image=sums[item.image["id"]],
            window=item.window,
            size=face_size_hw(config),
        )
        for item in chosen
    ]


def _make_self(
    coco: CocoSet,
    chosen: list[Chosen],
    keys: dict[int, str],
    store: TargetStore,
    size_hw: tuple[int, int],
    report: TargetReport,
) -> None:
    missing = [item for item in chosen if not store.has(keys[item.annotation["id"]])]
    for group in progress.track(selection.by_image(missing).values(), "face targets"):
        image = images.read(coco.image_file(group[0].image))
        for item in group:
            crop = crops.cut(image, item.window, size_hw)
            store.put(keys[item.annotation["id"]], crop)
            report.show(crop, crop)
    made = {item.annotation["id"] for item in missing}
    for item in chosen:
        number = item.annotation["id"]
        report.add(_record(item, keys[number], "self", store), reused=number not in made)


def _record(item: Chosen, key: str, method: str, store: TargetStore) -> TargetRecord:
    return TargetRecord(
        annotation_id=item.annotation["id"],
        kind=Kind.FACE.value,
        style=None,
        serial=None,
        window=item.window,
        target_file=store.relative(store.file_of(key)),
        anchor_file=None,
        method=method,
        key=key,
    )


class _FaceTargets:
    """One run that replaces faces by those of donors."""

    def __init__(
        self,
        config: Config,
        coco: CocoSet,
        chosen_and_donors: tuple[list[Chosen], list[Chosen]],
        store: TargetStore,
        recognizer: Recognizer,
        report: TargetReport,
    ) -> None:
        self.config, self.coco, self.store = config, coco, store
        self.chosen, donors = chosen_and_donors
        self.recognizer, self.report = recognizer, report
        self.size_hw = face_size_hw(config)
        self.donors_needed = config.targets.k if config.targets.face_method == "k_same" else 1
        self.pool = make_pool(donors, config.seed)
        # Crops and embeddings of donors live in memory alone: embeddings of real people are written nowhere.
        self.donor_crops: dict[int, np.ndarray] = {}
        self.embeddings: dict[int, np.ndarray] = {}

    def make(self) -> None:
        candidates = {item.annotation["id"]: rank_donors(item, self.pool, self.config.seed) for item in self.chosen}
        keys = self._keys(candidates)
        missing = [item for item in self.chosen if not self.store.has(keys[item.annotation["id"]])]
        made: set[int] = set()
        with parallel.Workers(len(selection.by_image(missing))) as workers:
            self._load_donors({donor for item in missing for donor in candidates[item.annotation["id"]]}, workers)
            # By image, so that each is read once; in parts, so that not all crops are in memory.
            ordered = [item for group in selection.by_image(missing).values() for item in group]
            for start in range(0, len(ordered), FACES_AT_ONCE):
                made |= self._make_some(ordered[start : start + FACES_AT_ONCE], candidates, keys, workers)
        self._count(missing, made, keys)

    def _make_some(
        self,
        items: list[Chosen],
        candidates: dict[int, list[int]],
        keys: dict[int, str],
        workers: parallel.Workers,
    ) -> set[int]:
        """Make targets of some faces and tell whose; the recognizer stays in this process."""
        originals = list(self._cut(items, "faces", workers))
        blends = []
        for item, original, embedding in zip(items, originals, self._embed(originals, items), strict=True):
            donors = self._accepted(embedding, candidates[item.annotation["id"]])
            if len(donors) < self.donors_needed:
                self.report.fail("no donor that differs enough" if len(self.pool.faces) > 1 else "no other face")
                continue
            faces = [(self.pool.faces[number], self.donor_crops[number]) for number in donors]
            blends.append(_Blend(item, original, faces, keys[item.annotation["id"]], self.store))
        for blend, target in zip(blends, workers.each(_make_blend, blends, "face targets"), strict=True):
            self.report.show(blend.original_rgb, target)
        return {blend.item.annotation["id"] for blend in blends}

    def _cut(self, items: Sequence[Chosen], what: str, workers: parallel.Workers) -> Iterator[np.ndarray]:
        """The crops of faces that are sorted by image."""
        groups = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.image["id"])]
        jobs = [
            _Cut(self.coco.image_file(group[0].image), [item.window for item in group], self.size_hw)
            for group in groups
        ]
        return itertools.chain.from_iterable(workers.each(_cut_crops, jobs, what))

    def _count(self, missing: list[Chosen], made: set[int], keys: dict[int, str]) -> None:
        without = {item.annotation["id"] for item in missing} - made
        for item in self.chosen:
            number = item.annotation["id"]
            if number not in without:
                record = _record(item, keys[number], self.config.targets.face_method, self.store)
                self.report.add(record, reused=number not in made)

    def _keys(self, candidates: dict[int, list[int]]) -> dict[int, str]:
        sums = selection.image_sums(self.coco, self.chosen)

        def made_of(item: Chosen) -> list[object]:
            return [sums[item.image["id"]], item.region.box_xyxy, item.region.landmarks]

        names = [made_of(donor) for donor in self.pool.faces]
        targets = self.config.targets
        return {
            item.annotation["id"]: key_of(
                version=VERSION,
                method=targets.face_method,
                k=self.donors_needed,
                min_donor_distance=targets.min_donor_distance,
                recognizer=self.recognizer.judge.sha256,
                face=made_of(item),
                window=item.window,
                size=self.size_hw,
                donors=[names[number] for number in candidates[item.annotation["id"]]],
            )
            for item in self.chosen
        }

    def _load_donors(self, numbers: set[int], workers: parallel.Workers) -> None:
        ordered = sorted(numbers, key=lambda number: (self.pool.faces[number].image["id"], number))
        items = [self.pool.faces[number] for number in ordered]
        self.donor_crops = dict(zip(ordered, self._cut(items, "donor faces", workers), strict=True))
        embedded = self._embed(list(self.donor_crops.values()), items)
        self.embeddings = dict(zip(ordered, embedded, strict=True))

    def _embed(self, faces_rgb: Sequence[np.ndarray], items: Sequence[Chosen]) -> np.ndarray:
        aligned = [
            recognizers.align(crop, region_in_crop(item, self.size_hw), self.recognizer.input_size)
            for crop, item in zip(faces_rgb, items, strict=True)
        ]
        batches = [
            self.recognizer.embed(aligned[start : start + EMBED_BATCH]) for start in range(0, len(aligned), EMBED_BATCH)
        ]
        return np.concatenate(batches) if batches else np.zeros((0, 1), np.float32)

    def _accepted(self, embedding: np.ndarray, candidates: list[int]) -> list[int]:
        far = [
            number
            for number in candidates
            if 1 - float(embedding @ self.embeddings[number]) >= self.config.targets.min_donor_distance
        ]
        return far[: self.donors_needed]


@dataclass(frozen=True)
class _Cut:
    """One image, and the windows of it that are wanted."""

    image: Path | UPath
    windows: list[crops.Window]
    size_hw: tuple[int, int]


def _cut_crops(job: _Cut) -> list[np.ndarray]:
    image = images.read(job.image)
    return [crops.cut(image, window, job.size_hw) for window in job.windows]


@dataclass(frozen=True)
class _Blend:
    """One face, its crop, the donors with theirs, and where the target goes."""

    item: Chosen
    original_rgb: np.ndarray
    donors: list[tuple[Chosen, np.ndarray]]
    key: str
    store: TargetStore


def _make_blend(job: _Blend) -> np.ndarray:
    region = region_in_crop(job.item, job.original_rgb.shape[:2])
    warped = [_in_place(donor, crop, job.item, region) for donor, crop in job.donors]
    face = np.mean(warped, axis=0).round().astype(np.uint8) if len(warped) > 1 else warped[0]
    target = blend_face(job.original_rgb, face, region)
    job.store.put(job.key, target)
    return target


def _in_place(donor: Chosen, crop_rgb: np.ndarray, item: Chosen, region: Region) -> np.ndarray:
    """A donor's crop, its face where the region's is, and no sharper than the original crop can be."""
    height, width = crop_rgb.shape[:2]
    face = warp_onto(crop_rgb, region_in_crop(donor, (height, width)), region)
    own, others = (height / (one.window[3] - one.window[1]) for one in (item, donor))
    # A crop that was enlarged by f has about the blur of a pixel that is f wide.
    sigma = 0.4 * float(np.sqrt(max(0.0, max(own, 1.0) ** 2 - max(others, 1.0) ** 2)))
    return cv2.GaussianBlur(face, (0, 0), sigma) if sigma > 0.3 else face


def make_pool(chosen: list[Chosen], seed: int) -> Pool:
    """Choose up to `POOL` donors at random, and measure them.

    Args:
        chosen: All faces of the training set that may be donors.
        seed: The run's seed.
    """
    order = seeding.numpy_generator(seed, "donor pool").permutation(len(chosen))[:POOL]
    faces = [chosen[number] for number in sorted(order)]
    sizes = np.array([face.region.size_wh for face in faces], dtype=np.float64).reshape(-1, 2)
    return Pool(
        faces=faces,
        log_sizes=np.log2(sizes[:, 1]),
        aspects=sizes[:, 0] / sizes[:, 1],
        yaws=np.array([yaw_of(face.region) for face in faces]),
        owners=np.array([face.image["id"] for face in faces]),
        identities=np.array([face.region.track or "" for face in faces]),
    )


def yaw_of(region: Region) -> float:
    """How far the nose lies beside the eyes' middle, over the eyes' distance; 0 looks ahead, NaN without landmarks."""
    if region.landmarks is None:
        return float("nan")
    left, right, nose = (np.array(point) for point in region.landmarks[:3])
    eyes = right - left
    # Along the line of the eyes, so that a tilted head does not count as turned.
    return float((nose - (left + right) / 2) @ eyes / max(float(eyes @ eyes), 1e-6))


def rank_donors(item: Chosen, pool: Pool, seed: int) -> list[int]:
    """Order the donors of another person on another photograph by likeness of size, shape and pose.

    Args:
        item: The face to replace.
        pool: The donors.
        seed: The run's seed; a little chance keeps one good donor from replacing everybody.

    Returns:
        Up to `CANDIDATES` indices into the pool, best first.
    """
    width, height = item.region.size_wh
    larger = pool.log_sizes - np.log2(height)
    # A donor that is too small blurs; one that is too large is only resampled.
    cost = np.where(larger < 0, -larger, 0.3 * larger) + 2 * np.abs(np.log(pool.aspects * height / width))
    turn = np.abs(pool.yaws - yaw_of(item.region))
    cost += np.where(np.isnan(turn), 0.5, 4 * turn)
    cost += seeding.numpy_generator(seed, "donors", item.annotation["id"]).uniform(0, 0.7, len(cost))
    same = pool.owners == item.image["id"]
    if item.region.track:
        same |= pool.identities == item.region.track
    cost[same] = np.inf
    order = np.argsort(cost, kind="stable")[:CANDIDATES]
    return [int(number) for number in order if np.isfinite(cost[number])]


def region_in_crop(item: Chosen, size_hw: tuple[int, int]) -> Region:
    """The region with box and landmarks in pixels of its crop."""
    return item.region.moved(lambda points: crops.to_crop(points, item.window, size_hw))


def warp_onto(donor_rgb: np.ndarray, donor: Region, region: Region) -> np.ndarray:
    """Move a donor's crop so that its face lies where the region's face lies.

    Five landmarks on both sides are matched by the similarity of least squares; otherwise box is laid on box.

    Args:
        donor_rgb: ``(H, W, 3)`` uint8.
        donor: The donor's face in pixels of its crop.
        region: The face to cover, in pixels of a crop of the same size.
    """
    if donor.landmarks is not None and region.landmarks is not None:
        matrix = recognizers.similarity_to(np.array(donor.landmarks), np.array(region.landmarks))
    else:
        source, goal = np.array(donor.box_xyxy), np.array(region.box_xyxy)
        scale = (goal[2:] - goal[:2]) / (source[2:] - source[:2])
        matrix = np.column_stack([np.diag(scale), goal[:2] - scale * source[:2]])
    # cv2 puts a pixel's center at whole numbers, we at halves.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    height, width = donor_rgb.shape[:2]
    return cv2.warpAffine(donor_rgb, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def blend_face(original_rgb: np.ndarray, face_rgb: np.ndarray, region: Region) -> np.ndarray:
    """Put a face, already in place, into a head: in an ellipse in the box, its color matched, band by band.

    Args:
        original_rgb: ``(H, W, 3)`` uint8.
        face_rgb: ``(H, W, 3)`` uint8, aligned to the original.
        region: The face in pixels of the crop.

    Returns:
        ``(H, W, 3)`` uint8. Outside the region's mask it equals the original.
    """
    size_hw = original_rgb.shape[:2]
    ellipse = _face_ellipse(region, size_hw)
    if not ellipse.any():
        return original_rgb.copy()
    blended = _multiband(original_rgb, _match_color(face_rgb, original_rgb, ellipse), ellipse)
    return np.where(masks.region_mask([region], size_hw)[..., None] > 0, blended, original_rgb)


def _face_ellipse(region: Region, size_hw: tuple[int, int]) -> np.ndarray:
    x_min, y_min, x_max, y_max = region.box_xyxy
    mask = np.zeros(size_hw, np.float32)
    center = (round((x_min + x_max) / 2), round((y_min + y_max) / 2))
    axes = (max(1, round((x_max - x_min) * 0.48)), max(1, round((y_max - y_min) * 0.48)))
    return cv2.ellipse(mask, center, axes, 0, 0, 360, 1.0, thickness=-1)


def _multiband(below_rgb: np.ndarray, above_rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend two images so that each band of frequencies has a transition as wide as itself: no seam, no ghost."""
    below: np.ndarray = below_rgb.astype(np.float32)
    above: np.ndarray = above_rgb.astype(np.float32)
    weight: np.ndarray = mask[..., None]
    bands = []
    for _ in range(BANDS):
        size = (below.shape[1], below.shape[0])
        coarse_below, coarse_above = cv2.pyrDown(below), cv2.pyrDown(above)
        fine_below = below - cv2.pyrUp(coarse_below, dstsize=size)
        fine_above = above - cv2.pyrUp(coarse_above, dstsize=size)
        bands.append(fine_below + weight * (fine_above - fine_below))
        below, above, weight = coarse_below, coarse_above, cv2.pyrDown(weight)[..., None]
    blended = below + weight * (above - below)
    for band in reversed(bands):
        blended = band + cv2.pyrUp(blended, dstsize=(band.shape[1], band.shape[0]))
    return np.clip(blended.round(), 0, 255).astype(np.uint8)


def _match_color(face_rgb: np.ndarray, original_rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give the face the original's mean and spread of each Lab channel (Reinhard et al., Color Transfer, 2001)."""
    face, original = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32) for image in (face_rgb, original_rgb))
    inside = mask > 0
    mean_face, mean_original = face[inside].mean(axis=0), original[inside].mean(axis=0)
    # The spread is matched within bounds: a flat, dark original would otherwise erase the donor's features.
    gain = np.clip(original[inside].std(axis=0) / np.maximum(face[inside].std(axis=0), 1), 0.7, 1.4)
    matched = (face - mean_face) * gain + mean_original
    return cv2.cvtColor(np.clip(matched.round(), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)

"""The anonymizer: images in, images without their faces and plates out, with a ledger. It fails closed.

Every mask is filled solid *first*; a generated region takes its place only after it was verified. Whatever goes wrong
on the way, no region is ever left as it was.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from anony_pipeline.anonymize import filling, overlaps
from anony_pipeline.anonymize.filling import Filler, Task
from anony_pipeline.anonymize.ledger import LedgerRow
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.errors import DatasetError
from anony_pipeline.ops import masks
from anony_pipeline.runtime import seeding
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Kind, Region

Detect = Callable[[Sequence[np.ndarray], float], list[list[Region]]]
"""``(images, threshold) -> regions of each image``."""

log = logging.getLogger("anony_pipeline")


@dataclass(frozen=True)
class Job:
    """One image to anonymize.

    Attributes:
        image_rgb: ``(H, W, 3)`` uint8; it is not changed.
        name: Names the image: seeds follow from it, and the serials of plates without a track.
        regions: What to replace; None lets the detector look.
        style: The plate style of the image's place, for plates without their own.
    """

    image_rgb: np.ndarray
    name: str = "image"
    regions: Sequence[Region] | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        """Refuse regions that cover nothing: what they were meant for would be left as it is, and counted as done.

        Raises:
            DatasetError: If a region covers no pixel of the image.
        """
        _masks_of(self.name, self.regions or (), self.image_rgb)


@dataclass
class Anonymized:
    """One finished image.

    Attributes:
        image_rgb: ``(H, W, 3)`` uint8. Outside the masks of `rows` it equals the original to the bit.
        rows: One a region.
    """

    image_rgb: np.ndarray
    rows: list[LedgerRow]


@dataclass
class _Pending:
    """A region that waits for its generation."""

    job: Job
    result: Anonymized
    region: Region
    number: int
    neighbors: np.ndarray
    gray: bool
    known: np.ndarray | str | None = None
    style: str | None = None
    serial: str | None = None
    seed: int = 0
    crop: np.ndarray | None = field(default=None, repr=False)

    @property
    def row(self) -> LedgerRow:
        return self.result.rows[self.number]

    def note(self, **values: object) -> None:
        """Change the region's row of the ledger."""
        self.result.rows[self.number] = self.row.changed(**values)


class Anonymizer:
    """Replaces faces by faces of nobody and plates by plates of no car."""

    def __init__(
        self, filler: Filler | None, verifier: Verifier, *, detect: Detect | None, policy: Policy, seed: int = 0
    ) -> None:
        """Keep the parts.

        Args:
            filler: The generator with what a crop is made of; None leaves classical redaction.
            verifier: Lets results out, or not.
            detect: Finds regions where none are given.
            policy: The rules.
            seed: Same seed, same pixels.
        """
        self.filler, self.verifier, self.detect, self.policy, self.seed = filler, verifier, detect, policy, seed

    def anonymize(
        self,
        image_rgb: np.ndarray,
        regions: Sequence[Region] | None = None,
        *,
        style: str | None = None,
        name: str = "image",
    ) -> tuple[np.ndarray, list[LedgerRow]]:
        """Anonymize one image (see `Job`).

        Returns:
            A new image and the ledger, one row a region.

        Raises:
            DatasetError: If a region covers no pixel of the image.
        """
        done = self.anonymize_batch([Job(image_rgb, name, regions, style)])[0]
        return done.image_rgb, done.rows

    def anonymize_batch(self, jobs: Sequence[Job]) -> list[Anonymized]:
        """Anonymize several images; the generator and the judges see regions of all of them in common batches."""
        found = self._regions(jobs)
        results, pending = [], []
        for job, regions in zip(jobs, found, strict=True):
            result, waiting = self._begin(job, regions)
            results.append(result)
            pending += waiting
        if self.filler is not None and pending:
            self._generate(self.filler, pending)
        return results

    def find(self, images_rgb: Sequence[np.ndarray]) -> list[list[Region]]:
        """What the detector finds in each image, from its kind's threshold on; nothing that lies beyond the image.

        Raises:
            ValueError: If there is no detector.
        """
        if self.detect is None:
            raise ValueError("regions must be given to an anonymizer without a detector")
        least = {Kind.FACE: self.policy.threshold, Kind.PLATE: self.policy.plate_threshold}
        found = self.detect(images_rgb, min(least.values()))
        return [
            [region for region in regions if region.score >= least[region.kind] and not _is_beyond(region, image)]
            for image, regions in zip(images_rgb, found, strict=True)
        ]

    def _regions(self, jobs: Sequence[Job]) -> list[list[Region]]:
        blank = [i for i, job in enumerate(jobs) if job.regions is None]
        found = [list(job.regions or ()) for job in jobs]
        if blank:
            for i, regions in zip(blank, self.find([jobs[i].image_rgb for i in blank]), strict=True):
                found[i] = overlaps.merge(regions)
        return found

    def _begin(self, job: Job, regions: list[Region]) -> tuple[Anonymized, list[_Pending]]:
        """Fill all masks so that nothing is left to see, and list what may be generated."""
        holes = _masks_of(job.name, regions, job.image_rgb)
        gray = bool(regions) and filling.is_gray(job.image_rgb)
        result = Anonymized(job.image_rgb.copy(), [])
        pending = []
        for number, (region, hole) in enumerate(zip(regions, holes, strict=True)):
            how, reason = self._treatment(region)
            if how == "generate":
                pending.append(_Pending(job, result, region, number, holes, gray))
                how, reason = "solid", "not generated"
            elif how == "texture":
                seed = seeding.seed_for(self.seed, f"texture {job.name} {number}")
                continued = filling.continue_surroundings(result.image_rgb, hole, holes, seed, gray=gray)
                how = "texture" if continued else "solid"
            if how != "texture":
                filling.redact(result.image_rgb, hole, how, self.policy.solid_color)
            x_min, y_min, x_max, y_max = hole.tolist()
            row = LedgerRow.begun(number, region, (x_min, y_min, x_max, y_max))
            result.rows.append(row.changed(method=how, reason=reason))
        return result, pending

    def _treatment(self, region: Region) -> tuple[str, str | None]:
        if min(region.size_wh) < self.policy.min_region_px:
            return self.policy.tiny, f"smaller than {self.policy.min_region_px:g} px"
        if self.policy.treatment == "generate" and self.filler is None:
            return "solid", "there is no generator"
        return self.policy.treatment, None if self.policy.treatment == "generate" else "by policy"

    def _generate(self, filler: Filler, pending: list[_Pending]) -> None:
        waiting = self._look_at_originals(pending)
        for attempt in range(self.policy.attempts):
            if not waiting:
                return
            for item in waiting:
                self._prepare(filler, item, attempt)
            made = self._fill_all(filler, waiting)
            for item in made:
                if item.crop is not None:
                    window = filler.window(item.region)
                    filling.paste(item.result.image_rgb, item.crop, window, item.row.mask_xyxy)
                    filling.match_grain(
                        item.result.image_rgb, item.row.mask_xyxy, item.neighbors, item.seed, gray=item.gray
                    )
            accepted = self._verify(made)
            # A region that failed to generate is tried again, too: another seed may need another path through the code.
            waiting = [item for item in waiting if id(item) not in accepted]

    def _look_at_originals(self, pending: list[_Pending]) -> list[_Pending]:
        try:
            known = self.verifier.originals([p.job.image_rgb for p in pending], [p.region for p in pending])
        except Exception as error:  # noqa: BLE001 - fails closed: whatever a judge raises, the regions stay solid
            self._refuse(pending, f"verification failed: {type(error).__name__}", error)
            return []
        for item, value in zip(pending, known, strict=True):
            item.known = value
        return pending

    def _prepare(self, filler: Filler, item: _Pending, attempt: int) -> None:
        item.seed = seeding.seed_for(self.seed, f"anonymize {item.job.name} {item.number}", attempt)
        if item.region.kind is Kind.PLATE:
            item.style = filler.style_of(item.region, item.job.style, item.job.image_rgb)
            track = item.region.track or f"{item.job.name}/{item.number}"
            avoid = [item.known] if isinstance(item.known, str) and item.known else []
            # The first attempt gives one physical plate one serial; a second one may not, but must give another result.
            item.serial = filler.serial(item.style, track if attempt == 0 else f"{track}#{attempt}", avoid)

    def _fill_all(self, filler: Filler, waiting: list[_Pending]) -> list[_Pending]:
        made = []
        groups: dict[Kind, list[_Pending]] = defaultdict(list)
        for item in waiting:
            groups[item.region.kind].append(item)
        for group in groups.values():
            for start in range(0, len(group), self.policy.batch_size):
                made += self._fill_batch(filler, group[start : start + self.policy.batch_size])
        return made

    def _fill_batch(self, filler: Filler, batch: list[_Pending]) -> list[_Pending]:
        try:
            filled = filler.fill(
                [
                    Task(item.job.image_rgb, item.region, item.neighbors, item.seed, item.serial, item.style, item.gray)
                    for item in batch
                ]
            )
        except Exception as error:  # noqa: BLE001 - fails closed: whatever the generator raises, the regions stay solid
            if len(batch) > 1:  # one bad region, or too little memory for all at once: each on its own
                return [item for single in batch for item in self._fill_batch(filler, [single])]
            self._refuse(batch, f"generation failed: {type(error).__name__}", error)
            return []
        for item, crop in zip(batch, filled, strict=True):
            item.crop = crop
        return batch

    def _verify(self, made: list[_Pending]) -> set[int]:
        """Accept what is verified, fill the rest solid again; returns the accepted ones' ids."""
        if not made:
            return set()
        try:
            verdicts = self.verifier.verdicts(
                [item.job.image_rgb for item in made],
                [item.result.image_rgb for item in made],
                [item.region for item in made],
                [item.known for item in made],
            )
        except Exception as error:  # noqa: BLE001 - fails closed: whatever a judge raises, the regions are filled again
            self._refuse(made, f"verification failed: {type(error).__name__}", error)
            return set()
        accepted = set()
        for item, verdict in zip(made, verdicts, strict=True):
            if not verdict.accepted:
                self._refuse([item], verdict.reason or "refused")
                item.note(verified_by=verdict.judge, similarity=verdict.similarity)
                continue
            accepted.add(id(item))
            item.note(
                method="generated",
                reason=None,
                verified_by=verdict.judge,
                similarity=verdict.similarity,
                seed=item.seed,
                serial=item.serial,
                style=item.style,
            )
        return accepted

    def _refuse(self, items: list[_Pending], reason: str, error: Exception | None = None) -> None:
        if error is not None:
            log.warning("%d regions stay solid: %s", len(items), reason, exc_info=error)
        for item in items:
            filling.redact(item.result.image_rgb, item.row.mask_xyxy, "solid", self.policy.solid_color)
            item.note(method="solid", reason=reason)


def _is_beyond(region: Region, image_rgb: np.ndarray) -> bool:
    """Whether nothing of the region lies in the image; that of numbers that are not finite is not known."""
    height, width = image_rgb.shape[:2]
    return bool(boxes.area(boxes.clip([region.box_xyxy], width, height))[0] == 0)


def _masks_of(name: str, regions: Sequence[Region], image_rgb: np.ndarray) -> np.ndarray:
    """The whole pixels that are replaced, ``(N, 4)``; every region has some."""
    height, width = image_rgb.shape[:2]
    for region in regions:
        if not np.isfinite(region.box_xyxy).all() or _is_beyond(region, image_rgb):
            label = "" if region.annotation_id is None else f"annotation {region.annotation_id}: "
            raise DatasetError(
                "a region covers no pixel of its image",
                where=name,
                got=f"{label}{region.kind} {region.box_xyxy} in {width} x {height} px",
                allowed="boxes in pixels that lie in the image at least in part",
                do="mend the box, or take it out",
            )
    return np.array([masks.mask_box(region, (height, width)) for region in regions], int).reshape(-1, 4)

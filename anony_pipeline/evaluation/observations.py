"""What the judges saw of each region: arrays in memory, which are never written and die with the run.

Embeddings and read texts of real people must not lie anywhere; only the aggregates that are made of them leave this
process.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np

from anony_pipeline.anonymize.verifying import plate_crop
from anony_pipeline.evaluation import coverage
from anony_pipeline.evaluation.judges import PANELS, Judges, as_rows, digest
from anony_pipeline.evaluation.methods import Scene, Treated
from anony_pipeline.evaluation.schema import Panel
from anony_pipeline.models.recognizer import align
from anony_pipeline.ops import crops
from anony_pipeline.plates.styles import NEUTRAL
from anony_pipeline.structures.regions import Kind, Region, boxes_of

FEATURE_CONTEXT = 1.3
"""Features see a little of the surroundings: a seam is a flaw, too."""
FEATURE_SIZES = {Kind.FACE: (128, 128), Kind.PLATE: (64, 192)}
Who = tuple[str, Panel]
"""A judge by its kind and panel: ``("recognizer", "held_out")``."""
HALF_PRECISION = np.float16
"""Of the embeddings that are held: they take most of the memory, and a cosine changes by less than 0.0005."""
NOBODY = -1
FRONTAL_DEGREES = 20
GRADES = ("none", "less than a quarter", "partial", "a quarter or more", "heavy", "lightest third", "middle third")
"""Of occlusion and skin tone, from the least on; what is not here stands last in its group."""


@dataclass
class Subjects:
    """What is known of the judged regions, in the order in which they are observed. Crowds are not among them.

    Attributes:
        kinds: Face or plate.
        images: The image's id.
        styles: The image's plate style or ``unspecified``.
        heights: Of the box, in pixels.
        shorter_sides: Of the box, in pixels.
        visible: Share of the region that nothing hides; 1 where unknown.
        persons: A number a known person or plate, `NOBODY` where unknown.
        serials: The original serial, None where unknown and for faces.
        traits: Names of further slices that the region is in, see `traits_of`.
    """

    kinds: list[Kind] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)
    shorter_sides: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    persons: list[int] = field(default_factory=list)
    serials: list[str | None] = field(default_factory=list)
    traits: list[frozenset[str]] = field(default_factory=list)
    _numbers: dict[str | int, int] = field(default_factory=dict)

    def add(self, scene: Scene) -> None:
        """Append an image's regions."""
        for region, annotation in judged(scene):
            identity = annotation.get("identity")
            self.kinds.append(region.kind)
            self.images.append(scene.record["id"])
            self.styles.append(scene.style or NEUTRAL)
            self.heights.append(region.size_wh[1])
            self.shorter_sides.append(min(region.size_wh))
            self.visible.append(visible_share(annotation))
            self.persons.append(
                self._numbers.setdefault(identity, len(self._numbers)) if is_known(identity) else NOBODY
            )
            self.traits.append(traits_of(scene.record, annotation))
            self.serials.append(annotation.get("serial") if region.kind is Kind.PLATE else None)

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass
class Observed:
    """What the judges saw of one method's images.

    Attributes:
        embeddings: By panel, one unit vector a face, in `HALF_PRECISION`.
        readings: By panel, one text a plate.
        candidates: By panel, the likeliest texts of each plate; the one text of a reader that tells no more.
        features: One vector a region.
        shown: Of each original region, a digest of what the features were made of; empty for methods.
        detections: By panel, of each image what was found, see `anony_pipeline.evaluation.judges.as_rows`.
        intended: Of each plate, the new serial; None where none is intended or the plate was missed.
        shares: Of each region, the covered share of its pixels.
        rows: Of each region, its number in `Subjects`.
        images: Ids of the images that were judged.
        outside: Covered pixels outside all regions, and all pixels outside.
        replaced: Replaced boxes, on images where both kinds are labeled exhaustively.
        besides: Those of them that hold no labeled region.
        unmasked: Pixels that differ from the original though not to be replaced; None if nobody says what was.
        crops_rgb: The first faces, aligned as attackers take them; empty if nobody attacks.
        done: Counts of what was done.
    """

    embeddings: dict[Panel, Sequence[np.ndarray] | np.ndarray] = field(default_factory=dict)
    readings: dict[Panel, list[str]] = field(default_factory=dict)
    candidates: dict[Panel, list[tuple[str, ...]]] = field(default_factory=dict)
    features: Sequence[np.ndarray] | np.ndarray = field(default_factory=list)
    shown: list[bytes] = field(default_factory=list)
    detections: dict[Panel, list[np.ndarray]] = field(default_factory=dict)
    intended: list[str | None] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    outside: tuple[int, int] = (0, 0)
    replaced: int = 0
    besides: int = 0
    unmasked: int | None = 0
    crops_rgb: list[np.ndarray] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def finished(self) -> "Observed":
        """The same with lists of vectors turned into ``(N, D)`` arrays, once all images were seen."""
        embeddings: dict[Panel, Sequence[np.ndarray] | np.ndarray] = {
            panel: np.asarray(vectors, HALF_PRECISION) for panel, vectors in self.embeddings.items()
        }
        return replace(self, embeddings=embeddings, features=np.asarray(self.features, np.float32))

    def detected(self, panel: Panel) -> np.ndarray:
        """``(N, 7)`` float64 of image id, category id, COCO box ``(x, y, width, height)`` and score."""
        rows = self.detections[panel]
        # A judge that could not see was not asked.
        ids = np.repeat(self.images if rows else [], [len(found) for found in rows])
        found = np.concatenate([np.zeros((0, 6), np.float32), *rows]).astype(np.float64)
        return np.column_stack([ids, found[:, :3], found[:, 3:5] - found[:, 1:3], found[:, 5]])


@dataclass(frozen=True)
class Asked:
    """Who looks at what a method made.

    Attributes:
        recognizers: Whose.
        detectors: Whose; they take the longest of all judges.
        blind: Judges that could not see the originals: their figures are null whatever they would see, so they are
            spared it.
    """

    recognizers: Sequence[Panel] = PANELS
    detectors: Sequence[Panel] = PANELS
    blind: Collection[Who] = ()


EVERYBODY = Asked()


class Observer:
    """Shows images to all judges, in batches over several images."""

    def __init__(self, judges: Judges, *, attacked_faces: int = 0) -> None:
        """Keep the judges.

        Args:
            judges: Who looks.
            attacked_faces: So many faces of each attacked method are kept for attackers.
        """
        self.judges = judges
        self.attacked_faces = attacked_faces

    def observe(
        self,
        into: Observed,
        scenes: Sequence[Scene],
        treated: Sequence[Treated],
        first_rows: Sequence[int],
        *,
        asked: Asked = EVERYBODY,
        attacked: bool = False,
        original: bool = False,
    ) -> None:
        """Judge what a method made of some scenes.

        Args:
            into: Is extended.
            scenes: The originals: alignment and places are taken from them.
            treated: The method's results.
            first_rows: The number in `Subjects` of each scene's first region.
            asked: Who looks.
            attacked: Whether attackers get the faces.
            original: Whether these are the originals, which methods may leave as they are.
        """
        faces: list[tuple[np.ndarray, Region]] = []
        plates: list[tuple[np.ndarray, Region]] = []
        regions: list[tuple[np.ndarray, Region]] = []
        for scene, result, first in zip(scenes, treated, first_rows, strict=True):
            shown = [(result.image_rgb, region) for region, _ in judged(scene)]
            regions += shown
            faces += [item for item in shown if item[1].kind is Kind.FACE]
            plates += [item for item in shown if item[1].kind is Kind.PLATE]
            into.rows += range(first, first + len(shown))
            into.images.append(scene.record["id"])
            into.done.update(result.done)
            _cover(into, scene, result)
        if attacked:
            kept = faces[: max(0, self.attacked_faces - len(into.crops_rgb))]
            into.crops_rgb += [align(image, region) for image, region in kept]
        self._embed(into, faces, asked)
        self._read(into, plates, asked)
        self._extract(into, regions, original=original)
        self._detect(into, treated, asked, keep=original)

    def _embed(self, into: Observed, faces: Sequence[tuple[np.ndarray, Region]], asked: Asked) -> None:
        aligned: dict[int, list[np.ndarray]] = {}
        for panel in asked.recognizers:
            recognizer = self.judges.recognizers.get(panel)
            if recognizer is None:
                continue
            into.embeddings.setdefault(panel, [])
            if ("recognizer", panel) in asked.blind:
                continue
            size = recognizer.input_size
            if size not in aligned:
                aligned[size] = [align(image, region, size) for image, region in faces]
            found: Sequence[np.ndarray] | np.ndarray = ()
            if faces:
                found = recognizer.embed(aligned[size]).astype(HALF_PRECISION)
            into.embeddings[panel] = [*into.embeddings[panel], *found]

    def _read(self, into: Observed, plates: Sequence[tuple[np.ndarray, Region]], asked: Asked) -> None:
        straight = [plate_crop(image, region) for image, region in plates]
        for panel, reader in self.judges.readers.items():
            found = reader.read(straight) if straight and ("reader", panel) not in asked.blind else []
            into.readings.setdefault(panel, []).extend(reading.text for reading in found)
            into.candidates.setdefault(panel, []).extend(reading.candidates or (reading.text,) for reading in found)

    def _extract(self, into: Observed, regions: Sequence[tuple[np.ndarray, Region]], *, original: bool) -> None:
        if self.judges.features is None or not regions:
            return
        shown = [feature_crop(image, region) for image, region in regions]
        into.features = [*into.features, *self.judges.features.extract(shown)]
        if original:
            into.shown += [digest(crop) for crop in shown]

    def _detect(self, into: Observed, treated: Sequence[Treated], asked: Asked, *, keep: bool) -> None:
        images_rgb = [result.image_rgb for result in treated]
        for panel in asked.detectors:
            detector = self.judges.detectors.get(panel)
            if detector is None:
                continue
            into.detections.setdefault(panel, [])
            if ("detector", panel) in asked.blind:
                continue
            found = detector.find(images_rgb, keep=keep)
            into.detections[panel] += [as_rows(regions) for regions in found]


def judged(scene: Scene) -> list[tuple[Region, dict[str, Any]]]:
    """The regions of a scene that count, with their records: all but crowds."""
    pairs = zip(scene.regions, scene.annotations, strict=True)
    return [(region, annotation) for region, annotation in pairs if not annotation.get("iscrowd")]


def is_known(identity: str | int | None) -> TypeGuard[str | int]:
    """Whether an annotation says who it is: 0 is a number like any other, an empty text is none."""
    return identity is not None and identity != ""


def traits_of(image: dict[str, Any], annotation: dict[str, Any]) -> frozenset[str]:
    """The slices of light, skin tone, pose and occlusion that a region is in, as far as its records say.

    Args:
        image: With ``time`` where known.
        annotation: With ``person`` of procedural people, or WIDERFace's ``attributes``.

    >>> sorted(traits_of({"time": "night"}, {"person": {"skin_tone": 0.9, "yaw": -30.0}}))
    ['pose:turned by 20 degrees or more', 'skin:darkest third', 'time:night']
    """
    found = {f"time:{image['time']}"} if image.get("time") else set()
    person, attributes = annotation.get("person") or {}, annotation.get("attributes") or {}
    if "skin_tone" in person:
        third = min(2, int(3 * person["skin_tone"]))
        found.add(("skin:lightest third", "skin:middle third", "skin:darkest third")[third])
    if "yaw" in person:
        found.add("pose:turned by 20 degrees or more" if abs(person["yaw"]) >= FRONTAL_DEGREES else "pose:frontal")
    elif "pose" in attributes:
        found.add("pose:atypical" if attributes["pose"] else "pose:typical")
    if "visible" in person:
        found.add("occlusion:a quarter or more" if person["visible"] <= 0.75 else "occlusion:less than a quarter")
    elif "occlusion" in attributes:
        found.add(f"occlusion:{('none', 'partial', 'heavy')[int(attributes['occlusion'])]}")
    return frozenset(found)


def in_order(traits: Iterable[str]) -> list[str]:
    """Traits by their groups, and in a group by degree rather than by letters.

    >>> in_order({"occlusion:heavy", "occlusion:none", "occlusion:partial", "pose:typical", "pose:atypical"})
    ['occlusion:none', 'occlusion:partial', 'occlusion:heavy', 'pose:atypical', 'pose:typical']
    """

    def place(trait: str) -> tuple[str, int, str]:
        group, _, grade = trait.partition(":")
        return group, GRADES.index(grade) if grade in GRADES else len(GRADES), grade

    return sorted(traits, key=place)


def visible_share(annotation: dict[str, Any]) -> float:
    """The share of a region that nothing hides: known of procedural ones, of WIDERFace's in steps, else taken for 1."""
    person, attributes = annotation.get("person") or {}, annotation.get("attributes") or {}
    if "visible" in person:
        return float(person["visible"])
    # WIDERFace: 0 not, 1 up to 30 %, 2 more than 30 % occluded; the last may be more than half, so it counts as such.
    return (1.0, 0.7, 0.5)[int(attributes.get("occlusion", 0))]


def feature_crop(image_rgb: np.ndarray, region: Region) -> np.ndarray:
    """What the feature network sees of a region."""
    size_hw = FEATURE_SIZES[region.kind]
    return crops.cut(image_rgb, crops.window_around(region.box_xyxy, size_hw, FEATURE_CONTEXT), size_hw)


def _cover(into: Observed, scene: Scene, result: Treated) -> None:
    regions = [region for region, _ in judged(scene)]
    candidates = np.array(result.masks_xyxy, np.float32).reshape(-1, 4)
    known = boxes_of(list(scene.regions))
    masked = result.changed
    if masked is None:
        masked = coverage.filled(result.masks_xyxy, scene.image_rgb.shape[:2])
    if result.changed is not None:
        into.unmasked = None
    elif into.unmasked is not None and result.image_rgb is not scene.image_rgb:
        into.unmasked += int((~masked & (scene.image_rgb != result.image_rgb).any(axis=2)).sum())
    covered = coverage.cover(boxes_of(regions), masked, known)
    if not scene.record.get("not_exhaustive_category_ids"):
        into.replaced += len(candidates)
        into.besides += int(coverage.in_vain(candidates, known).sum())
    into.shares += covered.shares.tolist()
    into.outside = (into.outside[0] + covered.outside_covered, into.outside[1] + covered.outside)
    for region in regions:
        if region.kind is Kind.PLATE:
            by = coverage.covering(region.box_xyxy, candidates)
            into.intended.append(None if by is None else result.serials[by])


def thumbnail(image_rgb: np.ndarray, region: Region, height_px: int = 96) -> np.ndarray:
    """A region with its surroundings, for the report; of procedural images only.

    Args:
        image_rgb: ``(H, W, 3)`` uint8.
        region: What is shown.
        height_px: The picture's height; plates are three times as wide.
    """
    size_hw = (height_px, height_px if region.kind is Kind.FACE else 3 * height_px)
    return crops.cut(image_rgb, crops.window_around(region.box_xyxy, size_hw, 1.6), size_hw)

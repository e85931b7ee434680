"""Two passes over the val images: all judges see the originals, then those who can see look at what methods make."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import folds, loaders
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.evaluation import attacks, reidentification, widerface_protocol
from anony_pipeline.evaluation.canaries import NONE_PLANTED, Audit, Canary
from anony_pipeline.evaluation.evidence import Evidence, Trained
from anony_pipeline.evaluation.figures import FigureMaker
from anony_pipeline.evaluation.judges import PANELS, Judges
from anony_pipeline.evaluation.methods import Method, Scene, Treated
from anony_pipeline.evaluation.observations import (
    Asked,
    Observed,
    Observer,
    Subjects,
    Who,
    is_known,
    judged,
    thumbnail,
)
from anony_pipeline.evaluation.references import References
from anony_pipeline.evaluation.schema import ANONYMIZER, Panel
from anony_pipeline.plates.styles import NEUTRAL
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.progress import track
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind

IMAGES_AT_ONCE = 4


@dataclass
class Picture:
    """A procedural region before and after, for the report."""

    name: str
    before_rgb: np.ndarray
    after_rgb: dict[str, np.ndarray] = field(default_factory=dict)


class Run:
    """The passes over the val images: each method is applied to each image once."""

    def __init__(
        self,
        config: Config,
        val: CocoSet,
        judges: Judges,
        methods: Mapping[str, Method],
        styles: Sequence[str] | None = None,
    ) -> None:
        """Prepare a pass.

        Args:
            config: For the seed and the settings.
            val: What is judged on.
            judges: Who judges.
            methods: By key; ``none`` is always observed, because the judges prove themselves by it.
            styles: See `evaluate`.
        """
        self.config, self.val, self.judges, self.styles = config, val, judges, styles
        self.methods = dict(methods)
        self.subjects = Subjects()
        self.originals = Observed()
        self.observed = {key: Observed() for key in self.methods}
        lists = config.evaluation.widerface_ground_truth
        self.widerface = widerface_protocol.load(Path(lists)) if lists is not None else None
        self.references: References | None = None
        self.pictures: list[Picture] = []
        self._procedural = {source.name for source in config.data.sources if source.ground_truth is not None}

    def look(self) -> None:
        """Let every judge see the originals, and those who prove that they can see what each method makes of them."""
        settings = self.config.evaluation.attacks
        observer = Observer(self.judges, attacked_faces=settings.max_faces if settings.kinds else 0)
        self._look_at_originals(observer)
        proofs = FigureMaker(self._seen(methods={}, observed={})).proofs
        self._look_at_methods(observer, [who for who, proof in proofs.items() if proof.reason is not None])
        if self.styles is None and "none" in self.methods:
            self.observed["none"] = self.originals

    def _look_at_originals(self, observer: Observer) -> None:
        asked = Asked(blind=self._without_truth())
        for scenes, firsts in self._numbered("judging originals"):
            for scene in scenes:
                self.subjects.add(scene)
            untouched = [Treated(scene.image_rgb) for scene in scenes]
            observer.observe(self.originals, scenes, untouched, firsts, asked=asked, attacked=True, original=True)
        self.originals = self.originals.finished()
        if self.judges.features is not None:
            paths, card = self.config.paths, self.judges.features.judge
            self.references = References(card, self.originals.shown, Path(paths.cache), paths.retention_days)

    def _without_truth(self) -> list[Who]:
        """Judges to whom these data give nothing to prove themselves by: they are not asked at all."""
        faces, plates = (
            [annotation for annotation in self.val.annotations if annotation["category_id"] == CATEGORY_IDS[kind]]
            for kind in (Kind.FACE, Kind.PLATE)
        )
        has_truth = {
            "recognizer": any(is_known(face.get("identity")) for face in faces),
            "reader": any(plate.get("serial") for plate in plates),
        }
        return [(judge, panel) for judge, provable in has_truth.items() if not provable for panel in PANELS]

    def _look_at_methods(self, observer: Observer, blind: Sequence[Who]) -> None:
        for scenes, firsts in self._numbered("judging methods"):
            chosen = [i for i, scene in enumerate(scenes) if self._is_asked(scene)]
            if chosen:
                self._apply(observer, [scenes[i] for i in chosen], [firsts[i] for i in chosen], blind)
        self.observed = {key: observed.finished() for key, observed in self.observed.items()}

    def _numbered(self, what: str) -> Iterator[tuple[list[Scene], list[int]]]:
        """The scenes by batches, and of each the number of its first region in `Subjects`."""
        first = 0
        batches = loaders.batches(scenes_of(self.val), IMAGES_AT_ONCE)
        for scenes in track(batches, what, math.ceil(len(self.val) / IMAGES_AT_ONCE)):
            firsts = []
            for scene in scenes:
                firsts.append(first)
                first += len(judged(scene))
            yield scenes, firsts

    def _is_asked(self, scene: Scene) -> bool:
        return self.styles is None or (scene.style or NEUTRAL) in self.styles

    def _apply(self, observer: Observer, scenes: list[Scene], firsts: list[int], blind: Sequence[Who]) -> None:
        shown = self._new_pictures(scenes)
        for key, method in self.methods.items():
            if method.name == "none" and self.styles is None:
                continue  # the originals were judged already
            treated = method.apply(scenes)
            observer.observe(
                self.observed[key],
                scenes,
                treated,
                firsts,
                asked=_asked(method, blind),
                attacked=method.name in self.config.evaluation.attacks.methods and Kind.FACE in method.kinds,
            )
            for scene_number, index, picture in shown:
                region = scenes[scene_number].regions[index]
                if region.kind not in method.kinds:
                    continue  # left as it was: that says nothing about the method
                picture.after_rgb[key] = thumbnail(treated[scene_number].image_rgb, region)

    def _new_pictures(self, scenes: Sequence[Scene]) -> list[tuple[int, int, Picture]]:
        """Choose the largest region of some kind from procedural images; real ones never get into the report."""
        shown: list[tuple[int, int, Picture]] = []
        for number, scene in enumerate(scenes):
            room = self.config.evaluation.gallery_pictures - len(self.pictures)
            if room <= 0 or scene.record.get("source") not in self._procedural or not scene.regions:
                continue
            plates = sum("license_plate" in picture.name for picture in self.pictures)
            wanted = Kind.PLATE if 2 * plates < len(self.pictures) else Kind.FACE
            found = [i for i, region in enumerate(scene.regions) if region.kind is wanted]
            if found:
                index = max(found, key=lambda i: scene.regions[i].size_wh[1])
                region = scene.regions[index]
                picture = Picture(f"{region.kind} {region.annotation_id}", thumbnail(scene.image_rgb, region))
                self.pictures.append(picture)
                shown.append((number, index, picture))
        return shown

    def evidence(self, memorized: dict[Panel, Trained], audit: Audit | str = NONE_PLANTED) -> Evidence:
        """What the figures are made of, attacks included; see `Evidence` for the arguments."""
        attacked = attacks.attack(
            self.config, self.subjects, self.originals, self.observed, self.judges.recognizers.get("held_out")
        )
        return replace(self._seen(self.methods, self.observed), memorized=memorized, audit=audit, attacked=attacked)

    def _seen(self, methods: dict[str, Method], observed: dict[str, Observed]) -> Evidence:
        cards = self.judges.cards()
        present = frozenset((key.split("/")[0], panel) for key, (_, panel) in cards.items())
        return Evidence(
            subjects=self.subjects,
            methods=methods,
            observed=observed,
            originals=self.originals,
            images=self.val.images,
            annotations=self.val.annotations,
            settings=self.config.evaluation,
            seed=self.config.seed,
            present=present,
            detects={panel: detector.kinds for panel, detector in self.judges.detectors.items()},
            references=self.references,
            widerface=self.widerface,
        )


def _asked(method: Method, blind: Sequence[Who]) -> Asked:
    """Who is asked about a method.

    Judges that were in a loss are asked about the checkpoint and what it is compared with, not about every baseline:
    looking takes most of the time, and their figures are never the headline.
    """
    end_to_end = method.name == "none" or method.boxes == "detected"
    compared = end_to_end or method.name in (ANONYMIZER, "other_face")
    in_no_loss: tuple[Panel, ...] = ("held_out", "second")
    return Asked(PANELS if compared else in_no_loss, PANELS if end_to_end else in_no_loss, blind)


def memorized(
    train: CocoSet, val: CocoSet, method: Method, judges: Judges, *, most: int, seed: int
) -> dict[Panel, Trained]:
    """What the recognizers see of originals and results on training faces and on unseen ones, by panel.

    Args:
        train: What the anonymizer was trained on.
        val: What it was not.
        method: Lets out what a verifier would refuse, which would hide what is memorized.
        judges: Whose recognizers look.
        most: At most so many images of either.
        seed: They are drawn by it.
    """
    (before, after, learned), (unseen_before, unseen_after, unseen) = (
        _faces_of(split, method, judges, most, seed) for split in (train, val)
    )
    found: dict[Panel, Trained] = {}
    for panel in judges.recognizers:
        originals, results, others, theirs = (
            np.asarray(seen.embeddings.get(panel, ()), np.float32)
            for seen in (before, after, unseen_before, unseen_after)
        )
        if len(originals) and len(others):
            cosines, unseen_cosines = (
                reidentification.cosine(originals, results),
                reidentification.cosine(others, theirs),
            )
            found[panel] = Trained(cosines, learned, originals, unseen_cosines, unseen)
    return found


def _faces_of(
    split: CocoSet, method: Method, judges: Judges, most: int, seed: int
) -> tuple[Observed, Observed, np.ndarray]:
    """The faces of some images before and after a method, and the image of each."""
    before, after = Observed(), Observed()
    observer = Observer(Judges(recognizers=judges.recognizers))
    photographs: list[int] = []
    order = seeding.numpy_generator(seed, "memorization").permutation(len(split.images))[:most]
    chosen = folds.only(split, {split.images[number]["id"] for number in order})
    for scenes in loaders.batches(map(_faces_only, scenes_of(chosen)), IMAGES_AT_ONCE):
        firsts = [0] * len(scenes)
        photographs += [scene.record["id"] for scene in scenes for _ in judged(scene)]
        observer.observe(before, scenes, [Treated(scene.image_rgb) for scene in scenes], firsts)
        observer.observe(after, scenes, method.apply(scenes), firsts)
    return before, after, np.array(photographs, int)


def audited(train: CocoSet, canaries: Sequence[Canary], methods: Mapping[str, Method], judges: Judges) -> Audit:
    """What the recognizers see of canaries, and of what methods make of them.

    Args:
        train: The split in which they were drawn.
        canaries: Some.
        methods: By name; they let out what a verifier would refuse.
        judges: Whose recognizers look.
    """
    planted = {canary.annotation_id: canary.planted for canary in canaries}
    homes = {annotation["image_id"] for annotation in train.annotations if annotation["id"] in planted}
    observer, heard = Observer(Judges(recognizers=judges.recognizers)), []
    before, after = Observed(), {name: Observed() for name in methods}
    for scenes in loaders.batches(map(_faces_only, scenes_of(folds.only(train, homes))), IMAGES_AT_ONCE):
        firsts = [0] * len(scenes)
        # All faces are replaced, as in use; only canaries are looked at.
        shown = [_part(scene, [a["id"] in planted for a in scene.annotations]) for scene in scenes]
        heard += [planted[annotation["id"]] for scene in shown for _, annotation in judged(scene)]
        observer.observe(before, shown, [Treated(scene.image_rgb) for scene in scenes], firsts)
        for name, method in methods.items():
            observer.observe(after[name], shown, method.apply(scenes), firsts)
    cosines = {
        (name, panel): reidentification.cosine(
            np.asarray(before.embeddings[panel], np.float32), np.asarray(observed.embeddings[panel], np.float32)
        )
        for name, observed in after.items()
        for panel in judges.recognizers
    }
    return Audit(np.array(heard, bool), cosines)


def _faces_only(scene: Scene) -> Scene:
    return _part(scene, [region.kind is Kind.FACE for region in scene.regions])


def _part(scene: Scene, chosen: Sequence[bool]) -> Scene:
    numbers = np.flatnonzero(chosen).tolist()
    return replace(
        scene, regions=[scene.regions[i] for i in numbers], annotations=[scene.annotations[i] for i in numbers]
    )


def scenes_of(split: CocoSet) -> Iterator[Scene]:
    """Every image of a set with what is known of it; the next one is decoded meanwhile."""
    for example in loaders.examples(split, workers=1):
        yield Scene(example.image_rgb, example.regions, example.annotations, example.image)

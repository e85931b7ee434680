"""From what the judges saw to figures: by method, panel and slice, with intervals, and null where a judge can't see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from anony_pipeline.config.schema import Evaluation
from anony_pipeline.evaluation import attacks, detection, fid, plate_reading, reidentification, widerface_protocol
from anony_pipeline.evaluation.attacks import Outcome
from anony_pipeline.evaluation.canaries import GUESS, NONE_PLANTED, Audit, membership_auc
from anony_pipeline.evaluation.coverage import HALF
from anony_pipeline.evaluation.fid import Distance
from anony_pipeline.evaluation.intervals import (
    Interval,
    bootstrap_by_person,
    bootstrap_of_difference,
    clopper_pearson,
    of_auc,
)
from anony_pipeline.evaluation.judges import PANELS
from anony_pipeline.evaluation.methods import Method
from anony_pipeline.evaluation.observations import NOBODY, Observed, Subjects, in_order
from anony_pipeline.evaluation.references import References
from anony_pipeline.evaluation.reidentification import Faces, Ranks
from anony_pipeline.evaluation.schema import ANONYMIZER, OVERALL, Figure, Panel, figure, null
from anony_pipeline.runtime import seeding
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind

SIZES: tuple[tuple[str, float, float], ...] = (
    ("size:<16", 0, 16),
    ("size:16-32", 16, 32),
    ("size:32-64", 32, 64),
    ("size:>=64", 64, float("inf")),
)
"""Slices by the box's height in pixels."""

TRAITS = ("time:", "skin:", "pose:", "occlusion:")
FACES_ALONE = (f"kind:{Kind.FACE}", "skin:", "pose:", "occlusion:")
"""Slices by how their names begin."""

LEAKS = ("plate_leak_rate", "plate_leak_candidates")
"""By a reader's best text, and by its likeliest ones."""

TOO_SMALL = 12
"""Plates that are lower, in pixels, don't count in a reader's proof: nobody reads them."""

Figures = dict[str, Figure]


@dataclass(frozen=True)
class Proof:
    """How a judge did on the originals.

    Attributes:
        value: What it reached; None if it could not be tried.
        floor: What it had to reach.
        reason: Why its figures are null; None if it can see.
    """

    value: float | None
    floor: float
    reason: str | None


@dataclass(frozen=True)
class Trained:
    """What one recognizer saw of faces that the anonymizer was trained on, and of some that it never saw.

    Attributes:
        cosines: ``(N,)`` of each original and its result, before verification.
        photographs: ``(N,)`` their images: faces of one photograph are alike.
        originals: ``(N, D)`` of unit length.
        unseen_cosines: ``(M,)`` the same of faces that it was not trained on.
        unseen_photographs: ``(M,)`` their images.
    """

    cosines: np.ndarray
    photographs: np.ndarray
    originals: np.ndarray
    unseen_cosines: np.ndarray
    unseen_photographs: np.ndarray


@dataclass
class Evidence:
    """All that figures are made of.

    Attributes:
        subjects: The regions.
        methods: The judged methods by key (name and boxes).
        observed: What was seen of each, by the same keys.
        originals: What was seen of the originals, of all images, whichever styles are judged.
        images: COCO image records.
        annotations: COCO annotation records.
        settings: Floors, samples, resamples.
        seed: Of the bootstrap.
        references: Statistics of the originals' features; None if no features are judged.
        widerface: The lists of WIDERFace's own protocol; None if they are not given.
        attacked: What trained attackers reached, by method key and attack.
        memorized: What recognizers saw of training faces, by panel; empty if not measured.
        audit: What they saw of planted canaries, or why there is nothing.
        present: The panels' judges by kind, ``("recognizer", "held_out")``.
        detects: By panel, which kinds its detector finds at all.
    """

    subjects: Subjects
    methods: dict[str, Method]
    observed: dict[str, Observed]
    originals: Observed
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    settings: Evaluation
    seed: int
    present: frozenset[tuple[str, Panel]]
    detects: dict[Panel, frozenset[Kind]]
    memorized: dict[Panel, Trained] = field(default_factory=dict)
    audit: Audit | str = NONE_PLANTED
    references: References | None = None
    widerface: widerface_protocol.Truth | None = None
    attacked: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def rng(self, stream: str) -> np.random.Generator:
        """Randomness of one figure: the same in every run over the same observations."""
        return seeding.numpy_generator(self.seed, f"scorecard {stream}")

    @cached_property
    def kinds(self) -> np.ndarray:
        """``(N,)`` the subjects' kinds, as text."""
        return np.array([kind.value for kind in self.subjects.kinds], dtype=object)

    @cached_property
    def faces(self) -> np.ndarray:
        """Numbers of the faces among the subjects."""
        return np.flatnonzero(self.kinds == Kind.FACE.value)

    @cached_property
    def plates(self) -> np.ndarray:
        """Numbers of the plates among the subjects."""
        return np.flatnonzero(self.kinds == Kind.PLATE.value)

    def slices(self) -> dict[str, np.ndarray]:
        """The slices as masks over the subjects, ``(N,)`` bool."""
        heights = np.array(self.subjects.heights)
        styles = np.array(self.subjects.styles, dtype=object)
        found = {OVERALL: np.ones(len(self.subjects), bool)}
        found |= {f"style:{style}": styles == style for style in sorted(set(self.subjects.styles))}
        found |= {name: (heights >= low) & (heights < high) for name, low, high in SIZES}
        found |= {f"kind:{kind}": self.kinds == kind.value for kind in Kind}
        for trait in in_order(frozenset().union(*self.subjects.traits)):
            found[trait] = np.array([trait in traits for traits in self.subjects.traits])
        return found


class FigureMaker:
    """Makes the figures of one run."""

    def __init__(self, evidence: Evidence) -> None:
        """Keep the evidence, and ask the judges for their proofs."""
        self.evidence = evidence
        self.floors = evidence.settings.floors
        self.widerface = evidence.widerface
        self._scores: dict[tuple[str, Panel, str], detection.DetectionScores] = {}
        self._thresholds: dict[tuple[Panel, float], float | None] = {}
        self._inpainted: dict[tuple[str, tuple[str, ...]], float] = {}
        self._ranked: dict[tuple[str, Panel, bool], tuple[np.ndarray, Ranks]] = {}
        self.proofs = {
            (kind, panel): prove(panel)
            for kind, prove in (
                ("recognizer", self._prove_recognizer),
                ("reader", self._prove_reader),
                ("detector", self._prove_detector),
            )
            for panel in PANELS
            if (kind, panel) in evidence.present
        }
        if ("features", "held_out") in evidence.present:
            self.proofs["features", "held_out"] = self._prove_features()

    def figures(self, key: str, panel: Panel, slice_name: str, mask: np.ndarray) -> Figures:
        """All figures of one row.

        Args:
            key: Of the method.
            panel: Whose.
            slice_name: Its name; detection is judged on whole images, so overall and by style alone.
            mask: ``(N,)`` bool over the subjects.
        """
        kinds = self.evidence.methods[key].kinds
        made: Figures = {}
        if self._asked("recognizer", panel) and Kind.FACE in kinds and slice_name != f"kind:{Kind.PLATE}":
            made |= self._faces(key, panel, mask)
        if self._asked("reader", panel) and Kind.PLATE in kinds and not slice_name.startswith(FACES_ALONE):
            made |= self._plates(key, panel, mask)
        if self._asked("detector", panel) and (slice_name == OVERALL or slice_name.startswith("style:")):
            made |= self._detection(key, panel, slice_name, mask)
        if panel == "held_out":
            # Light or skin change the features themselves, and few samples bias them: not by trait.
            made |= {} if slice_name.startswith(TRAITS) else self._features(key, slice_name, mask)
            made |= self._coverage(key, mask)
            if slice_name == OVERALL and Kind.FACE in kinds:
                made |= self._attacks(key, mask)
            if slice_name == OVERALL and self.evidence.methods[key].name == ANONYMIZER:
                made |= self._not_measured() | made
        return made

    def real_halves(self, slice_name: str, mask: np.ndarray) -> Figures:
        """FID and KID of one random half of the originals against the other: what a perfect method reaches."""
        rows = np.flatnonzero(mask) if len(self.evidence.originals.features) else np.zeros(0, int)
        if (reason := self._no_features(len(rows) // 2)) is not None:
            return {name: null(name, reason, n=len(rows)) for name in ("fid", "kid")}
        return self._as_figures(*self._of_halves(rows, slice_name), len(rows) // 2)

    def _of_halves(self, rows: np.ndarray, stream: str) -> tuple[float, Distance]:
        features = self._original_features(rows)
        order = self.evidence.rng(f"halves {stream}").permutation(len(rows))
        first, second = (features[part] for part in np.split(order[: len(rows) // 2 * 2], 2))

        def make() -> dict[str, np.ndarray]:
            value, interval = fid.kid(first, second, self.evidence.rng(f"kid {stream}"))
            return {"fid": np.array(fid.fid(first, second)), "kid": np.array([value, *(interval or (value, value))])}

        found = self._references.known(f"halves {self.evidence.seed} {stream}", features, rows, make)
        value, low, high = found["kid"].tolist()
        return float(found["fid"]), Distance(value, (low, high))

    # Judges' proofs ---------------------------------------------------------------------------------------------------

    def _prove_recognizer(self, panel: Panel) -> Proof:
        floor = self.floors.reid_rank1
        if not (self._persons(self.evidence.faces) != NOBODY).any():
            return Proof(None, floor, "no identities in the data, so the recognizer can't prove that it can see")
        probes = self._originals_faces(panel)
        ranks = reidentification.rank(probes, probes)
        if not ranks.known.any():
            return Proof(
                None, floor, "nobody is seen in two photographs, so the recognizer can't prove that it can see"
            )
        if ranks.people < 2:
            return Proof(None, floor, "all faces are of one person, so the recognizer can't prove that it can see")
        return _proof(float(ranks.hits(1)[ranks.known].mean()), floor, "rank-1 on the originals")

    def _prove_reader(self, panel: Panel) -> Proof:
        serials, texts, heights = self._known_plates(panel)
        large = heights >= TOO_SMALL
        if not large.any():
            return Proof(
                None, self.floors.plate_exact, "no serials in the data, so the reader can't prove that it can see"
            )
        exact = plate_reading.exact(texts, serials)
        return _proof(
            float(exact[large].mean()), self.floors.plate_exact, f"exact reads of originals from {TOO_SMALL} px height"
        )

    def _prove_detector(self, panel: Panel) -> Proof:
        scores = self._detection_scores(self.evidence.originals, "originals", panel, OVERALL, None)
        if np.isnan(scores.map50):
            return Proof(None, self.floors.detector_map50, "no boxes in the data, so the detector can't prove itself")
        return _proof(scores.map50, self.floors.detector_map50, "mAP50 on the originals")

    def _prove_features(self) -> Proof:
        """Solid rectangles must look less real than the other half of the originals."""
        solid = self._key_of("solid")
        features = np.asarray(self.evidence.originals.features)
        if solid is None or len(features) < 2 * self.evidence.settings.min_samples:
            return Proof(None, 0.0, None if len(features) else "no regions")
        floor = self._of_halves(np.arange(len(features)), "proof")[1].interval
        rows = np.asarray(self.evidence.observed[solid].rows)
        value = self._kid(rows, np.asarray(self.evidence.observed[solid].features), "proof").value
        above = floor[1] if floor is not None else 0.0
        reason = None if value > above else f"it takes solid rectangles for real: KID {value:.4f}, halves {above:.4f}"
        return Proof(value, above, reason)

    def _asked(self, kind: str, panel: Panel) -> bool:
        """Whether a judge belongs on the scorecard: nobody misses a second opinion that was not asked for."""
        return panel != "second" or (kind, panel) in self.evidence.present

    def _blind(self, kind: str, panel: Panel) -> str | None:
        proof = self.proofs.get((kind, panel))
        if proof is None:
            return f"no {panel.replace('_', '-')} {kind} is configured"
        return proof.reason

    # Faces ------------------------------------------------------------------------------------------------------------

    def _faces(self, key: str, panel: Panel, mask: np.ndarray) -> Figures:
        names = ["arcface_mean_sim", "reid_rank1", "reid_rank5", "reid_rank1_same_photo", "reid_excess", "reid_chance"]
        names += ["tar_at_far_1e2", "tar_at_far_1e3", "diversity_mean_cosine", "diversity_effective"]
        judge = f"recognizer/{panel}"
        selected, positions = self._selected(key, self.evidence.faces, mask)
        if ("recognizer", panel) in self.evidence.present and panel not in self.evidence.observed[key].embeddings:
            return {}
        reason = self._blind("recognizer", panel) or self._too_few(len(selected), "faces")
        if reason is not None:
            made = {name: null(name, reason, n=len(selected), judge=judge) for name in names}
        else:
            embeddings = np.asarray(self.evidence.observed[key].embeddings[panel], np.float32)[positions]
            made = self._similarity(panel, embeddings, selected)
            made |= self._reidentification(key, panel, selected)
            made |= self._verification(key, panel, selected)
            mean, effective = reidentification.sameness(embeddings)
            made["diversity_mean_cosine"] = figure("diversity_mean_cosine", mean, n=len(selected), judge=judge)
            made["diversity_effective"] = figure("diversity_effective", effective, n=len(selected), judge=judge)
        if self.evidence.methods[key].name == ANONYMIZER and mask.all():
            made |= self._memorization(key, panel)
        return made | (self._canaries(self.evidence.methods[key].name, panel) if mask.all() else {})

    def _similarity(self, panel: Panel, embeddings: np.ndarray, selected: np.ndarray) -> Figures:
        cosines = reidentification.cosine(self._original_embeddings(panel)[self._face_number(selected)], embeddings)
        interval = self._bootstrap(cosines, selected, "similarity")
        name = "arcface_mean_sim"
        return {
            name: figure(name, float(cosines.mean()), n=len(cosines), interval=interval, judge=f"recognizer/{panel}")
        }

    def _reidentification(self, key: str, panel: Panel, selected: np.ndarray) -> Figures:
        judge = f"recognizer/{panel}"
        subjects, ranks = self._ranks(key, panel, same_photograph=False)
        chosen = np.isin(subjects, selected) & ranks.known
        missed = self._missed(key, subjects)
        made: Figures = {}
        for name, k in (("reid_rank1", 1), ("reid_rank5", 5)):
            if ranks.people <= k:
                made[name] = null(name, f"only {ranks.people} people: all are among the {k} nearest", judge=judge)
                continue
            hits = np.where(missed, 1.0, ranks.hits(k))[chosen]
            made[name] = self._share(name, hits, subjects[chosen], judge)
        same_subjects, same = self._ranks(key, panel, same_photograph=True)
        shown = np.isin(same_subjects, selected)
        hits = np.where(self._missed(key, same_subjects), 1.0, same.hits(1))[shown]
        made["reid_rank1_same_photo"] = self._share("reid_rank1_same_photo", hits, same_subjects[shown], judge)
        made["reid_chance"] = figure("reid_chance", 1 / max(1, ranks.people), n=ranks.people, judge=judge)
        made["reid_excess"] = self._excess(panel, np.where(missed, 1.0, ranks.hits(1)), subjects, chosen)
        return made

    def _excess(self, panel: Panel, hits: np.ndarray, subjects: np.ndarray, chosen: np.ndarray) -> Figure:
        """Rank-1 minus that of `other_face` on the same probes: hair and outline re-identify too."""
        name, judge = "reid_excess", f"recognizer/{panel}"
        other = self._key_of("other_face")
        if other is None:
            return null(name, "other_face is not among the baselines", judge=judge)
        if (reason := self._too_few(int(chosen.sum()), "probes")) is not None:
            return null(name, reason, n=int(chosen.sum()), judge=judge)
        other_subjects, other_ranks = self._ranks(other, panel, same_photograph=False)
        places = np.searchsorted(other_subjects, subjects[chosen])
        difference = hits[chosen] - other_ranks.hits(1)[places]
        return figure(
            name,
            float(difference.mean()),
            n=len(difference),
            interval=self._bootstrap(difference, subjects[chosen], name, limits=(-1, 1)),
            judge=judge,
        )

    def _attacks(self, key: str, mask: np.ndarray) -> Figures:
        """Linkability by the held-out recognizer as it is, and what attackers reached who trained a network."""
        name, judge = "attack_linkability", "recognizer/held_out"
        selected, _ = self._selected(key, self.evidence.faces, mask)
        reason = self._blind("recognizer", "held_out") or self._too_few(len(selected), "faces")
        made: Figures = {}
        if reason is not None:
            made[name] = null(name, reason, n=len(selected), judge=judge)
        else:
            probes, subjects = self._probes(key, "held_out")
            ranks = reidentification.rank(probes, probes)
            made[name] = self._share(
                name, ranks.hits(1)[ranks.known], subjects[ranks.known], judge, chance=1 / max(1, ranks.people)
            )
        for attack, outcome in self.evidence.attacked.get(key, {}).items():
            seen = self.evidence.attacked["originals"][attack]
            made[attack] = self._outcome(attack, outcome, seen)
        return made

    def _outcome(self, name: str, outcome: Outcome, on_originals: Outcome) -> Figure:
        if outcome.reason is not None:
            return null(name, outcome.reason, judge=outcome.judge)
        seen, floor = float(on_originals.hits.mean()), self.floors.reid_rank1
        if seen < floor:
            reason = f"the attacker is blind here: rank-1 {seen:.3f} on the originals, floor {floor:g}"
            return null(name, reason, n=len(outcome.hits), judge=outcome.judge)
        return self._share(name, outcome.hits, outcome.subjects, outcome.judge, chance=outcome.chance)

    def _verification(self, key: str, panel: Panel, selected: np.ndarray) -> Figures:
        judge = f"recognizer/{panel}"
        originals = self._originals_faces(panel)
        probes, subjects = self._probes(key, panel)
        chosen = np.isin(subjects, selected)
        made: Figures = {}
        for name, far in (("tar_at_far_1e2", 1e-2), ("tar_at_far_1e3", 1e-3)):
            threshold = self._threshold(panel, far)
            if threshold is None:
                made[name] = null(name, f"too few pairs of different people to set a threshold at {far:g}", judge=judge)
                continue
            accepted, pairs = reidentification.accepts(probes.take(chosen), originals, threshold)
            known = pairs > 0
            rates = accepted[known] / pairs[known]
            rates = np.where(self._missed(key, subjects[chosen][known]), 1.0, rates)
            made[name] = self._share(name, rates, subjects[chosen][known], judge)
        return made

    def _memorization(self, key: str, panel: Panel) -> Figures:
        judge = f"recognizer/{panel}"
        names = ("memorization_gap", "nearest_training_identity")
        selected, positions = self._selected(key, self.evidence.faces, np.ones(len(self.evidence.subjects), bool))
        trained = self.evidence.memorized.get(panel)
        reason = self._blind("recognizer", panel) or self._too_few(len(selected), "faces")
        if reason is not None or trained is None:
            reason = reason or "no training faces were judged"
            return {name: null(name, reason, judge=judge) for name in names}
        embeddings = np.asarray(self.evidence.observed[key].embeddings[panel], np.float32)[positions]
        nearest = (embeddings @ trained.originals.T).max(axis=1)
        return {
            names[0]: self._gap(names[0], trained, judge),
            names[1]: figure(
                names[1],
                float(nearest.mean()),
                n=len(nearest),
                interval=self._bootstrap(nearest, selected, "nearest"),
                judge=judge,
            ),
        }

    def _gap(self, name: str, trained: Trained, judge: str) -> Figure:
        least = min(len(trained.cosines), len(trained.unseen_cosines))
        if (reason := self._too_few(least, "faces on one side")) is not None:
            return null(name, reason, n=least, judge=judge)
        interval = bootstrap_of_difference(
            (trained.cosines, trained.photographs),
            (trained.unseen_cosines, trained.unseen_photographs),
            self.evidence.settings.bootstrap,
            self.evidence.rng("memorization"),
        )
        gap = float(trained.cosines.mean() - trained.unseen_cosines.mean())
        return figure(name, gap, n=len(trained.cosines), interval=interval, judge=judge)

    def _canaries(self, method: str, panel: Panel) -> Figures:
        """Whether the anonymizer tells which faces were planted; its base model never saw them and can only guess."""
        name, judge, audit = "canary_auc", f"recognizer/{panel}", self.evidence.audit
        if isinstance(audit, str):
            return {name: null(name, audit)} if method == ANONYMIZER else {}
        if (method, panel) not in audit.cosines:
            return {}
        n, planted = len(audit.planted), int(audit.planted.sum())
        reason = self._blind("recognizer", panel) or self._too_few(n, "canaries")
        if reason is not None:
            return {name: null(name, reason, n=n, judge=judge)}
        auc = membership_auc(audit.cosines[method, panel], audit.planted)
        return {name: figure(name, auc, n=n, interval=of_auc(auc, planted, n - planted), judge=judge, chance=GUESS)}

    # Plates -----------------------------------------------------------------------------------------------------------

    def _plates(self, key: str, panel: Panel, mask: np.ndarray) -> Figures:
        judge = f"reader/{panel}"
        selected, positions = self._selected(key, self.evidence.plates, mask)
        reason = self._blind("reader", panel) or self._too_few(len(selected), "plates")
        names = (*LEAKS, "easyocr_plate_acc", "plate_cer")
        if reason is not None:
            return {name: null(name, reason, n=len(selected), judge=judge) for name in names}
        made = self._intended(key, panel, selected, positions)
        return made | self._leaks(key, panel, selected, positions)

    def _intended(self, key: str, panel: Panel, selected: np.ndarray, positions: np.ndarray) -> Figures:
        names, judge = ("easyocr_plate_acc", "plate_cer"), f"reader/{panel}"
        observed = self.evidence.observed[key]
        is_none = self.evidence.methods[key].name == "none"
        wanted = [
            self.evidence.subjects.serials[number] if is_none else observed.intended[position]
            for number, position in zip(selected, positions, strict=True)
        ]
        texts = [observed.readings[panel][position] for position in positions]
        has = [i for i, serial in enumerate(wanted) if serial]
        if not has:
            return {name: null(name, "the method intends no serial", judge=judge) for name in names}
        if (reason := self._too_few(len(has), "plates with an intended serial")) is not None:
            return {name: null(name, reason, n=len(has), judge=judge) for name in names}
        intended, read = [wanted[i] or "" for i in has], [texts[i] for i in has]
        exact = plate_reading.exact(read, intended)
        serials, originals, _ = self._known_plates(panel, selected)
        base = float(plate_reading.exact(originals, serials).mean()) if len(serials) else 0.0
        errors = plate_reading.character_errors(read, intended)
        made = {names[1]: figure(names[1], float(errors.mean()), n=len(has), judge=judge)}
        if base <= 0:
            made[names[0]] = null(names[0], "the reader reads none of these originals", n=len(has), judge=judge)
            return made
        low, high = clopper_pearson(float(exact.sum()), len(exact))
        made[names[0]] = figure(
            names[0], float(exact.mean()) / base, n=len(has), interval=(low / base, high / base), judge=judge
        )
        return made

    def _leaks(self, key: str, panel: Panel, selected: np.ndarray, positions: np.ndarray) -> Figures:
        """Any reader that can see counts, for the headline; a missed plate is a leaked one."""
        asked: list[Panel] = [p for p in PANELS if self._blind("reader", p) is None and panel in ("held_out", p)]
        readable, leaked = np.zeros(len(selected), bool), np.zeros((len(LEAKS), len(selected)), bool)
        missed = self._missed(key, selected)
        serials = [self.evidence.subjects.serials[number] or "" for number in selected]
        places = self._plate_number(selected)
        for reader in asked:
            before = [self.evidence.originals.readings[reader][place] for place in places]
            after = [self.evidence.observed[key].readings[reader][position] for position in positions]
            likeliest = [self.evidence.observed[key].candidates[reader][position] for position in positions]
            can = plate_reading.exact(before, serials) & np.array([bool(serial) for serial in serials])
            readable |= can
            leaked[0] |= can & (plate_reading.leaks(after, serials) | missed)
            leaked[1] |= can & (plate_reading.leaks_among(likeliest, serials) | missed)
        n = int(readable.sum())
        judge = " + ".join(f"reader/{reader}" for reader in asked)
        if (reason := self._too_few(n, "plates that can be read on the originals")) is not None:
            return {name: null(name, reason, n=n, judge=judge) for name in LEAKS}
        return {
            name: figure(name, hits / n, n=n, interval=clopper_pearson(hits, n), judge=judge)
            for name, hits in zip(LEAKS, leaked.sum(axis=1).tolist(), strict=True)
        }

    # Detection, features, coverage ------------------------------------------------------------------------------------

    def _detection(self, key: str, panel: Panel, slice_name: str, mask: np.ndarray) -> Figures:
        judge = f"detector/{panel}"
        names = ("val_map", "val_map50", "map_retention")
        protocol = ("pp4av_ap50_face", "pp4av_ar50_face", "pp4av_ap50_plate", "pp4av_ar50_plate")
        observed = self.evidence.observed[key]
        numbers = None if slice_name == OVERALL else {self.evidence.subjects.images[i] for i in np.flatnonzero(mask)}
        if ("detector", panel) in self.evidence.present and panel not in observed.detections:
            return {}
        reason = self._blind("detector", panel) or self._too_few(len(self._judged_images(observed, numbers)), "images")
        if reason is not None:
            return {name: null(name, reason, judge=judge) for name in names}
        scores = self._detection_scores(observed, key, panel, slice_name, numbers)
        if np.isnan(scores.map):
            return {name: null(name, "no boxes in these images", judge=judge) for name in names}
        n = len(self._judged_images(observed, numbers))
        clean = self._detection_scores(
            self.evidence.originals, "originals", panel, slice_name, self._judged_images(observed, numbers)
        )
        made = {
            "val_map": figure("val_map", scores.map, n=n, judge=judge),
            "val_map50": figure("val_map50", scores.map50, n=n, judge=judge),
            "map_retention": figure("map_retention", scores.map / clean.map, n=n, judge=judge)
            if clean.map > 0
            else null("map_retention", "the detector finds nothing on these originals", judge=judge),
        }
        if slice_name == OVERALL:
            made |= self._pp4av(observed, panel, protocol, judge)
            if self.widerface is not None:
                made |= self._widerface(observed, panel, self.widerface)
        return made

    def _widerface(self, observed: Observed, panel: Panel, truth: widerface_protocol.Truth) -> Figures:
        """WIDERFace's easy, medium and hard, over those of its images that are judged."""
        judge = f"detector/{panel}"
        judged = set(observed.images)
        names = {
            image["id"]: widerface_protocol.name_of(image["file_name"])
            for image in self.evidence.images
            if image["id"] in judged and widerface_protocol.name_of(image["file_name"]) in truth
        }
        difficulties = {f"widerface_{key}": key for key in widerface_protocol.DIFFICULTIES}
        if (reason := self._too_few(len(names), "images that WIDERFace's lists name")) is not None:
            return {name: null(name, reason, n=len(names), judge=judge) for name in difficulties}
        found: dict[str, list[Any]] = {name: [] for name in names.values()}
        for image_id, category, *box_and_score in observed.detected(panel).tolist():
            name = names.get(int(image_id))
            if name is not None and category == CATEGORY_IDS[Kind.FACE]:
                found[name].append(box_and_score)
        rows = {name: np.array(boxes, np.float64).reshape(-1, 5) for name, boxes in found.items()}
        values = widerface_protocol.average_precision(truth, rows, list(rows))
        return {
            name: null(name, "no face of this difficulty", n=len(names), judge=judge)
            if np.isnan(values[key])
            else figure(name, values[key], n=len(names), judge=judge)
            for name, key in difficulties.items()
        }

    def _pp4av(self, observed: Observed, panel: Panel, names: Sequence[str], judge: str) -> Figures:
        """AP50 and AR50 a class on PP4AV's images (its README: COCOeval, IoU 0.50, all areas, 100 detections)."""
        numbers = {image["id"] for image in self.evidence.images if image.get("source") == "pp4av"} & set(
            observed.images
        )
        if (reason := self._too_few(len(numbers), "images of a source named pp4av")) is not None:
            return {name: null(name, reason, judge=judge) for name in names}
        scores = self._score(observed, panel, numbers, max_detections=100)
        values = [by.get(category, float("nan")) for category in (1, 2) for by in (scores.ap50, scores.ar50)]
        return {
            name: null(name, "no boxes of this class, or the detector does not know it", judge=judge)
            if np.isnan(value)
            else figure(name, value, n=len(numbers), judge=judge)
            for name, value in zip(names, values, strict=True)
        }

    def _features(self, key: str, slice_name: str, mask: np.ndarray) -> Figures:
        observed = self.evidence.observed[key]
        rows = np.asarray(observed.rows, int)
        # A method that leaves a kind as it was is not flattered by it.
        kinds = [kind.value for kind in self.evidence.methods[key].kinds]
        chosen = mask[rows] & np.isin(self.evidence.kinds[rows], kinds)
        reason = self._no_features(int(chosen.sum()))
        if reason is not None:
            return {name: null(name, reason, n=int(chosen.sum())) for name in ("fid", "kid", "kid_of_inpaint")}
        made = self._distances(rows[chosen], np.asarray(observed.features)[chosen], slice_name)
        made["kid_of_inpaint"] = self._of_inpaint(made["kid"], slice_name, mask, kinds)
        return made

    def _of_inpaint(self, kid: Figure, slice_name: str, mask: np.ndarray, kinds: Sequence[str]) -> Figure:
        name, inpaint = "kid_of_inpaint", self._key_of("inpaint")
        if inpaint is None or kid.value is None:
            return null(name, "inpaint is not among the baselines", judge=kid.judge)
        observed = self.evidence.observed[inpaint]
        rows = np.asarray(observed.rows, int)
        chosen = mask[rows] & np.isin(self.evidence.kinds[rows], kinds)
        known = (slice_name, tuple(kinds))
        if known not in self._inpainted:
            features = np.asarray(observed.features)[chosen]
            self._inpainted[known] = self._kid(rows[chosen], features, slice_name).value
        reference = self._inpainted[known]
        if reference <= 0:
            return null(name, "inpainting looks as real as the originals to this judge", judge=kid.judge)
        return figure(name, max(0.0, kid.value) / reference, n=kid.n, judge=kid.judge)

    def _distances(self, rows: np.ndarray, anonymized: np.ndarray, slice_name: str) -> Figures:
        real = self._references.gaussian(self._original_features(rows), rows)
        frechet = fid.frechet(real, fid.gaussian(anonymized))
        return self._as_figures(frechet, self._kid(rows, anonymized, slice_name), len(rows))

    def _kid(self, rows: np.ndarray, anonymized: np.ndarray, stream: str) -> Distance:
        """Of the originals with these numbers, and of what became of them."""
        own = partial(self._references.own_sums, rows=rows)
        return fid.kid(self._original_features(rows), anonymized, self.evidence.rng(f"kid {stream}"), own=own)

    def _as_figures(self, frechet: float, distance: Distance, n: int) -> Figures:
        judge = "features/held_out"
        return {
            "fid": figure("fid", frechet, n=n, judge=judge),
            "kid": figure("kid", distance.value, n=n, interval=distance.interval, judge=judge),
        }

    def _original_features(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.evidence.originals.features)[rows]

    @property
    def _references(self) -> References:
        if self.evidence.references is None:
            raise ValueError("features were judged without references")
        return self.evidence.references

    def _coverage(self, key: str, mask: np.ndarray) -> Figures:
        observed = self.evidence.observed[key]
        rows = np.asarray(observed.rows, int)
        kinds = [kind.value for kind in self.evidence.methods[key].kinds]
        chosen = mask[rows] & np.isin(self.evidence.kinds[rows], kinds)
        n = int(chosen.sum())
        if (reason := self._too_few(n, "regions")) is not None:
            return {"coverage": null("coverage", reason, n=n)}
        hits = int((np.asarray(observed.shares)[chosen] >= HALF).sum())
        made = {"coverage": figure("coverage", hits / n, n=n, interval=clopper_pearson(hits, n))}
        if mask.all() and observed.outside[1]:
            made["coverage_outside"] = figure("coverage_outside", observed.outside[0] / observed.outside[1])
            made["changed_outside_masks"] = (
                null("changed_outside_masks", "nobody says what was to be replaced: see `outside covered`")
                if observed.unmasked is None
                else figure("changed_outside_masks", observed.unmasked / observed.outside[1])
            )
            if observed.replaced:
                share = observed.besides / observed.replaced
                interval = clopper_pearson(observed.besides, observed.replaced)
                made["false_replacements"] = figure("false_replacements", share, n=observed.replaced, interval=interval)
        return made

    def _not_measured(self) -> Figures:
        made = {"attributes": null("attributes", "no judge of pose, expression and age is configured")}
        made |= {name: null(name, "not tried: evaluation.attacks.kinds does not name it") for name in attacks.NAMES}
        if self.widerface is None:
            reason = "evaluation.widerface_ground_truth does not name the protocol's lists"
            made |= {f"widerface_{key}": null(f"widerface_{key}", reason) for key in widerface_protocol.DIFFICULTIES}
        return made

    # What several figures need ----------------------------------------------------------------------------------------

    def _too_few(self, n: int, what: str) -> str | None:
        least = self.evidence.settings.min_samples
        counted = what.replace("s", "", 1) if n == 1 else what  # 1 plate that can be read
        return f"only {n} {counted}; a figure needs {least}" if n < least else None

    def _no_features(self, n: int) -> str | None:
        return self._blind("features", "held_out") or self._too_few(n, "regions")

    def _key_of(self, name: str) -> str | None:
        return next((key for key, method in self.evidence.methods.items() if method.name == name), None)

    def _selected(self, key: str, numbers: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Subjects of one kind in a slice the method was judged on, and their places in its list of that kind."""
        rows = np.asarray(self.evidence.observed[key].rows, int)
        of_kind = rows[np.isin(rows, numbers)]
        positions = np.flatnonzero(mask[of_kind])
        return of_kind[positions], positions

    def _face_number(self, subjects: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.evidence.faces, subjects)

    def _plate_number(self, subjects: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.evidence.plates, subjects)

    def _original_embeddings(self, panel: Panel) -> np.ndarray:
        return np.asarray(self.evidence.originals.embeddings[panel], np.float32)

    def _persons(self, subjects: np.ndarray) -> np.ndarray:
        return np.array(self.evidence.subjects.persons)[subjects]

    def _as_faces(self, embeddings: np.ndarray, subjects: np.ndarray) -> tuple[Faces, np.ndarray]:
        known = self._persons(subjects) != NOBODY
        images = np.array(self.evidence.subjects.images)[subjects]
        return Faces(embeddings[known], self._persons(subjects)[known], images[known]), subjects[known]

    def _originals_faces(self, panel: Panel) -> Faces:
        """The gallery: every original whose person is known, of all styles."""
        return self._as_faces(self._original_embeddings(panel), self.evidence.faces)[0]

    def _probes(self, key: str, panel: Panel) -> tuple[Faces, np.ndarray]:
        selected, _ = self._selected(key, self.evidence.faces, np.ones(len(self.evidence.subjects), bool))
        return self._as_faces(np.asarray(self.evidence.observed[key].embeddings[panel], np.float32), selected)

    def _ranks(self, key: str, panel: Panel, *, same_photograph: bool) -> tuple[np.ndarray, Ranks]:
        known = (key, panel, same_photograph)
        if known not in self._ranked:
            probes, subjects = self._probes(key, panel)
            gallery = self._originals_faces(panel)
            self._ranked[known] = (
                subjects,
                reidentification.rank(probes, gallery, same_photograph=same_photograph),
            )
        return self._ranked[known]

    def _threshold(self, panel: Panel, far: float) -> float | None:
        known = (panel, far)
        if known not in self._thresholds:
            self._thresholds[known] = reidentification.threshold_at_far(self._originals_faces(panel), far)
        return self._thresholds[known]

    def _missed(self, key: str, subjects: np.ndarray) -> np.ndarray:
        """Which regions an end-to-end method did not cover by half: they count as leaked, whatever a judge sees."""
        observed = self.evidence.observed[key]
        if self.evidence.methods[key].boxes != "detected":
            return np.zeros(len(subjects), bool)
        shares = np.asarray(observed.shares)[np.searchsorted(np.asarray(observed.rows), subjects)]
        return shares < HALF

    def _known_plates(
        self, panel: Panel, selected: np.ndarray | None = None
    ) -> tuple[list[str], list[str], np.ndarray]:
        """Serials, what the reader read on the originals, and heights, where the serial is known."""
        chosen = self.evidence.plates if selected is None else selected
        known = [number for number in chosen if self.evidence.subjects.serials[number]]
        places = self._plate_number(np.array(known, int))
        return (
            [self.evidence.subjects.serials[number] or "" for number in known],
            [self.evidence.originals.readings[panel][place] for place in places],
            np.array([self.evidence.subjects.heights[number] for number in known]),
        )

    def _share(
        self, name: str, hits: np.ndarray, subjects: np.ndarray, judge: str, chance: float | None = None
    ) -> Figure:
        if (reason := self._too_few(len(hits), "probes")) is not None:
            return null(name, reason, n=len(hits), judge=judge)
        interval = self._bootstrap(hits, subjects, name, limits=(0, 1))
        return figure(name, float(hits.mean()), n=len(hits), interval=interval, judge=judge, chance=chance)

    def _bootstrap(
        self, values: np.ndarray, subjects: np.ndarray, stream: str, limits: Interval | None = None
    ) -> Interval:
        persons = self._persons(subjects)
        # Without identities each region is a person of its own.
        groups = np.where(persons == NOBODY, -1 - np.arange(len(persons)), persons)
        settings, rng = self.evidence.settings, self.evidence.rng(stream)
        return bootstrap_by_person(values, groups, settings.bootstrap, rng, limits)

    def _judged_images(self, observed: Observed, numbers: set[int] | None) -> set[int]:
        return set(observed.images) if numbers is None else set(observed.images) & numbers

    def _detection_scores(
        self, observed: Observed, key: str, panel: Panel, slice_name: str, numbers: set[int] | None
    ) -> detection.DetectionScores:
        chosen = self._judged_images(observed, numbers)
        known = (key, panel, f"{slice_name} {len(chosen)}")
        if known not in self._scores:
            self._scores[known] = self._score(observed, panel, chosen)
        return self._scores[known]

    def _score(
        self, observed: Observed, panel: Panel, numbers: set[int], max_detections: int = detection.MAX_DETECTIONS
    ) -> detection.DetectionScores:
        return detection.average_precision(
            [image for image in self.evidence.images if image["id"] in numbers],
            [annotation for annotation in self.evidence.annotations if annotation["image_id"] in numbers],
            observed.detected(panel),
            categories=sorted(CATEGORY_IDS[kind] for kind in self.evidence.detects[panel]),
            max_detections=max_detections,
        )


def _proof(value: float, floor: float, what: str) -> Proof:
    reason = None if value >= floor else f"the judge is blind here: {what} {value:.3f}, floor {floor:g}"
    return Proof(value, floor, reason)

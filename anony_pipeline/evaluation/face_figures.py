"""What recognizers say of faces: similarity, re-identification, verification, diversity.

Measured by `anony_pipeline.evaluation.reidentification`.
"""

import numpy as np

from anony_pipeline.evaluation import memorization_figures, reidentification
from anony_pipeline.evaluation.evidence import Evidence, Figures, Proof, blindness
from anony_pipeline.evaluation.observations import NOBODY
from anony_pipeline.evaluation.reidentification import Faces, Ranks
from anony_pipeline.evaluation.schema import Figure, Panel, figure, null


class FaceFigures:
    """Makes the recognizers' figures of one run; what several of them need is computed once a panel.

    Attributes:
        evidence: What was seen.
        proofs: By panel, whether its recognizer can see.
    """

    def __init__(self, evidence: Evidence) -> None:
        """Keep the evidence, and ask the recognizers for their proofs."""
        self.evidence = evidence
        self._ranked: dict[tuple[str, Panel, bool], tuple[np.ndarray, Ranks]] = {}
        self._thresholds: dict[tuple[Panel, float], float | None] = {}
        self.proofs: dict[Panel, Proof] = {panel: self._prove(panel) for panel in evidence.panels("recognizer")}

    def blind(self, panel: Panel) -> str | None:
        """See `blindness`."""
        return blindness("recognizer", panel, self.proofs)

    def figures(self, key: str, panel: Panel, mask: np.ndarray) -> Figures:
        """The figures of one row, those of memorization included; see `FigureMaker.figures` for the arguments."""
        names = ["arcface_mean_sim", "reid_rank1", "reid_rank5", "reid_rank1_same_photo", "reid_excess", "reid_chance"]
        names += ["tar_at_far_1e2", "tar_at_far_1e3", "diversity_mean_cosine", "diversity_effective"]
        judge = f"recognizer/{panel}"
        selected, positions = self.evidence.selected(key, self.evidence.faces, mask)
        if panel in self.proofs and panel not in self.evidence.observed[key].embeddings:
            return {}
        reason = self.blind(panel) or self.evidence.too_few(len(selected), "faces")
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
        if mask.all():
            made |= memorization_figures.figures(self.evidence, key, panel, self.blind(panel))
        return made

    def probes(self, key: str, panel: Panel) -> tuple[Faces, np.ndarray]:
        """All of a method's faces whose person is known, and their numbers among the subjects."""
        selected, _ = self.evidence.selected(key, self.evidence.faces, np.ones(len(self.evidence.subjects), bool))
        return self._as_faces(np.asarray(self.evidence.observed[key].embeddings[panel], np.float32), selected)

    def _prove(self, panel: Panel) -> Proof:
        floor = self.evidence.settings.floors.reid_rank1
        if not (self.evidence.persons(self.evidence.faces) != NOBODY).any():
            return Proof(None, floor, "no identities in the data, so the recognizer can't prove that it can see")
        probes = self._gallery(panel)
        ranks = reidentification.rank(probes, probes)
        if not ranks.known.any():
            return Proof(
                None, floor, "nobody is seen in two photographs, so the recognizer can't prove that it can see"
            )
        if ranks.people < 2:
            return Proof(None, floor, "all faces are of one person, so the recognizer can't prove that it can see")
        return Proof.of(float(ranks.hits(1)[ranks.known].mean()), floor, "rank-1 on the originals")

    def _similarity(self, panel: Panel, embeddings: np.ndarray, selected: np.ndarray) -> Figures:
        places = np.searchsorted(self.evidence.faces, selected)
        cosines = reidentification.cosine(self._original_embeddings(panel)[places], embeddings)
        interval = self.evidence.bootstrap(cosines, selected, "similarity")
        name = "arcface_mean_sim"
        return {
            name: figure(name, float(cosines.mean()), n=len(cosines), interval=interval, judge=f"recognizer/{panel}")
        }

    def _reidentification(self, key: str, panel: Panel, selected: np.ndarray) -> Figures:
        judge = f"recognizer/{panel}"
        subjects, ranks = self._ranks(key, panel, same_photograph=False)
        chosen = np.isin(subjects, selected) & ranks.known
        missed = self.evidence.missed(key, subjects)
        made: Figures = {}
        for name, k in (("reid_rank1", 1), ("reid_rank5", 5)):
            if ranks.people <= k:
                made[name] = null(name, f"only {ranks.people} people: all are among the {k} nearest", judge=judge)
                continue
            hits = np.where(missed, 1.0, ranks.hits(k))[chosen]
            made[name] = self.evidence.share(name, hits, subjects[chosen], judge)
        same_subjects, same = self._ranks(key, panel, same_photograph=True)
        shown = np.isin(same_subjects, selected)
        hits = np.where(self.evidence.missed(key, same_subjects), 1.0, same.hits(1))[shown]
        made["reid_rank1_same_photo"] = self.evidence.share("reid_rank1_same_photo", hits, same_subjects[shown], judge)
        made["reid_chance"] = figure("reid_chance", 1 / max(1, ranks.people), n=ranks.people, judge=judge)
        made["reid_excess"] = self._excess(panel, np.where(missed, 1.0, ranks.hits(1)), subjects, chosen)
        return made

    def _excess(self, panel: Panel, hits: np.ndarray, subjects: np.ndarray, chosen: np.ndarray) -> Figure:
        """Rank-1 minus that of `other_face` on the same probes: hair and outline re-identify too."""
        name, judge = "reid_excess", f"recognizer/{panel}"
        other = self.evidence.key_of("other_face")
        if other is None:
            return null(name, "other_face is not among the baselines", judge=judge)
        if (reason := self.evidence.too_few(int(chosen.sum()), "probes")) is not None:
            return null(name, reason, n=int(chosen.sum()), judge=judge)
        other_subjects, other_ranks = self._ranks(other, panel, same_photograph=False)
        places = np.searchsorted(other_subjects, subjects[chosen])
        difference = hits[chosen] - other_ranks.hits(1)[places]
        return figure(
            name,
            float(difference.mean()),
            n=len(difference),
            interval=self.evidence.bootstrap(difference, subjects[chosen], name, limits=(-1, 1)),
            judge=judge,
        )

    def _verification(self, key: str, panel: Panel, selected: np.ndarray) -> Figures:
        judge = f"recognizer/{panel}"
        originals = self._gallery(panel)
        probes, subjects = self.probes(key, panel)
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
            rates = np.where(self.evidence.missed(key, subjects[chosen][known]), 1.0, rates)
            made[name] = self.evidence.share(name, rates, subjects[chosen][known], judge)
        return made

    def _gallery(self, panel: Panel) -> Faces:
        """Every original whose person is known, of all styles."""
        return self._as_faces(self._original_embeddings(panel), self.evidence.faces)[0]

    def _original_embeddings(self, panel: Panel) -> np.ndarray:
        return np.asarray(self.evidence.originals.embeddings[panel], np.float32)

    def _as_faces(self, embeddings: np.ndarray, subjects: np.ndarray) -> tuple[Faces, np.ndarray]:
        persons = self.evidence.persons(subjects)
        known = persons != NOBODY
        images = np.array(self.evidence.subjects.images)[subjects]
        return Faces(embeddings[known], persons[known], images[known]), subjects[known]

    def _ranks(self, key: str, panel: Panel, *, same_photograph: bool) -> tuple[np.ndarray, Ranks]:
        known = (key, panel, same_photograph)
        if known not in self._ranked:
            probes, subjects = self.probes(key, panel)
            ranks = reidentification.rank(probes, self._gallery(panel), same_photograph=same_photograph)
            self._ranked[known] = subjects, ranks
        return self._ranked[known]

    def _threshold(self, panel: Panel, far: float) -> float | None:
        known = (panel, far)
        if known not in self._thresholds:
            self._thresholds[known] = reidentification.threshold_at_far(self._gallery(panel), far)
        return self._thresholds[known]

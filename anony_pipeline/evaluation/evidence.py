"""All that figures are made of, and what every judge's figures ask of it: slices, selections, intervals, proofs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from anony_pipeline.config.schema import Evaluation
from anony_pipeline.evaluation import widerface_protocol
from anony_pipeline.evaluation.attacks import Outcome
from anony_pipeline.evaluation.canaries import NONE_PLANTED, Audit
from anony_pipeline.evaluation.coverage import HALF
from anony_pipeline.evaluation.intervals import Interval, bootstrap_by_person
from anony_pipeline.evaluation.judges import PANELS
from anony_pipeline.evaluation.methods import Method
from anony_pipeline.evaluation.observations import NOBODY, Observed, Subjects, in_order
from anony_pipeline.evaluation.references import References
from anony_pipeline.evaluation.schema import OVERALL, Figure, Panel, figure, null
from anony_pipeline.runtime import seeding
from anony_pipeline.structures.regions import Kind

SIZES: tuple[tuple[str, float, float], ...] = (
    ("size:<16", 0, 16),
    ("size:16-32", 16, 32),
    ("size:32-64", 32, 64),
    ("size:>=64", 64, float("inf")),
)
"""Slices by the box's height in pixels."""

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

    @classmethod
    def of(cls, value: float, floor: float, what: str) -> "Proof":
        """Hold what a judge reached against its floor; ``what`` says what was measured."""
        reason = None if value >= floor else f"the judge is blind here: {what} {value:.3f}, floor {floor:g}"
        return cls(value, floor, reason)


def blindness(kind: str, panel: Panel, proofs: Mapping[Panel, Proof]) -> str | None:
    """Why figures of a judge are null, whatever it saw; None if it can see.

    Args:
        kind: The judge's.
        panel: The judge's.
        proofs: Of the judges of this kind.
    """
    proof = proofs.get(panel)
    if proof is None:
        return f"no {panel.replace('_', '-')} {kind} is configured"
    return proof.reason


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

    def panels(self, kind: str) -> list[Panel]:
        """The panels that have a judge of this kind."""
        return [panel for panel in PANELS if (kind, panel) in self.present]

    def key_of(self, name: str) -> str | None:
        """The key of the first method of this name; None if none has it."""
        return next((key for key, method in self.methods.items() if method.name == name), None)

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

    def selected(self, key: str, numbers: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Subjects of one kind in a slice the method was judged on, and their places in its list of that kind.

        Args:
            key: Of the method.
            numbers: `faces` or `plates`.
            mask: ``(N,)`` bool over the subjects.
        """
        rows = np.asarray(self.observed[key].rows, int)
        of_kind = rows[np.isin(rows, numbers)]
        positions = np.flatnonzero(mask[of_kind])
        return of_kind[positions], positions

    def regions(self, key: str, kinds: Collection[Kind], mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Subjects of some kinds in a slice the method was judged on, and their places in its list of all regions."""
        rows = np.asarray(self.observed[key].rows, int)
        positions = np.flatnonzero(mask[rows] & np.isin(self.kinds[rows], [kind.value for kind in kinds]))
        return rows[positions], positions

    def persons(self, subjects: np.ndarray) -> np.ndarray:
        """``(N,)`` who they are, `NOBODY` where unknown."""
        return np.array(self.subjects.persons)[subjects]

    def missed(self, key: str, subjects: np.ndarray) -> np.ndarray:
        """Which regions an end-to-end method did not cover by half: they count as leaked, whatever a judge sees."""
        observed = self.observed[key]
        if self.methods[key].boxes != "detected":
            return np.zeros(len(subjects), bool)
        shares = np.asarray(observed.shares)[np.searchsorted(np.asarray(observed.rows), subjects)]
        return shares < HALF

    def too_few(self, n: int, what: str) -> str | None:
        """Why there is no figure of so few; None if they suffice."""
        least = self.settings.min_samples
        counted = what.replace("s", "", 1) if n == 1 else what  # 1 plate that can be read
        return f"only {n} {counted}; a figure needs {least}" if n < least else None

    def share(
        self, name: str, hits: np.ndarray, subjects: np.ndarray, judge: str, chance: float | None = None
    ) -> Figure:
        """The share of hits, with an interval by persons.

        Args:
            name: Of the figure, and of its randomness.
            hits: ``(N,)`` of each probe, from 0 to 1.
            subjects: ``(N,)`` whose they are.
            judge: Who says so.
            chance: What a guess reaches.
        """
        if (reason := self.too_few(len(hits), "probes")) is not None:
            return null(name, reason, n=len(hits), judge=judge)
        interval = self.bootstrap(hits, subjects, name, limits=(0, 1))
        return figure(name, float(hits.mean()), n=len(hits), interval=interval, judge=judge, chance=chance)

    def bootstrap(
        self, values: np.ndarray, subjects: np.ndarray, stream: str, limits: Interval | None = None
    ) -> Interval:
        """The interval of a mean over subjects, see `bootstrap_by_person`; ``stream`` names its randomness."""
        persons = self.persons(subjects)
        # Without identities each region is a person of its own.
        groups = np.where(persons == NOBODY, -1 - np.arange(len(persons)), persons)
        return bootstrap_by_person(values, groups, self.settings.bootstrap, self.rng(stream), limits)

"""Attackers who train: a parrot that learns people from anonymized faces, and a network that undoes the anonymizer.

The attacker of McPherson et al. ("Defeating image obfuscation with deep learning", arXiv:1609.00408) and of Newton et
al. ("Preserving privacy by de-identifying face images", 2005: parrot recognition) knows the anonymizer, and trains
against each method anew. Every method is attacked with the same budget, the originals too: an attacker that fails on
them proves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anony_pipeline.config.schema import Config
from anony_pipeline.evaluation import reidentification
from anony_pipeline.evaluation.observations import NOBODY, Observed, Subjects
from anony_pipeline.evaluation.reidentification import Faces
from anony_pipeline.fitting import attackers
from anony_pipeline.fitting.attackers import Budget
from anony_pipeline.models.recognizer import INPUT_SIZE, Recognizer, RecognizerTwin, load_recognizer_twin
from anony_pipeline.ops import images
from anony_pipeline.runtime import device as devices
from anony_pipeline.runtime import seeding
from anony_pipeline.structures.regions import Kind

NAMES = ("attack_parrot", "attack_restoration")
ORIGINALS = "originals"
MIN_PEOPLE = 2


@dataclass(frozen=True)
class Outcome:
    """What an attacker reached.

    Attributes:
        hits: ``(N,)`` probability of each tried face that its person is named.
        subjects: ``(N,)`` their numbers in `Subjects`.
        chance: What a guess reaches.
        judge: Who attacked.
        reason: Why it was not tried.
    """

    hits: np.ndarray
    subjects: np.ndarray
    chance: float
    judge: str
    reason: str | None = None


@dataclass(frozen=True)
class Known:
    """The faces that attackers get: those of known people among the ones that were kept.

    Attributes:
        subjects: ``(N,)`` numbers in `Subjects`.
        crops_rgb: N aligned crops of `INPUT_SIZE`.
        persons: ``(N,)`` who they are.
        images: ``(N,)`` the photographs.
    """

    subjects: np.ndarray
    crops_rgb: list[np.ndarray]
    persons: np.ndarray
    images: np.ndarray


def facts(config: Config) -> dict[str, str | int] | None:
    """What the attackers of a configuration may spend, for the scorecard; None if there is none."""
    settings = config.evaluation.attacks
    if not settings.kinds:
        return None
    spent = {"steps": settings.steps, "batch": attackers.BATCH, "max_faces": settings.max_faces, "seed": config.seed}
    return {"kinds": ", ".join(settings.kinds), "parrot": f"fine-tuned {config.judges.recognizer} recognizer", **spent}


def attack(
    config: Config,
    subjects: Subjects,
    originals: Observed,
    observed: Mapping[str, Observed],
    recognizer: Recognizer | None,
) -> dict[str, dict[str, Outcome]]:
    """Train and try every configured attacker on the originals and on each attacked method.

    Args:
        config: ``evaluation.attacks``, the seed and the device.
        subjects: Who is who.
        originals: The originals, with the faces that were kept for attackers.
        observed: What was seen of the methods, by key.
        recognizer: Names people in restored faces.

    Returns:
        By method key (`ORIGINALS` among them), outcomes by metric; empty if nobody attacks.
    """
    kinds = config.evaluation.attacks.kinds
    if not kinds:
        return {}
    budget = Budget(
        config.evaluation.attacks.steps,
        seeding.seed_for(config.seed, "attacks"),
        devices.choose_device(config.device),
    )
    targets = {ORIGINALS: originals, **{key: seen for key, seen in observed.items() if seen.crops_rgb}}
    faces = known_faces(subjects, originals)
    found: dict[str, dict[str, Outcome]] = {key: {} for key in targets}
    for key, seen in targets.items():
        known = known_faces(subjects, seen)
        if "parrot" in kinds:
            twin = load_recognizer_twin(
                config.judges.recognizer, weights_dir=Path(config.paths.weights), offline=config.model.offline
            )
            judge = f"parrot: {config.judges.recognizer} recognizer, {budget.steps} steps"
            found[key]["attack_parrot"] = parrot(twin, known, budget, judge)
        if "restoration" in kinds:
            found[key]["attack_restoration"] = restoration(known, faces, recognizer, budget)
    return found


def parrot(twin: RecognizerTwin, known: Known, budget: Budget, judge: str = "parrot") -> Outcome:
    """Retrain a recognizer on anonymized faces of half of everybody's photographs; try it on the rest.

    A tried face is named by the nearest anonymized face that the attacker knows.

    Args:
        twin: The recognizer that the attacker begins with; its weights are changed.
        known: The anonymized faces.
        budget: What the attacker may spend.
        judge: What the attacker is called.
    """
    learned = _halves_of_photographs(known)
    if len(np.unique(known.persons[learned])) < MIN_PEOPLE or learned.all():
        return _untried(judge, "fewer than two people are seen in two photographs each")
    crops = [images.resize(crop, (twin.input_size, twin.input_size)) for crop in known.crops_rgb]
    network = twin.network.to(budget.device)
    attackers.fit_parrot(network, [crops[i] for i in np.flatnonzero(learned)], known.persons[learned], budget)
    faces = Faces(attackers.embed(network, crops, budget), known.persons, known.images)
    ranks = reidentification.rank(faces.take(~learned), faces.take(learned))
    tried = known.subjects[~learned]
    return Outcome(ranks.hits(1)[ranks.known], tried[ranks.known], 1 / max(1, ranks.people), judge)


def restoration(known: Known, originals: Known, recognizer: Recognizer | None, budget: Budget) -> Outcome:
    """Train a network to undo the method on the faces of every second person; re-identify the others by it.

    Args:
        known: The anonymized faces.
        originals: What they and others were.
        recognizer: Names people in restored faces.
        budget: What the attacker may spend.
    """
    judge = f"recognizer/held_out after restoration, {budget.steps} steps"
    if recognizer is None:
        return _untried(judge, "no held-out recognizer is configured")
    everybody = np.unique(known.persons)
    learned = np.isin(known.persons, everybody[::2])
    if len(everybody) < 2 * MIN_PEOPLE:
        return _untried(judge, f"only {len(everybody)} known people: the attacker needs {2 * MIN_PEOPLE}")
    # Photographs of which one face was learned from may not be tried: the attacker saw their other faces' surroundings.
    tried = ~learned & ~np.isin(known.images, known.images[learned])
    if not tried.any():
        tried = ~learned
    before = dict(zip(originals.subjects.tolist(), originals.crops_rgb, strict=True))
    numbers = np.flatnonzero(learned)
    network = attackers.fit_restorer(
        [known.crops_rgb[i] for i in numbers], [before[known.subjects[i]] for i in numbers], budget
    )
    restored = attackers.restore(network, [known.crops_rgb[i] for i in np.flatnonzero(tried)], budget)
    probes = Faces(_embedded(recognizer, restored), known.persons[tried], known.images[tried])
    gallery = Faces(_embedded(recognizer, originals.crops_rgb), originals.persons, originals.images)
    ranks = reidentification.rank(probes, gallery)
    return Outcome(ranks.hits(1)[ranks.known], known.subjects[tried][ranks.known], 1 / max(1, ranks.people), judge)


def _untried(judge: str, reason: str) -> Outcome:
    return Outcome(np.zeros(0), np.zeros(0, int), 0.0, judge, reason)


def known_faces(subjects: Subjects, seen: Observed) -> Known:
    """The faces of known people among those that were kept of a method."""
    faces = [row for row in seen.rows if subjects.kinds[row] is Kind.FACE][: len(seen.crops_rgb)]
    places = [place for place, row in enumerate(faces) if subjects.persons[row] != NOBODY]
    numbers = np.array([faces[place] for place in places], int)
    return Known(
        numbers,
        [seen.crops_rgb[place] for place in places],
        np.array([subjects.persons[number] for number in numbers], int),
        np.array([subjects.images[number] for number in numbers], int),
    )


def _halves_of_photographs(known: Known) -> np.ndarray:
    """Every second photograph of each person, the first among them, as a mask."""
    learned = np.zeros(len(known.persons), bool)
    for person in np.unique(known.persons):
        mine = known.persons == person
        photographs = np.unique(known.images[mine])
        learned |= mine & np.isin(known.images, photographs[::2])
    return learned


def _embedded(recognizer: Recognizer, crops_rgb: list[np.ndarray]) -> np.ndarray:
    size = recognizer.input_size
    if size != INPUT_SIZE:
        crops_rgb = [images.resize(crop, (size, size)) for crop in crops_rgb]
    return recognizer.embed(crops_rgb)

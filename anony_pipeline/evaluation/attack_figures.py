"""How far attackers get: linking faces to each other, and the trained ones of `anony_pipeline.evaluation.attacks`."""

import numpy as np

from anony_pipeline.evaluation import reidentification
from anony_pipeline.evaluation.attacks import ORIGINALS, Outcome
from anony_pipeline.evaluation.evidence import Evidence, Figures
from anony_pipeline.evaluation.face_figures import FaceFigures
from anony_pipeline.evaluation.schema import Figure, null


def figures(evidence: Evidence, faces: FaceFigures, key: str, mask: np.ndarray) -> Figures:
    """Linkability by the held-out recognizer as it is, and what attackers reached who trained a network.

    Args:
        evidence: What was seen.
        faces: Whose recognizer links.
        key: Of the method.
        mask: ``(N,)`` bool over the subjects.
    """
    made: Figures = {"attack_linkability": _linkability(evidence, faces, key, mask)}
    for attack, outcome in evidence.attacked.get(key, {}).items():
        made[attack] = _of_trained(evidence, attack, outcome)
    return made


def _linkability(evidence: Evidence, faces: FaceFigures, key: str, mask: np.ndarray) -> Figure:
    name, judge = "attack_linkability", "recognizer/held_out"
    selected, _ = evidence.selected(key, evidence.faces, mask)
    reason = faces.blind("held_out") or evidence.too_few(len(selected), "faces")
    if reason is not None:
        return null(name, reason, n=len(selected), judge=judge)
    probes, subjects = faces.probes(key, "held_out")
    ranks = reidentification.rank(probes, probes)
    hits, chance = ranks.hits(1)[ranks.known], 1 / max(1, ranks.people)
    return evidence.share(name, hits, subjects[ranks.known], judge, chance=chance)


def _of_trained(evidence: Evidence, name: str, outcome: Outcome) -> Figure:
    on_originals = evidence.attacked[ORIGINALS][name]
    if outcome.reason is not None:
        return null(name, outcome.reason, judge=outcome.judge)
    seen, floor = float(on_originals.hits.mean()), evidence.settings.floors.reid_rank1
    if seen < floor:
        reason = f"the attacker is blind here: rank-1 {seen:.3f} on the originals, floor {floor:g}"
        return null(name, reason, n=len(outcome.hits), judge=outcome.judge)
    return evidence.share(name, outcome.hits, outcome.subjects, outcome.judge, chance=outcome.chance)

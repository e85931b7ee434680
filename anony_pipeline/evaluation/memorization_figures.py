"""What came out of training faces: whether they come out more alike, and whether planted canaries are told.

Canaries are planted and compared by `anony_pipeline.evaluation.canaries`.
"""

import numpy as np

from anony_pipeline.evaluation.canaries import GUESS, membership_auc
from anony_pipeline.evaluation.evidence import Evidence, Figures, Trained
from anony_pipeline.evaluation.intervals import bootstrap_of_difference, of_auc
from anony_pipeline.evaluation.schema import ANONYMIZER, Figure, Panel, figure, null


def figures(evidence: Evidence, key: str, panel: Panel, blind: str | None) -> Figures:
    """The figures of one overall row.

    Args:
        evidence: What was seen.
        key: Of the method; only the anonymizer and the base of its canaries have such figures.
        panel: Whose recognizer looks.
        blind: Why its figures are null; None if it can see.
    """
    made = _memorization(evidence, key, panel, blind) if evidence.methods[key].name == ANONYMIZER else {}
    return made | _canaries(evidence, evidence.methods[key].name, panel, blind)


def _memorization(evidence: Evidence, key: str, panel: Panel, blind: str | None) -> Figures:
    judge = f"recognizer/{panel}"
    names = ("memorization_gap", "nearest_training_identity")
    selected, positions = evidence.selected(key, evidence.faces, np.ones(len(evidence.subjects), bool))
    trained = evidence.memorized.get(panel)
    reason = blind or evidence.too_few(len(selected), "faces")
    if reason is not None or trained is None:
        reason = reason or "no training faces were judged"
        return {name: null(name, reason, judge=judge) for name in names}
    embeddings = np.asarray(evidence.observed[key].embeddings[panel], np.float32)[positions]
    nearest = (embeddings @ trained.originals.T).max(axis=1)
    return {
        names[0]: _gap(evidence, names[0], trained, judge),
        names[1]: figure(
            names[1],
            float(nearest.mean()),
            n=len(nearest),
            interval=evidence.bootstrap(nearest, selected, "nearest"),
            judge=judge,
        ),
    }


def _gap(evidence: Evidence, name: str, trained: Trained, judge: str) -> Figure:
    least = min(len(trained.cosines), len(trained.unseen_cosines))
    if (reason := evidence.too_few(least, "faces on one side")) is not None:
        return null(name, reason, n=least, judge=judge)
    interval = bootstrap_of_difference(
        (trained.cosines, trained.photographs),
        (trained.unseen_cosines, trained.unseen_photographs),
        evidence.settings.bootstrap,
        evidence.rng("memorization"),
    )
    gap = float(trained.cosines.mean() - trained.unseen_cosines.mean())
    return figure(name, gap, n=len(trained.cosines), interval=interval, judge=judge)


def _canaries(evidence: Evidence, method: str, panel: Panel, blind: str | None) -> Figures:
    """Whether the anonymizer tells which faces were planted; its base model never saw them and can only guess."""
    name, judge, audit = "canary_auc", f"recognizer/{panel}", evidence.audit
    if isinstance(audit, str):
        return {name: null(name, audit)} if method == ANONYMIZER else {}
    if (method, panel) not in audit.cosines:
        return {}
    n, planted = len(audit.planted), int(audit.planted.sum())
    reason = blind or evidence.too_few(n, "canaries")
    if reason is not None:
        return {name: null(name, reason, n=n, judge=judge)}
    auc = membership_auc(audit.cosines[method, panel], audit.planted)
    return {name: figure(name, auc, n=n, interval=of_auc(auc, planted, n - planted), judge=judge, chance=GUESS)}

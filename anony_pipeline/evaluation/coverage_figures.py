"""How much was replaced at all, of regions and besides, whatever judges see.

Measured by `anony_pipeline.evaluation.coverage` while the images are seen.
"""

import numpy as np

from anony_pipeline.evaluation.coverage import HALF
from anony_pipeline.evaluation.evidence import Evidence, Figures
from anony_pipeline.evaluation.intervals import clopper_pearson
from anony_pipeline.evaluation.schema import figure, null


def figures(evidence: Evidence, key: str, mask: np.ndarray) -> Figures:
    """The figures of one row; those of what was replaced besides are overall alone.

    Args:
        evidence: What was seen.
        key: Of the method.
        mask: ``(N,)`` bool over the subjects.
    """
    observed = evidence.observed[key]
    rows, positions = evidence.regions(key, evidence.methods[key].kinds, mask)
    n = len(rows)
    if (reason := evidence.too_few(n, "regions")) is not None:
        return {"coverage": null("coverage", reason, n=n)}
    hits = int((np.asarray(observed.shares)[positions] >= HALF).sum())
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

"""From what the judges saw to figures: by method, panel and slice, with intervals, and null where a judge can't see.

This is the front. Each kind of judge has a module for its figures and its proof that it can see: `face_figures` for
recognizers (with `attack_figures` and `memorization_figures`), `plate_figures` for readers, `detection_figures` for
detectors, `feature_figures` for features; `coverage_figures` needs no judge. `evidence` is what all are made of.
"""

import numpy as np

from anony_pipeline.evaluation import attack_figures, attacks, coverage_figures, widerface_protocol
from anony_pipeline.evaluation.detection_figures import DetectionFigures
from anony_pipeline.evaluation.evidence import Evidence, Figures, Proof
from anony_pipeline.evaluation.face_figures import FaceFigures
from anony_pipeline.evaluation.feature_figures import FeatureFigures
from anony_pipeline.evaluation.plate_figures import PlateFigures
from anony_pipeline.evaluation.schema import ANONYMIZER, OVERALL, Panel, null
from anony_pipeline.structures.regions import Kind

TRAITS = ("time:", "skin:", "pose:", "occlusion:")
FACES_ALONE = (f"kind:{Kind.FACE}", "skin:", "pose:", "occlusion:")
"""Slices by how their names begin."""


class FigureMaker:
    """Makes the figures of one run.

    Attributes:
        evidence: What they are made of.
        proofs: How each judge did on the originals, by kind and panel.
    """

    def __init__(self, evidence: Evidence) -> None:
        """Keep the evidence, and ask the judges for their proofs."""
        self.evidence = evidence
        self._faces = FaceFigures(evidence)
        self._plates = PlateFigures(evidence)
        self._detection = DetectionFigures(evidence)
        self._features = FeatureFigures(evidence)
        by_kind = {
            "recognizer": self._faces.proofs,
            "reader": self._plates.proofs,
            "detector": self._detection.proofs,
            "features": self._features.proofs,
        }
        self.proofs: dict[tuple[str, Panel], Proof] = {
            (kind, panel): proof for kind, proofs in by_kind.items() for panel, proof in proofs.items()
        }

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
            made |= self._faces.figures(key, panel, mask)
        if self._asked("reader", panel) and Kind.PLATE in kinds and not slice_name.startswith(FACES_ALONE):
            made |= self._plates.figures(key, panel, mask)
        if self._asked("detector", panel) and (slice_name == OVERALL or slice_name.startswith("style:")):
            made |= self._detection.figures(key, panel, slice_name, mask)
        if panel == "held_out":
            # Light or skin change the features themselves, and few samples bias them: not by trait.
            made |= {} if slice_name.startswith(TRAITS) else self._features.figures(key, slice_name, mask)
            made |= coverage_figures.figures(self.evidence, key, mask)
            if slice_name == OVERALL and Kind.FACE in kinds:
                made |= attack_figures.figures(self.evidence, self._faces, key, mask)
            if slice_name == OVERALL and self.evidence.methods[key].name == ANONYMIZER:
                made |= self._not_measured() | made
        return made

    def real_halves(self, slice_name: str, mask: np.ndarray) -> Figures:
        """FID and KID of one random half of the originals against the other: what a perfect method reaches."""
        return self._features.real_halves(slice_name, mask)

    def _asked(self, kind: str, panel: Panel) -> bool:
        """Whether a judge belongs on the scorecard: nobody misses a second opinion that was not asked for."""
        return panel != "second" or (kind, panel) in self.evidence.present

    def _not_measured(self) -> Figures:
        made = {"attributes": null("attributes", "no judge of pose, expression and age is configured")}
        made |= {name: null(name, "not tried: evaluation.attacks.kinds does not name it") for name in attacks.NAMES}
        if self.evidence.widerface is None:
            reason = "evaluation.widerface_ground_truth does not name the protocol's lists"
            made |= {f"widerface_{key}": null(f"widerface_{key}", reason) for key in widerface_protocol.DIFFICULTIES}
        return made

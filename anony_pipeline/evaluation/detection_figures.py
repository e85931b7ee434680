"""What detectors say of whole images: mAP and what is kept of it, by PP4AV's and WIDERFace's own protocols too.

Measured by `anony_pipeline.evaluation.detection` and `anony_pipeline.evaluation.widerface_protocol`.
"""

from typing import Any

import numpy as np

from anony_pipeline.evaluation import detection, widerface_protocol
from anony_pipeline.evaluation.evidence import Evidence, Figures, Proof, blindness
from anony_pipeline.evaluation.observations import Observed
from anony_pipeline.evaluation.schema import OVERALL, Panel, figure, null
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind

PP4AV = ("pp4av_ap50_face", "pp4av_ar50_face", "pp4av_ap50_plate", "pp4av_ar50_plate")


class DetectionFigures:
    """Makes the detectors' figures of one run; each set of detections is scored once.

    Attributes:
        evidence: What was seen.
        proofs: By panel, whether its detector can see.
    """

    def __init__(self, evidence: Evidence) -> None:
        """Keep the evidence, and ask the detectors for their proofs."""
        self.evidence = evidence
        self._scored: dict[tuple[str, Panel, str], detection.DetectionScores] = {}
        self.proofs: dict[Panel, Proof] = {panel: self._prove(panel) for panel in evidence.panels("detector")}

    def figures(self, key: str, panel: Panel, slice_name: str, mask: np.ndarray) -> Figures:
        """The figures of one row, overall or of a style; see `FigureMaker.figures` for the arguments."""
        judge = f"detector/{panel}"
        names = ("val_map", "val_map50", "map_retention")
        observed = self.evidence.observed[key]
        numbers = None if slice_name == OVERALL else {self.evidence.subjects.images[i] for i in np.flatnonzero(mask)}
        if panel in self.proofs and panel not in observed.detections:
            return {}
        judged = _judged(observed, numbers)
        reason = blindness("detector", panel, self.proofs) or self.evidence.too_few(len(judged), "images")
        if reason is not None:
            return {name: null(name, reason, judge=judge) for name in names}
        scores = self._scores(observed, key, panel, slice_name, judged)
        if np.isnan(scores.map):
            return {name: null(name, "no boxes in these images", judge=judge) for name in names}
        n = len(judged)
        clean = self._scores(self.evidence.originals, "originals", panel, slice_name, judged)
        made = {
            "val_map": figure("val_map", scores.map, n=n, judge=judge),
            "val_map50": figure("val_map50", scores.map50, n=n, judge=judge),
            "map_retention": figure("map_retention", scores.map / clean.map, n=n, judge=judge)
            if clean.map > 0
            else null("map_retention", "the detector finds nothing on these originals", judge=judge),
        }
        if slice_name == OVERALL:
            made |= self._pp4av(observed, panel)
            if self.evidence.widerface is not None:
                made |= self._widerface(observed, panel, self.evidence.widerface)
        return made

    def _prove(self, panel: Panel) -> Proof:
        originals, floor = self.evidence.originals, self.evidence.settings.floors.detector_map50
        scores = self._scores(originals, "originals", panel, OVERALL, _judged(originals, None))
        if np.isnan(scores.map50):
            return Proof(None, floor, "no boxes in the data, so the detector can't prove itself")
        return Proof.of(scores.map50, floor, "mAP50 on the originals")

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
        if (reason := self.evidence.too_few(len(names), "images that WIDERFace's lists name")) is not None:
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

    def _pp4av(self, observed: Observed, panel: Panel) -> Figures:
        """AP50 and AR50 a class on PP4AV's images (its README: COCOeval, IoU 0.50, all areas, 100 detections)."""
        judge = f"detector/{panel}"
        numbers = _judged(observed, {image["id"] for image in self.evidence.images if image.get("source") == "pp4av"})
        if (reason := self.evidence.too_few(len(numbers), "images of a source named pp4av")) is not None:
            return {name: null(name, reason, judge=judge) for name in PP4AV}
        scores = self._score(observed, panel, numbers, max_detections=100)
        values = [by.get(category, float("nan")) for category in (1, 2) for by in (scores.ap50, scores.ar50)]
        return {
            name: null(name, "no boxes of this class, or the detector does not know it", judge=judge)
            if np.isnan(value)
            else figure(name, value, n=len(numbers), judge=judge)
            for name, value in zip(PP4AV, values, strict=True)
        }

    def _scores(
        self, observed: Observed, key: str, panel: Panel, slice_name: str, numbers: set[int]
    ) -> detection.DetectionScores:
        judged = _judged(observed, numbers)
        known = (key, panel, f"{slice_name} {len(judged)}")
        if known not in self._scored:
            self._scored[known] = self._score(observed, panel, judged)
        return self._scored[known]

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


def _judged(observed: Observed, numbers: set[int] | None) -> set[int]:
    """Which of some images were judged; of all if None."""
    return set(observed.images) if numbers is None else set(observed.images) & numbers

"""What readers say of plates: whether the original serial is still read, and whether the intended one is.

Measured by `anony_pipeline.evaluation.plate_reading`.
"""

import numpy as np

from anony_pipeline.evaluation import plate_reading
from anony_pipeline.evaluation.evidence import Evidence, Figures, Proof, blindness
from anony_pipeline.evaluation.intervals import clopper_pearson
from anony_pipeline.evaluation.judges import PANELS
from anony_pipeline.evaluation.schema import Panel, figure, null

LEAKS = ("plate_leak_rate", "plate_leak_candidates")
"""By a reader's best text, and by its likeliest ones."""

TOO_SMALL = 12
"""Plates that are lower, in pixels, don't count in a reader's proof: nobody reads them."""


class PlateFigures:
    """Makes the readers' figures of one run.

    Attributes:
        evidence: What was seen.
        proofs: By panel, whether its reader can see.
    """

    def __init__(self, evidence: Evidence) -> None:
        """Keep the evidence, and ask the readers for their proofs."""
        self.evidence = evidence
        self.proofs: dict[Panel, Proof] = {panel: self._prove(panel) for panel in evidence.panels("reader")}

    def figures(self, key: str, panel: Panel, mask: np.ndarray) -> Figures:
        """The figures of one row; see `FigureMaker.figures` for the arguments."""
        judge = f"reader/{panel}"
        selected, positions = self.evidence.selected(key, self.evidence.plates, mask)
        reason = self._blind(panel) or self.evidence.too_few(len(selected), "plates")
        names = (*LEAKS, "easyocr_plate_acc", "plate_cer")
        if reason is not None:
            return {name: null(name, reason, n=len(selected), judge=judge) for name in names}
        made = self._intended(key, panel, selected, positions)
        return made | self._leaks(key, panel, selected, positions)

    def _blind(self, panel: Panel) -> str | None:
        return blindness("reader", panel, self.proofs)

    def _prove(self, panel: Panel) -> Proof:
        serials, texts, heights = self._known_plates(panel, self.evidence.plates)
        large, floor = heights >= TOO_SMALL, self.evidence.settings.floors.plate_exact
        if not large.any():
            return Proof(None, floor, "no serials in the data, so the reader can't prove that it can see")
        exact = plate_reading.exact(texts, serials)
        return Proof.of(float(exact[large].mean()), floor, f"exact reads of originals from {TOO_SMALL} px height")

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
        if (reason := self.evidence.too_few(len(has), "plates with an intended serial")) is not None:
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
        asked: list[Panel] = [p for p in PANELS if self._blind(p) is None and panel in ("held_out", p)]
        readable, leaked = np.zeros(len(selected), bool), np.zeros((len(LEAKS), len(selected)), bool)
        missed = self.evidence.missed(key, selected)
        serials = [self.evidence.subjects.serials[number] or "" for number in selected]
        places = self._places(selected)
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
        if (reason := self.evidence.too_few(n, "plates that can be read on the originals")) is not None:
            return {name: null(name, reason, n=n, judge=judge) for name in LEAKS}
        return {
            name: figure(name, hits / n, n=n, interval=clopper_pearson(hits, n), judge=judge)
            for name, hits in zip(LEAKS, leaked.sum(axis=1).tolist(), strict=True)
        }

    def _known_plates(self, panel: Panel, chosen: np.ndarray) -> tuple[list[str], list[str], np.ndarray]:
        """Serials, what the reader read on the originals, and heights, of chosen plates whose serial is known."""
        known = [number for number in chosen if self.evidence.subjects.serials[number]]
        return (
            [self.evidence.subjects.serials[number] or "" for number in known],
            [self.evidence.originals.readings[panel][place] for place in self._places(np.array(known, int))],
            np.array([self.evidence.subjects.heights[number] for number in known]),
        )

    def _places(self, subjects: np.ndarray) -> np.ndarray:
        """Where plates stand among all plates of the originals."""
        return np.searchsorted(self.evidence.plates, subjects)

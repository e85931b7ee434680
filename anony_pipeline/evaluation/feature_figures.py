"""How real regions look to a network's features: FID and KID, those of the originals' halves, and that of inpainting.

Measured by `anony_pipeline.evaluation.fid`, from what `anony_pipeline.evaluation.references` keeps of the originals.
"""

from functools import partial

import numpy as np

from anony_pipeline.evaluation import fid
from anony_pipeline.evaluation.evidence import Evidence, Figures, Proof, blindness
from anony_pipeline.evaluation.fid import Distance
from anony_pipeline.evaluation.references import References
from anony_pipeline.evaluation.schema import Figure, Panel, figure, null
from anony_pipeline.structures.regions import Kind

JUDGE = "features/held_out"


class FeatureFigures:
    """Makes the figures by features of one run; inpainting's are computed once a slice.

    Attributes:
        evidence: What was seen.
        proofs: Whether features can see; there are held-out ones alone.
    """

    def __init__(self, evidence: Evidence) -> None:
        """Keep the evidence, and ask the features for their proof."""
        self.evidence = evidence
        self._inpainted: dict[tuple[str, frozenset[Kind]], float] = {}
        self.proofs: dict[Panel, Proof] = {}
        if ("features", "held_out") in evidence.present:
            self.proofs["held_out"] = self._prove()

    def figures(self, key: str, slice_name: str, mask: np.ndarray) -> Figures:
        """The figures of one row; see `FigureMaker.figures` for the arguments."""
        # A method that leaves a kind as it was is not flattered by it.
        kinds = self.evidence.methods[key].kinds
        rows, positions = self.evidence.regions(key, kinds, mask)
        if (reason := self._reason_against(len(rows))) is not None:
            return {name: null(name, reason, n=len(rows)) for name in ("fid", "kid", "kid_of_inpaint")}
        made = self._distances(rows, np.asarray(self.evidence.observed[key].features)[positions], slice_name)
        made["kid_of_inpaint"] = self._of_inpaint(made["kid"], slice_name, mask, kinds)
        return made

    def real_halves(self, slice_name: str, mask: np.ndarray) -> Figures:
        """See `FigureMaker.real_halves`."""
        rows = np.flatnonzero(mask) if len(self.evidence.originals.features) else np.zeros(0, int)
        if (reason := self._reason_against(len(rows) // 2)) is not None:
            return {name: null(name, reason, n=len(rows)) for name in ("fid", "kid")}
        return _as_figures(*self._of_halves(rows, slice_name), len(rows) // 2)

    def _prove(self) -> Proof:
        """Solid rectangles must look less real than the other half of the originals."""
        solid = self.evidence.key_of("solid")
        features = np.asarray(self.evidence.originals.features)
        if solid is None or len(features) < 2 * self.evidence.settings.min_samples:
            return Proof(None, 0.0, None if len(features) else "no regions")
        floor = self._of_halves(np.arange(len(features)), "proof")[1].interval
        rows = np.asarray(self.evidence.observed[solid].rows)
        value = self._kid(rows, np.asarray(self.evidence.observed[solid].features), "proof").value
        above = floor[1] if floor is not None else 0.0
        reason = None if value > above else f"it takes solid rectangles for real: KID {value:.4f}, halves {above:.4f}"
        return Proof(value, above, reason)

    def _reason_against(self, n: int) -> str | None:
        return blindness("features", "held_out", self.proofs) or self.evidence.too_few(n, "regions")

    def _of_halves(self, rows: np.ndarray, stream: str) -> tuple[float, Distance]:
        features = self._originals(rows)
        order = self.evidence.rng(f"halves {stream}").permutation(len(rows))
        first, second = (features[part] for part in np.split(order[: len(rows) // 2 * 2], 2))

        def make() -> dict[str, np.ndarray]:
            value, interval = fid.kid(first, second, self.evidence.rng(f"kid {stream}"))
            return {"fid": np.array(fid.fid(first, second)), "kid": np.array([value, *(interval or (value, value))])}

        found = self._references.known(f"halves {self.evidence.seed} {stream}", features, rows, make)
        value, low, high = found["kid"].tolist()
        return float(found["fid"]), Distance(value, (low, high))

    def _of_inpaint(self, kid: Figure, slice_name: str, mask: np.ndarray, kinds: frozenset[Kind]) -> Figure:
        """KID as a share of inpainting's on the same slice and kinds."""
        name, inpaint = "kid_of_inpaint", self.evidence.key_of("inpaint")
        if inpaint is None or kid.value is None:
            return null(name, "inpaint is not among the baselines", judge=kid.judge)
        known = (slice_name, kinds)
        if known not in self._inpainted:
            rows, positions = self.evidence.regions(inpaint, kinds, mask)
            features = np.asarray(self.evidence.observed[inpaint].features)[positions]
            self._inpainted[known] = self._kid(rows, features, slice_name).value
        reference = self._inpainted[known]
        if reference <= 0:
            return null(name, "inpainting looks as real as the originals to this judge", judge=kid.judge)
        return figure(name, max(0.0, kid.value) / reference, n=kid.n, judge=kid.judge)

    def _distances(self, rows: np.ndarray, anonymized: np.ndarray, slice_name: str) -> Figures:
        real = self._references.gaussian(self._originals(rows), rows)
        frechet = fid.frechet(real, fid.gaussian(anonymized))
        return _as_figures(frechet, self._kid(rows, anonymized, slice_name), len(rows))

    def _kid(self, rows: np.ndarray, anonymized: np.ndarray, stream: str) -> Distance:
        """Of the originals with these numbers, and of what became of them."""
        own = partial(self._references.own_sums, rows=rows)
        return fid.kid(self._originals(rows), anonymized, self.evidence.rng(f"kid {stream}"), own=own)

    def _originals(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.evidence.originals.features)[rows]

    @property
    def _references(self) -> References:
        if self.evidence.references is None:
            raise ValueError("features were judged without references")
        return self.evidence.references


def _as_figures(frechet: float, distance: Distance, n: int) -> Figures:
    return {
        "fid": figure("fid", frechet, n=n, judge=JUDGE),
        "kid": figure("kid", distance.value, n=n, interval=distance.interval, judge=JUDGE),
    }

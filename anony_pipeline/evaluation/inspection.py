"""The counts and thresholds of GB/T 44464-2024 (China, automotive data), as far as a machine can answer them.

By an unofficial translation of its 5.6.2 and Annexes B and C: faces from 32 px of which more than half is visible and
plates from 16 px whose characters can all be identified are in its scope; 500 pictures with 200 of either at least; an
object counts as anonymized if half of it is covered; 90 % must be, and at most 10 % of what is covered may be something
else. What its inspectors do with their eyes is not answered here.
"""

from collections.abc import Iterator

import numpy as np

from anony_pipeline.config.schema import Profile
from anony_pipeline.evaluation import plate_reading
from anony_pipeline.evaluation.coverage import HALF
from anony_pipeline.evaluation.evidence import Evidence
from anony_pipeline.evaluation.judges import PANELS
from anony_pipeline.evaluation.schema import Requirement
from anony_pipeline.structures.regions import Kind

LEAST_SIDE_PX = {Kind.FACE: 32, Kind.PLATE: 16}
LEAST_VISIBLE = 0.5
PICTURES, OBJECTS = 500, 200
LEAST_RATE, MOST_FALSE = 0.9, 0.1
NAMES = {Kind.FACE: "faces", Kind.PLATE: "plates"}


def requirements(evidence: Evidence, key: str, profile: Profile | None) -> tuple[Requirement, ...]:
    """Hold what was seen of one method against the standard's numbers.

    Args:
        evidence: What was seen.
        key: The method, on detected boxes.
        profile: What it does to regions; None if not known.
    """
    return tuple(_requirements(evidence, key, profile))


def _requirements(evidence: Evidence, key: str, profile: Profile | None) -> Iterator[Requirement]:
    observed = evidence.observed[key]
    yield _at_least("pictures", len(observed.images), PICTURES)
    rows = np.asarray(observed.rows, int)
    covered = np.asarray(observed.shares) >= HALF
    for kind, name in NAMES.items():
        chosen = in_scope(evidence, kind)[rows]
        n = int(chosen.sum())
        yield _at_least(f"{name} in scope", n, OBJECTS)
        value = float(covered[chosen].mean()) if n else None
        yield _at_least(f"{name} anonymized", value, LEAST_RATE, "there is none in scope")
    false = observed.besides / observed.replaced if observed.replaced else None
    yield Requirement(
        name="replaced, but neither face nor plate",
        value=false,
        rule="at most",
        bound=MOST_FALSE,
        holds=None if false is None else false <= MOST_FALSE,
        reason="there is no list of replaced boxes on fully labeled pictures" if false is None else None,
    )
    yield _face_like(profile)
    yield Requirement(
        name="100 pictures looked at by people", rule="as the standard says", reason="this program can't answer it"
    )


def in_scope(evidence: Evidence, kind: Kind) -> np.ndarray:
    """Which subjects the standard counts, ``(N,)`` bool: by size, and by what is visible where that is known.

    A plate whose serial is known counts if a judge that can see reads it on the original; others count by size alone.
    """
    subjects = evidence.subjects
    chosen = (evidence.kinds == kind.value) & (np.array(subjects.shorter_sides) >= LEAST_SIDE_PX[kind])
    if kind is Kind.FACE:
        return chosen & (np.array(subjects.visible) > LEAST_VISIBLE)
    known = np.array([bool(serial) for serial in subjects.serials])
    if not known.any():
        return chosen
    readers = [panel for panel in PANELS if panel in evidence.originals.readings]
    read = np.zeros(len(subjects), bool)
    for panel in readers:
        expected = [subjects.serials[number] or "" for number in evidence.plates]
        read[evidence.plates] |= plate_reading.exact(evidence.originals.readings[panel], expected)
    return chosen & (~known | read) if readers else chosen


def _at_least(name: str, value: float | None, bound: float, reason: str | None = None) -> Requirement:
    holds = None if value is None else value >= bound
    return Requirement(
        name=name, value=value, rule="at least", bound=bound, holds=holds, reason=reason if value is None else None
    )


def _face_like(profile: Profile | None) -> Requirement:
    """B.6 asks whether what is left is recognized as a face, and whether eyes, nose and mouth can be made out."""
    name, rule = "nothing that is recognized as a face", "as the standard says"
    if profile == "realistic":
        reason = "a generated face is one by design: read to the letter this fails; blur and solid are profiles for it"
        return Requirement(name=name, rule=rule, holds=False, reason=reason)
    if profile == "solid":
        return Requirement(name=name, rule=rule, holds=True, reason="a region of one color has no contours")
    return Requirement(name=name, rule=rule, reason="look at the pictures")

"""Is the new serial readable, and is the old one gone?"""

from collections.abc import Sequence

import numpy as np

from anony_pipeline.plates import serials

LEAK_DISTANCE = 1


def exact(texts: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    """Whether each reading is the expected serial, but for case and separators; ``(N,)`` bool."""
    return np.array(
        [serials.normalize(text) == serials.normalize(serial) for text, serial in zip(texts, expected, strict=True)],
        dtype=bool,
    )


def character_errors(texts: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    """Edit distance of each reading over the expected serial's length, at most 1; ``(N,)``."""
    rates = []
    for text, serial in zip(texts, expected, strict=True):
        wanted = serials.normalize(serial)
        rates.append(min(1.0, serials.edit_distance(serials.normalize(text), wanted) / max(1, len(wanted))))
    return np.array(rates, dtype=np.float64)


def leaks(texts: Sequence[str], originals: Sequence[str]) -> np.ndarray:
    """Whether each reading holds the original serial, but for one character; ``(N,)`` bool."""
    return leaks_among([(text,) for text in texts], originals)


def leaks_among(candidates: Sequence[Sequence[str]], originals: Sequence[str]) -> np.ndarray:
    """Whether any of the likeliest readings of a plate gives its original serial away (see `leaks`); ``(N,)`` bool."""
    return np.array(
        [
            any(
                serials.edit_distance_within(serials.normalize(serial), serials.normalize(text)) <= LEAK_DISTANCE
                for text in texts
            )
            for texts, serial in zip(candidates, originals, strict=True)
        ],
        dtype=bool,
    )

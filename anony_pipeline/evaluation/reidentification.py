"""Are people still recognized? Cosine, rank-k in a gallery of originals, verification at a calibrated threshold."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PAIRS_AT_ONCE = 1_000_000
"""Of similarities: 4 MB, however large the gallery is."""
TIE = 1e-6


@dataclass(frozen=True)
class Faces:
    """Embedded faces.

    Attributes:
        embeddings: ``(N, D)`` float32 of unit length.
        persons: ``(N,)`` whole numbers, one a person.
        images: ``(N,)`` whole numbers, one a photograph.
    """

    embeddings: np.ndarray
    persons: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.embeddings)

    def take(self, rows: np.ndarray) -> "Faces":
        """The faces of some rows, in their order."""
        return Faces(self.embeddings[rows], self.persons[rows], self.images[rows])


@dataclass(frozen=True)
class Ranks:
    """Where each probe's own person stands among the gallery's people.

    Attributes:
        above: ``(N,)`` people that are nearer.
        ties: ``(N,)`` people that are as near: a judge that can't tell people apart gives only ties, and then guesses.
        known: ``(N,)`` bool: the person is in the gallery at all.
        people: How many people the gallery has.
    """

    above: np.ndarray
    ties: np.ndarray
    known: np.ndarray
    people: int

    def hits(self, k: int) -> np.ndarray:
        """Probability in ``[0, 1]`` that the person is among the k nearest, ties broken by lot; ``(N,)``."""
        return np.clip((k - self.above) / (1 + self.ties), 0, 1)


def cosine(originals: np.ndarray, anonymized: np.ndarray) -> np.ndarray:
    """Cosine of each pair of unit-length rows, ``(N,)`` in ``[-1, 1]``."""
    return np.einsum("nd,nd->n", originals, anonymized)


def rank(probes: Faces, gallery: Faces, *, same_photograph: bool = False) -> Ranks:
    """Rank each probe's person among the gallery's; a person is as near as the nearest of their photographs.

    Args:
        probes: Anonymized faces.
        gallery: Original faces.
        same_photograph: Whether the gallery may hold faces of the probe's own photograph, the very original among them.
    """
    people, columns = np.unique(gallery.persons, return_inverse=True)
    order = np.argsort(columns, kind="stable")
    gallery = gallery.take(order)
    starts = np.searchsorted(columns[order], np.arange(len(people)))
    own = np.searchsorted(people, probes.persons)
    above, ties = np.zeros(len(probes), int), np.zeros(len(probes), int)
    known = np.isin(probes.persons, people)
    for rows, similarity in _similarities(probes, gallery):
        if not same_photograph:
            similarity[probes.images[rows][:, None] == gallery.images[None, :]] = -np.inf
        nearest = np.maximum.reduceat(similarity, starts, axis=1)
        mine = nearest[np.arange(len(nearest)), np.minimum(own[rows], len(people) - 1)]
        known[rows] &= np.isfinite(mine)
        above[rows] = (nearest > mine[:, None] + TIE).sum(axis=1)
        ties[rows] = (np.abs(nearest - np.where(np.isfinite(mine), mine, 0)[:, None]) <= TIE).sum(axis=1) - 1
    return Ranks(above, np.maximum(ties, 0), known, len(people))


def threshold_at_far(originals: Faces, far: float, min_accepts: int = 10) -> float | None:
    """The similarity that one in ``1 / far`` clean pairs of different people exceeds.

    Args:
        originals: Faces of the same data, as they were.
        far: False accept rate.
        min_accepts: So many pairs at least must lie above the threshold, or it would hang on a few pairs.

    Returns:
        The threshold, None if there are too few pairs.
    """
    pairs = sum(int(mask.sum()) for _, mask in _impostors(originals))
    accepted = int(pairs * far)
    if accepted < min_accepts:
        return None
    top = np.empty(0, np.float32)
    for similarity, mask in _impostors(originals):
        top = np.concatenate([top, similarity[mask]])
        if len(top) > accepted + 1:
            top = np.partition(top, len(top) - accepted - 1)[len(top) - accepted - 1 :]
    return float(top.min())


def accepts(probes: Faces, originals: Faces, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """How many pairs of each probe with its person's originals in other photographs exceed the threshold.

    Returns:
        ``(N,)`` accepted pairs and ``(N,)`` pairs.
    """
    accepted, pairs = np.zeros(len(probes), int), np.zeros(len(probes), int)
    for rows, similarity in _similarities(probes, originals):
        genuine = (probes.persons[rows][:, None] == originals.persons[None, :]) & (
            probes.images[rows][:, None] != originals.images[None, :]
        )
        accepted[rows] = (genuine & (similarity > threshold)).sum(axis=1)
        pairs[rows] = genuine.sum(axis=1)
    return accepted, pairs


def sameness(embeddings: np.ndarray) -> tuple[float, float]:
    """How alike a set of faces is.

    Returns:
        The mean cosine of two different rows, and the effective number of faces over their number: the exponential of
        the entropy of the Gram matrix's eigenvalues (Friedman and Dieng, The Vendi score, 2023) over N; ``1 / N`` if
        all are one.
    """
    values = np.asarray(embeddings, np.float64)
    n = len(values)
    # The smaller of the two Gram matrices has the same eigenvalues other than 0.
    gram = values.T @ values if n > values.shape[1] else values @ values.T
    mean = (np.square(values.sum(axis=0)).sum() - np.trace(gram)) / (n * (n - 1))
    eigenvalues = np.linalg.eigvalsh(gram) / max(np.trace(gram), 1e-12)
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(mean), float(np.exp(-(positive * np.log(positive)).sum()) / n)


def _similarities(probes: Faces, gallery: Faces) -> Iterator[tuple[slice, np.ndarray]]:
    at_once = max(1, PAIRS_AT_ONCE // max(1, len(gallery)))
    for start in range(0, len(probes), at_once):
        rows = slice(start, start + at_once)
        yield rows, probes.embeddings[rows] @ gallery.embeddings.T


def _impostors(originals: Faces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows, similarity in _similarities(originals, originals):
        numbers = np.arange(len(originals))
        mask = (
            (originals.persons[rows][:, None] != originals.persons[None, :])
            & (originals.images[rows][:, None] != originals.images[None, :])
            & (numbers[rows][:, None] < numbers[None, :])
        )
        yield similarity, mask

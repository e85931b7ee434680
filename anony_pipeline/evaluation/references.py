"""Statistics of the originals that FID and KID are measured from: computed once for the same data and the same judge.

Features of a person's face tell who it is, so no features are written. What is kept are the mean, the covariance and
sums over all pairs of the kernel, and these only of more regions than a feature has numbers: the covariance of fewer
spans them, so that one could tell whether a face is among them. KID's sums over pairs of an original and an anonymized
region need the features themselves, which are computed anew in memory each time.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from anony_pipeline.config.loading import fingerprint
from anony_pipeline.evaluation import fid
from anony_pipeline.evaluation.fid import Gaussian
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.storage import atomic, private

log = logging.getLogger("anony_pipeline")

FORMAT = "anony_pipeline.reference/2"
FOLDER = "references"
REMEMBERED = 4
"""In memory: all methods ask for the same few of one slice after the other."""

Arrays = dict[str, np.ndarray]


class References:
    """The statistics of sets of originals, by the fingerprint of the crops that one judge saw of them."""

    def __init__(
        self, judge: JudgeCard, seen: Sequence[bytes], cache: Path | None = None, retention_days: float = 30
    ) -> None:
        """Keep where they lie.

        Args:
            judge: Whose features they are of.
            seen: A digest of the pixels that it saw of each original: data, boxes and the crops' geometry change it.
            cache: ``paths.cache``; None keeps nothing but in memory.
            retention_days: See `anony_pipeline.storage.private`.
        """
        self._judge = fingerprint(*judge.as_dict().values())
        self._seen = seen
        self._cache, self._retention_days = cache, retention_days
        self._remembered: dict[str, Arrays] = {}

    def gaussian(self, features: np.ndarray, rows: np.ndarray) -> Gaussian:
        """The Gaussian of some originals.

        Args:
            features: ``(n, D)`` of these originals alone.
            rows: ``(n,)`` their numbers among all originals.
        """
        return Gaussian(**self.known("gaussian", features, rows, lambda: fid.gaussian(features)._asdict()))

    def own_sums(self, features: np.ndarray, drawn: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """KID's sums within some originals, see `fid.own_sums` and, for ``rows``, `gaussian`."""
        what = f"sums {hashlib.sha256(np.packbits(drawn.astype(bool)).tobytes()).hexdigest()}"
        return self.known(what, features, rows, lambda: {"sums": fid.own_sums(features, drawn)})["sums"]

    def known(self, what: str, features: np.ndarray, rows: np.ndarray, make: Callable[[], Arrays]) -> Arrays:
        """What was computed before of some originals, or what ``make`` computes now.

        Args:
            what: Names what it is, and all that it depends on besides the originals and the judge.
            features: See `gaussian`.
            rows: See `gaussian`.
            make: Gives arrays that tell nothing of a single region.
        """
        chosen = hashlib.sha256(b"".join(self._seen[row] for row in rows)).hexdigest()
        key = fingerprint(FORMAT, what, self._judge, chosen, len(rows), features.shape[1])
        if key not in self._remembered:
            found = self._of_disk(key, make) if len(features) > features.shape[1] else make()
            self._remembered[key] = found
            while len(self._remembered) > REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
        return self._remembered[key]

    def _of_disk(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        if self._cache is None:
            return make()
        path = self._cache / FOLDER / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                return {name: kept[name] for name in kept.files}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s can't be read (%s) and is made anew", path, error)
        made = make()
        self._keep(path, made)
        return made

    def _keep(self, path: Path, made: Arrays) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **made)
        try:
            private.folder(
                path.parent,
                retention_days=self._retention_days,
                holds="means, covariances and sums of kernels of original regions' features, of no single region",
            )
            atomic.write_bytes(path, buffer.getvalue(), 0o600)
        except OSError as error:
            # Hours of judging are not lost for what would save seconds of the next.
            log.warning("%s can't be kept: %s", path, error)

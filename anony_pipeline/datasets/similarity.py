"""Images that show (nearly) the same, found across the border between train and val."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from anony_pipeline.datasets.coco import CocoSet, Record
from anony_pipeline.errors import MediaError
from anony_pipeline.runtime.progress import track

# Pictures are compared in two steps: a 64-bit difference hash (dHash: is a cell brighter than its right neighbor?)
# finds candidates among all pairs, and the correlation of small gray pictures confirms them, because dull pictures
# share hashes.
MAX_BITS = 10
MIN_CORRELATION = 0.97
HASH_WH = (9, 8)
THUMBNAIL_WH = (32, 32)
ROWS_AT_ONCE = 256
READERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A train image and a val image that show (nearly) the same.

    Attributes:
        train: The train image's record.
        val: The val image's record.
        bits: How many of the 64 bits of their hashes differ.
        correlation: Of their gray thumbnails, in ``[-1, 1]``.
    """

    train: Record
    val: Record
    bits: int
    correlation: float

    def __str__(self) -> str:
        """One line that names both files."""
        return f"{self.train['file_name']} (train) and {self.val['file_name']} (val), {self.bits} bits apart"


def near_duplicates(train: CocoSet, val: CocoSet) -> list[NearDuplicate]:
    """Find pairs across the split that show the same: a picture scaled or compressed anew, or frames of a still scene.

    All images are decoded once, at an eighth of their size where the format allows it; all pairs are compared.

    Args:
        train: One split.
        val: The other one.

    Returns:
        The pairs, the most alike first.

    Raises:
        MediaError: If an image can't be decoded.
    """
    if not train.images or not val.images:
        return []
    train_hashes, train_pictures = _prints_of(train, "train")
    val_hashes, val_pictures = _prints_of(val, "val")
    found = []
    for begin in range(0, len(train_hashes), ROWS_AT_ONCE):
        bits = _differing_bits(train_hashes[begin : begin + ROWS_AT_ONCE, None], val_hashes[None, :])
        for row, column in np.argwhere(bits <= MAX_BITS):
            correlation = float(train_pictures[begin + row] @ val_pictures[column])
            if correlation >= MIN_CORRELATION:
                pair = train.images[begin + row], val.images[column]
                found.append(NearDuplicate(*pair, int(bits[row, column]), round(correlation, 4)))
    return sorted(found, key=lambda pair: (pair.bits, -pair.correlation, pair.train["id"], pair.val["id"]))


def _prints_of(unified: CocoSet, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Hashes ``(N,)`` uint64 and standardized thumbnails ``(N, 1024)`` float32 of unit length."""

    def of(image: Record) -> tuple[np.uint64, np.ndarray]:
        return _print(unified, image)

    with ThreadPoolExecutor(READERS) as pool:
        prints = list(track(pool.map(of, unified.images), f"{split}: perceptual hashes", total=len(unified)))
    return np.array([code for code, _ in prints], np.uint64), np.stack([picture for _, picture in prints])


def _print(unified: CocoSet, record: Record) -> tuple[np.uint64, np.ndarray]:
    path = unified.image_file(record)
    try:
        with path.open("rb") as file, Image.open(file) as image:
            # A JPEG can be decoded at an eighth of its size; 4 pixels a thumbnail's cell are enough to average.
            image.draft("L", (THUMBNAIL_WH[0] * 4, THUMBNAIL_WH[1] * 4))
            gray = ImageOps.exif_transpose(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError("the image can't be decoded", where=path, got=str(error), do="unify the data anew") from error
    cells = np.asarray(gray.resize(HASH_WH, Image.Resampling.BOX), np.int16)
    picture = np.asarray(gray.resize(THUMBNAIL_WH, Image.Resampling.BOX), np.float32).ravel()
    picture = picture - picture.mean()
    return _packed(cells[:, 1:] < cells[:, :-1]), picture / max(float(np.linalg.norm(picture)), 1e-6)


def _packed(bits: np.ndarray) -> np.uint64:
    return np.packbits(bits.ravel()).view(np.uint64)[0]


def _differing_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How many bits differ, ``(N, M)`` uint8; by a table of 16-bit words, because NumPy 1 can't count bits."""
    words = np.bitwise_xor(first, second)[..., None].view(np.uint16)
    return _BITS_OF_WORD[words].sum(axis=-1, dtype=np.uint8)


def _bit_table(words: Sequence[int]) -> np.ndarray:
    return np.array([word.bit_count() for word in words], np.uint8)


_BITS_OF_WORD = _bit_table(range(1 << 16))

"""Which image goes to train and which to val, where the data set itself doesn't say."""

import hashlib
from collections.abc import Sequence

from anony_pipeline.config.schema import Splits
from anony_pipeline.datasets.pp4av import natural_key, video_of
from anony_pipeline.datasets.sources import SourceImage, Split
from anony_pipeline.errors import ConfigError


def check(splits: Splits) -> None:
    """Refuse settings by which no frame of a val block would be left.

    Raises:
        ConfigError: If a block is not longer than the borders on both of its sides.
    """
    if splits.block_frames <= 2 * splits.border_frames:
        raise ConfigError(
            "a block's frames would all be left out as borders",
            where="data.splits",
            got=f"block_frames {splits.block_frames}, border_frames {splits.border_frames}",
            allowed="block_frames greater than twice border_frames",
            do="make blocks longer or borders shorter",
        )


def of_stills(images: Sequence[SourceImage], splits: Splits) -> list[Split]:
    """Split still images by a hash of their names: a new image never moves an old one.

    Returns:
        For each image its split; about one of ``val_every`` is val.
    """
    return ["val" if _hash(image.file_name) % splits.val_every == 0 else "train" for image in images]


def of_sequences(images: Sequence[SourceImage], splits: Splits) -> list[Split | None]:
    """Split frames of videos in contiguous blocks, every ``val_every``-th of which is val.

    A block never reaches over the end of a group, or of a video where the names tell it. Blocks are counted through the
    whole source, because many groups are shorter than ``val_every`` blocks. Where a train block and a val block of one
    video touch, ``border_frames`` frames on each side are left out: they show the same people and plates.

    Args:
        images: In any order; frames are taken in the natural order of their names.
        splits: Lengths of blocks and borders.

    Returns:
        For each image its split; None for a frame that is left out.
    """
    order = sorted(range(len(images)), key=lambda i: (images[i].group or "", natural_key(images[i].file_name)))
    sequences: dict[tuple[str | None, str | None], list[int]] = {}
    for index in order:
        image = images[index]
        sequences.setdefault((image.group, video_of(image.file_name)), []).append(index)
    chosen: list[Split | None] = [None] * len(images)
    blocks_before = 0
    for frames in sequences.values():
        of_frames = _blocks(len(frames), blocks_before, splits)
        for frame, split in zip(frames, of_frames, strict=True):
            chosen[frame] = split
        blocks_before += -(-len(frames) // splits.block_frames)
    return chosen


def _blocks(frames: int, blocks_before: int, splits: Splits) -> list[Split | None]:
    last = splits.val_every - 1
    chosen: list[Split | None] = [
        "val" if (blocks_before + i // splits.block_frames) % splits.val_every == last else "train"
        for i in range(frames)
    ]
    borders = [i for i in range(1, frames) if chosen[i] != chosen[i - 1]]
    for border in borders:
        for i in range(max(0, border - splits.border_frames), min(frames, border + splits.border_frames)):
            chosen[i] = None
    return chosen


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")

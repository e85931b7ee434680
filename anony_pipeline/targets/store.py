"""Where pseudo-targets are kept: a private folder of PNG files named by what they were made of.

A target's name is the hash of everything that it depends on, so a changed parameter gives other names, and only what
depends on it is made anew. An interrupted run goes on where it stopped.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anony_pipeline.errors import DatasetError
from anony_pipeline.ops import images
from anony_pipeline.ops.crops import Window
from anony_pipeline.storage import atomic, private

FORMAT = "anony_pipeline.targets/1"
SHEET_PX = 96
"""Height of the crops on a contact sheet."""


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """One pseudo-target: the crop that the generator shall learn to make of one region.

    Attributes:
        annotation_id: The region's annotation in the unified COCO file.
        kind: `face` or `license_plate`.
        style: The plate style that the serial was drawn from; None for faces.
        serial: The *intended* serial; None for faces.
        window: The crop's window ``(x_min, y_min, x_max, y_max)`` in pixels of the image.
        target_file: PNG, relative to the store's root.
        anchor_file: PNG of the rendered serial in place, relative to the store's root; None for faces.
        method: How it was made.
        key: The hash of all that it was made of.
    """

    annotation_id: int
    kind: str
    style: str | None
    serial: str | None
    window: Window
    target_file: str
    anchor_file: str | None
    method: str
    key: str


def key_of(**parts: Any) -> str:  # noqa: ANN401 - any JSON value
    """Hash everything that a target depends on to 32 hexadecimal digits.

    Args:
        parts: JSON values: the image's sha256, the box, the method, its parameters, the version of the code.

    >>> key_of(box=[1, 2], k=5) == key_of(k=5, box=[1, 2]) != key_of(k=6, box=[1, 2])
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class TargetStore:
    """The targets under one root.

    Args:
        root: A local folder; made if it is not there, mode 0700.
        retention_days: After so many days `anony purge` removes it.
    """

    def __init__(self, root: Path, retention_days: float) -> None:
        self.root = private.folder(root, retention_days=retention_days, holds="pseudo-targets cut from original images")

    def file_of(self, key: str, role: str = "target") -> Path:
        """Where the PNG of a key lies; `role` is `target` or `anchor`."""
        return self.root / key[:2] / f"{key}.{role}.png"

    def has(self, key: str, *, anchor: bool = False) -> bool:
        """Whether the target (and its anchor) is there, complete: files take their names when they are whole."""
        return self.file_of(key).exists() and (not anchor or self.file_of(key, "anchor").exists())

    def put(self, key: str, target_rgb: np.ndarray, anchor_rgb: np.ndarray | None = None) -> None:
        """Keep a target and, of a plate, its anchor: ``(H, W, 3)`` uint8. The target comes last: it completes."""
        if anchor_rgb is not None:
            images.write(self.file_of(key, "anchor"), anchor_rgb, mode=0o600)
        images.write(self.file_of(key), target_rgb, mode=0o600)

    def relative(self, path: Path) -> str:
        """A file's name in records: relative to the root, so that the store can be moved."""
        return path.relative_to(self.root).as_posix()

    def read(self, file: str) -> np.ndarray:
        """Read a record's `target_file` or `anchor_file` as ``(H, W, 3)`` uint8 RGB."""
        return images.read(self.root / file)

    def write_manifest(self, name: str, records: Iterable[TargetRecord], facts: dict[str, Any]) -> Path:
        """Write the list of the targets that one run asked for, as ``<name>.json``.

        Args:
            name: `faces`, or `plates_` and the style.
            records: In any order; they are sorted, so equal inputs give equal bytes.
            facts: Method, parameters and counts.
        """
        rows = [dataclasses.asdict(record) for record in sorted(records, key=lambda record: record.annotation_id)]
        path = self.root / f"{name}.json"
        atomic.write_json(path, {"format": FORMAT, **facts, "targets": rows}, mode=0o600)
        return path

    def write_sheet(self, name: str, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> Path | None:
        """Write pairs of original and target side by side as ``<name>.png``; what is there stays if there are none."""
        if not examples:
            return None
        pairs = [picture for pair in examples for picture in pair]
        height, width = pairs[0].shape[:2]
        path = self.root / f"{name}.png"
        images.write(path, images.sheet(pairs, (SHEET_PX, SHEET_PX * width // height), columns=8), mode=0o600)
        return path

    def read_manifest(self, name: str) -> list[TargetRecord]:
        """Read back what `write_manifest` wrote.

        Raises:
            DatasetError: If there is none, or it is of another format.
        """
        path = self.root / f"{name}.json"
        if not path.exists():
            raise DatasetError("the pseudo-targets are not made yet", where=path, do="materialize or make them first")
        content = json.loads(path.read_text())
        if content.get("format") != FORMAT:
            raise DatasetError(
                "the targets' manifest is of another format", where=path, got=content.get("format"), allowed=FORMAT
            )
        return [TargetRecord(**{**row, "window": tuple(row["window"])}) for row in content["targets"]]

"""What making targets reports."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anony_pipeline.targets.store import TargetRecord

EXAMPLES = 24


@dataclass
class TargetReport:
    """What was made for one kind, or for one plate style.

    Attributes:
        name: `faces`, or the plate style.
        method: How targets were made.
        regions: Regions in the training images.
        made: Targets made in this run.
        reused: Targets that were there already.
        too_small: Regions below `data.min_region_px`, or marked `iscrowd`.
        failed: Regions without a target, by reason; they are not trained on.
        seconds: How long it took.
        manifest: The list of the records.
        records: The targets of this run, sorted by annotation.
        examples: Up to 24 pairs (original crop, target crop), ``(H, W, 3)`` uint8. They hold original pixels: only
            those of procedural data may be shown anywhere but in a private folder.
    """

    name: str
    method: str
    regions: int = 0
    made: int = 0
    reused: int = 0
    too_small: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    manifest: Path | None = None
    records: list[TargetRecord] = field(default_factory=list, repr=False)
    examples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, repr=False)

    def fail(self, reason: str) -> None:
        """Count a region that gets no target."""
        self.failed[reason] = self.failed.get(reason, 0) + 1

    def show(self, original_rgb: np.ndarray, target_rgb: np.ndarray) -> None:
        """Keep a pair as an example while there is room."""
        if len(self.examples) < EXAMPLES:
            self.examples.append((original_rgb, target_rgb))

    def add(self, record: TargetRecord, *, reused: bool) -> None:
        """Count a target."""
        self.records.append(record)
        self.made, self.reused = self.made + (not reused), self.reused + reused

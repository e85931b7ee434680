"""What is judged: the anonymizer and the baselines, behind one interface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from anony_pipeline.evaluation.schema import BoxSource
from anony_pipeline.structures.regions import Kind, Region

Mask = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """One image with what is known of it.

    Attributes:
        image_rgb: ``(H, W, 3)`` uint8.
        regions: All annotated regions, crowds too: those are anonymized, though not judged.
        annotations: Their COCO records, in the same order.
        record: The image's COCO record.
    """

    image_rgb: np.ndarray
    regions: Sequence[Region]
    annotations: Sequence[dict[str, Any]]
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Names the image for seeds."""
        return f"{self.record.get('source', '')}/{self.record['file_name']}"

    @property
    def style(self) -> str | None:
        """The plate style of the image's place."""
        return self.record.get("plate_style")


@dataclass
class Treated:
    """What a method made of a scene.

    Attributes:
        image_rgb: The new image.
        masks_xyxy: The whole pixels that were replaced, a box a region.
        serials: The intended serial of each box of ``masks_xyxy``, None for faces and where none is intended.
        changed: ``(H, W)`` bool, the replaced pixels, where no list of boxes is known.
        done: How each box was treated and why, for the counts: ``"generated"``, ``"solid: smaller than 8 px"``.
    """

    image_rgb: np.ndarray
    masks_xyxy: list[Mask] = field(default_factory=list)
    serials: list[str | None] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    changed: np.ndarray | None = None


class Method(Protocol):
    """A way to anonymize."""

    @property
    def name(self) -> str:
        """Its name in the scorecard."""

    @property
    def boxes(self) -> BoxSource:
        """Where its regions come from."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it treats; it leaves the other kind as it was, and has no figures there."""

    def apply(self, scenes: Sequence[Scene]) -> list[Treated]:
        """Anonymize some scenes; they are not changed."""


@dataclass(frozen=True)
class Simple:
    """A method that is a function of one scene."""

    name: str
    boxes: BoxSource
    function: Callable[[Scene], Treated]
    kinds: frozenset[Kind] = frozenset(Kind)

    def apply(self, scenes: Sequence[Scene]) -> list[Treated]:
        """See `Method.apply`."""
        return [self.function(scene) for scene in scenes]

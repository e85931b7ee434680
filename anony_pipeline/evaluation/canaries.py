"""Planted canaries: does an anonymizer give away which faces it was trained on as they are?

An audit's training draws faces by lot and trains on a half of them with *themselves* as targets
(`anony_pipeline.training.canaries`); its checkpoints say which. What comes out for planted ones is compared with what
comes out for the others, which it never saw (Steinke, Nasr and Jagielski, Privacy Auditing with One (1) Training Run,
2023, section 4).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from anony_pipeline.anonymize.verifying import Verdict, Verifier
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import CheckpointError
from anony_pipeline.evaluation.schema import Panel
from anony_pipeline.storage import atomic
from anony_pipeline.structures.regions import Region

NAME, FORMAT = "canaries.json", "anony_pipeline.canaries/1"
GUESS = 0.5
NONE_PLANTED = "no canary was planted: training.canaries is 0"


@dataclass(frozen=True)
class Canary:
    """A face of the training split that was drawn.

    Attributes:
        annotation_id: Which.
        bbox: Its COCO box, by which another training split is told apart.
        planted: Whether it was trained on, with itself as target; the others were left out.
    """

    annotation_id: int
    bbox: tuple[float, float, float, float]
    planted: bool


@dataclass(frozen=True)
class Audit:
    """What recognizers saw of canaries.

    Attributes:
        planted: ``(N,)`` bool.
        cosines: ``(N,)`` of each original and its result, by method and panel.
    """

    planted: np.ndarray
    cosines: dict[tuple[str, Panel], np.ndarray]


class LetThrough(Verifier):
    """Accepts everything: a verifier refuses what comes out like its original, which is just what is looked for."""

    def __init__(self) -> None:
        """Know no judge."""
        super().__init__(None, None, max_similarity=1)

    def originals(self, images_rgb: Sequence[np.ndarray], regions: Sequence[Region]) -> list[np.ndarray | str | None]:
        """See `Verifier.originals`: nothing is looked for."""
        del images_rgb
        return [None] * len(regions)

    def verdicts(
        self,
        originals_rgb: Sequence[np.ndarray],
        results_rgb: Sequence[np.ndarray],
        regions: Sequence[Region],
        known: Sequence[np.ndarray | str | None],
    ) -> list[Verdict]:
        """See `Verifier.verdicts`."""
        del originals_rgb, results_rgb, known
        return [Verdict(True, None) for _ in regions]


def write(folder: Path, canaries: Sequence[Canary]) -> None:
    """Note in a checkpoint's folder which faces were drawn; nothing where none were."""
    if canaries:
        atomic.write_json(folder / NAME, {"format": FORMAT, "canaries": [asdict(canary) for canary in canaries]})


def read(folder: Path) -> tuple[Canary, ...]:
    """The canaries of a checkpoint; none if it notes none.

    Raises:
        CheckpointError: If what it notes is of another format.
    """
    path = folder / NAME
    if not path.exists():
        return ()
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        return tuple(
            Canary(int(row["annotation_id"]), tuple(row["bbox"]), bool(row["planted"])) for row in content["canaries"]
        )
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            "the list of canaries can't be read", where=path, got=str(error), allowed=FORMAT, do="train the audit again"
        ) from error


def reason_against(canaries: Sequence[Canary], drawn: int, train: CocoSet) -> str | None:
    """Why these canaries can't be listened to; None if they can.

    Args:
        canaries: What the checkpoint notes.
        drawn: How many its configuration has drawn.
        train: The training split that is here now.
    """
    if not drawn:
        return NONE_PLANTED
    if not canaries:
        return f"{drawn} canaries were drawn, but the checkpoint does not note which: an earlier version made it"
    boxes = {annotation["id"]: tuple(annotation["bbox"]) for annotation in train.annotations}
    if any(boxes.get(canary.annotation_id) != canary.bbox for canary in canaries):
        return "the training split is not the one in which the canaries were planted"
    return None


def membership_auc(scores: np.ndarray, planted: np.ndarray) -> float:
    """How often a planted canary scores above one that was left out: 0.5 is a guess, 1 gives each away.

    Args:
        scores: ``(N,)``: more means more like the original.
        planted: ``(N,)`` bool.
    """
    inside, outside = scores[planted][:, None], scores[~planted][None]
    return float(np.mean((inside > outside) + 0.5 * (inside == outside)))


def chance_spread(count: int) -> float:
    """The standard deviation of `membership_auc` of a generator that memorized nothing (Mann and Whitney, 1947).

    Args:
        count: Canaries, a half of them planted.
    """
    inside = -(-count // 2)
    outside = count - inside
    return float(np.sqrt((inside + outside + 1) / (12 * inside * outside)))

"""The release of a checkpoint: only if its own scorecard passed every gate."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from anony_pipeline.config import loading
from anony_pipeline.config.schema import Gates
from anony_pipeline.evaluation import scorecard
from anony_pipeline.evaluation.schema import Scorecard, rules
from anony_pipeline.storage import atomic, manifests

CONFIG = "config.yaml"
LEFT_BEHIND = ("optimizer.", "discriminator.", "state.json", CONFIG, manifests.NAME)
"""What only training needs, by the beginning of its name, and what is written anew."""


@dataclass(frozen=True)
class Release:
    """What came of it.

    Attributes:
        folder: The release; None if it was refused, and then nothing was written.
        version: The sha256 of the release's manifest, or of the checkpoint's if it was refused.
        reasons: Why it was refused.
        commercial_use: Whether the terms of all that it was trained with allow it; unknown terms don't.
    """

    folder: Path | None
    version: str
    reasons: tuple[str, ...] = ()
    commercial_use: bool = False

    @property
    def released(self) -> bool:
        """Whether it passed."""
        return self.folder is not None


def release(checkpoint: Path, card_file: Path, output: Path) -> Release:
    """Copy what anonymizing needs of a checkpoint, with its scorecard, into a folder that says where it comes from.

    A release is given away: its configuration and the scorecard's command name no folder of this machine.

    Args:
        checkpoint: A complete checkpoint; every file's sha256 is checked.
        card_file: Its scorecard.
        output: The release; one that is there is replaced as a whole.

    Raises:
        CheckpointError: If the checkpoint is damaged.
        AnonyPipelineError: If there is no scorecard, or it can't be read.
    """
    manifest = manifests.read(checkpoint)
    version = manifests.sha256_of(checkpoint / manifests.NAME)
    card, config = scorecard.load(card_file), loading.load([checkpoint / CONFIG])
    reasons = reasons_against(card, version)
    if config.training.canaries:
        reasons += (
            f"an audit's: {config.training.canaries // 2} faces were trained on as they are (training.canaries)",
        )
    if reasons:
        return Release(None, version, reasons)
    judged = config.model_copy(update={"profile": card.profile or config.profile})
    facts = {name: value for name, value in manifest.items() if name != "files"}
    facts |= {
        "released_from": {"checkpoint": checkpoint.name, "sha256": version},
        "profile": judged.profile,
        "commercial_use": card.commercial_use is True,
        "licences": [terms.model_dump() for terms in card.licences if terms.trained_with],
    }
    with atomic.folder(output) as part:
        for name in manifest["files"]:
            if not name.startswith(LEFT_BEHIND):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(checkpoint / name, part / name)
        atomic.write_text(part / CONFIG, loading.dump_for_others(judged))
        shown = card.model_copy(update={"command": shlex.join(map(_last_part, shlex.split(card.command)))})
        atomic.write_json(part / scorecard.NAME, shown.model_dump(mode="json", exclude_none=False))
        released = manifests.write(part, facts)
    return Release(output, released, commercial_use=card.commercial_use is True)


def _last_part(argument: str) -> str:
    return argument.rstrip("/").rpartition("/")[2] if argument.startswith("/") or "://" in argument else argument


def reasons_against(card: Scorecard, checkpoint_sha256: str) -> tuple[str, ...]:
    """Why a checkpoint may not be released; empty if it may.

    Args:
        card: The scorecard that is said to be its own.
        checkpoint_sha256: The sha256 of the checkpoint's manifest.
    """
    reasons = []
    if card.subject.sha256 != checkpoint_sha256:
        reasons.append(f"the scorecard is of another checkpoint, {card.subject.checkpoint} {card.subject.sha256[:12]}")
    if not card.overall_of_this_run:
        reasons.append("the overall figures are not of the scorecard's own run: evaluate all styles")
    held = {gate.name for gate in card.gates}
    unknown = [name for name, _, _ in rules(Gates()) if name not in held]
    if unknown:
        reasons.append(f"the scorecard does not know the gates {', '.join(unknown)}: evaluate the checkpoint again")
    failed = [gate for gate in card.gates if not gate.passed]
    return (*reasons, *(f"gate {gate.name}: {gate.reason or 'failed'}" for gate in failed))

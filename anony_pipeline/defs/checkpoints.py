"""Which checkpoint a run is about, and how Dagster is told of one."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from upath import UPath

from anony_pipeline.config.schema import Config
from anony_pipeline.defs.partitions import CHECKPOINTS
from anony_pipeline.defs.unchanged import VERSION_TAG, version_of
from anony_pipeline.errors import CheckpointError
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.storage.locations import is_local, location

if TYPE_CHECKING:
    from anony_pipeline.evaluation.schema import Subject

Place = Path | UPath
"""A folder or file, here or in a remote store."""

JOINT = dg.AssetKey("joint_checkpoint")
HISTORY = dg.AssetKey("checkpoints")
RETURN_TO = "return_to"
"""Metadata of a materialization of `JOINT` by an older checkpoint: the one that it stood for before."""


def folder_of(config: Config) -> Place:
    """Where an experiment's checkpoints lie."""
    return location(config.paths.outputs) / "checkpoints"


def version(checkpoint: Place) -> str:
    """A checkpoint's version: the sha256 of its manifest, which lists the sums of all its files."""
    return manifests.sha256_of(checkpoint / manifests.NAME)


def to_return_to(instance: dg.DagsterInstance, config: Config) -> Place | None:
    """The checkpoint that `joint_checkpoint` left for an older one to be judged; None if it is where it belongs."""
    return _named(_latest(instance), RETURN_TO, config)


def return_from(checkpoint: Place, instance: dg.DagsterInstance, config: Config) -> Place | None:
    """Where `joint_checkpoint` belongs when this one was judged; None if it may stay there.

    It stays at the newest. A checkpoint that was set aside for another training's is older than all others.
    """
    latest = _latest(instance)
    kept = _named(latest, RETURN_TO, config) or _named(latest, "checkpoint", config)
    if kept is None or kept.name == checkpoint.name:
        return None
    is_set_aside = "-" in checkpoint.name
    return kept if is_set_aside or checkpoint.name < kept.name else None


def latest_id(instance: dg.DagsterInstance) -> int | None:
    """The number of the event by which `joint_checkpoint` came to stand where it does."""
    records = instance.fetch_materializations(JOINT, limit=1).records
    return records[0].storage_id if records else None


def _latest(instance: dg.DagsterInstance) -> dg.AssetMaterialization | None:
    event = instance.get_latest_materialization_event(JOINT)
    return event.asset_materialization if event else None


def _named(latest: dg.AssetMaterialization | None, entry: str, config: Config) -> Place | None:
    """The checkpoint under a name in the metadata, if it is this experiment's and still there."""
    value = latest.metadata.get(entry) if latest else None
    checkpoint = location(str(value.value)) if value else None
    if checkpoint is None or checkpoint.parent != folder_of(config) or not (checkpoint / manifests.NAME).exists():
        return None
    return checkpoint


def current(instance: dg.DagsterInstance, config: Config) -> Place:
    """The checkpoint that `joint_checkpoint` stands for now: what lineage points to is what gets evaluated.

    Raises:
        CheckpointError: If there is none, it is gone, it changed, or it is another experiment's.
    """
    latest = _latest(instance)
    entry = latest.metadata.get("checkpoint") if latest else None
    if latest is None or entry is None:
        raise CheckpointError(
            "joint_checkpoint was never materialized",
            where="Dagster's storage",
            do="materialize it, or run the job joint_training",
        )
    checkpoint = location(str(entry.value))
    if checkpoint.parent != folder_of(config):
        raise CheckpointError(
            "joint_checkpoint is another experiment's",
            where=checkpoint,
            allowed=f"one in {folder_of(config)}",
            do="name that experiment's layers in the run config, or materialize joint_checkpoint for this one",
        )
    said = version_of(latest)
    if not (checkpoint / manifests.NAME).exists():
        raise CheckpointError("the checkpoint is gone", where=checkpoint, do="materialize joint_checkpoint anew")
    if said is not None and said != version(checkpoint):
        raise CheckpointError(
            "the checkpoint changed since it was materialized",
            where=checkpoint,
            got=version(checkpoint),
            allowed=said,
            do="materialize joint_checkpoint anew",
        )
    return checkpoint


def fetched(checkpoint: Place, config: Config) -> Path:
    """The checkpoint as a folder of this machine: one in a remote store is fetched into the cache, once a version.

    Raises:
        CheckpointError: If a file is missing or has another sum.
    """
    if is_local(checkpoint):
        return Path(str(checkpoint))
    kept = Path(config.paths.cache) / "checkpoints" / short(version(checkpoint)) / checkpoint.name
    if not (kept / manifests.NAME).exists():
        with atomic.folder(kept) as part:
            for name in [*manifests.read(checkpoint, verify=False)["files"], manifests.NAME]:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                with (checkpoint / name).open("rb") as source, (part / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
            manifests.read(part)
    return kept


def mark_damaged(context: dg.AssetExecutionContext, checkpoint: Place, error: CheckpointError) -> None:
    """Show on a checkpoint's partition that its files are not what its manifest says, and why."""
    context.log_event(dg.AssetObservation(HISTORY, partition=checkpoint.name, metadata={"damaged": str(error)}))


def announcement(checkpoint: Place, step: int) -> dg.AssetMaterialization:
    """What makes a checkpoint a partition of the asset `checkpoints`."""
    return dg.AssetMaterialization(
        HISTORY,
        partition=checkpoint.name,
        metadata={"checkpoint": dg.MetadataValue.path(str(checkpoint)), "step": step},
        tags={VERSION_TAG: version(checkpoint)},
    )


def register(instance: dg.DagsterInstance, name: str) -> None:
    """Add a checkpoint's partition key; a known one stays as it is."""
    instance.add_dynamic_partitions(str(CHECKPOINTS.name), [name])


def scorecard_of(config: Config, checkpoint: Place) -> Place:
    """Where the scorecard of one version of a checkpoint is kept."""
    return _scorecards(config) / f"{checkpoint.name}-{short(version(checkpoint))}.json"


def judged_by(subject: "Subject", config: Config) -> Place:
    """The checkpoint that a scorecard's figures are of.

    Raises:
        CheckpointError: If it is gone or changed since then.
    """
    checkpoint = folder_of(config) / subject.checkpoint
    if not (checkpoint / manifests.NAME).exists():
        raise CheckpointError("the checkpoint that was judged is gone", where=checkpoint, do="judge the current one")
    if (now := version(checkpoint)) != subject.sha256:
        raise CheckpointError(
            "the checkpoint changed since it was judged",
            where=checkpoint,
            got=now,
            allowed=subject.sha256,
            do="run the job evaluate again",
        )
    return checkpoint


def judged(config: Config) -> set[str]:
    """The versions (see `short`) of all checkpoints that have a scorecard, by one listing.

    The folder's name does not matter: a checkpoint that was set aside for another one is still the same bytes.
    """
    kept: Iterable[Any] = _scorecards(config).glob("*.json")
    return {file.stem.rpartition("-")[2] for file in kept}


def short(known_version: str) -> str:
    """What is used of a version in names of files."""
    return known_version[:12]


def _scorecards(config: Config) -> Place:
    return location(config.paths.outputs) / "scorecards"

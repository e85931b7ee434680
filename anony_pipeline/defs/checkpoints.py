"""Which checkpoint a run is about, and how Dagster is told of one."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
from upath import UPath

from anony_pipeline.config.schema import Config
from anony_pipeline.defs.partitions import CHECKPOINTS
from anony_pipeline.errors import CheckpointError
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.storage.locations import is_local, location

Place = Path | UPath
"""A folder or file, here or in a remote store."""

JOINT = dg.AssetKey("joint_checkpoint")
HISTORY = dg.AssetKey("checkpoints")
VERSION_TAG = "dagster/data_version"


def folder_of(config: Config) -> Place:
    """Where an experiment's checkpoints lie."""
    return location(config.paths.outputs) / "checkpoints"


def version(checkpoint: Place) -> str:
    """A checkpoint's version: the sha256 of its manifest, which lists the sums of all its files."""
    return manifests.sha256_of(checkpoint / manifests.NAME)


def current(instance: dg.DagsterInstance, config: Config) -> Place:
    """The checkpoint that `joint_checkpoint` stands for now: what lineage points to is what gets evaluated.

    Raises:
        CheckpointError: If there is none, it is gone, it changed, or it is another experiment's.
    """
    event = instance.get_latest_materialization_event(JOINT)
    entry = event.asset_materialization.metadata.get("checkpoint") if event and event.asset_materialization else None
    if event is None or event.asset_materialization is None or entry is None:
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
    said = (event.asset_materialization.tags or {}).get(VERSION_TAG)
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

"""The generator: pretrained on pseudo-targets, then trained jointly against detector and discriminator."""

from collections.abc import Iterator

import dagster as dg

from anony_pipeline.defs import checkpoints as history
from anony_pipeline.defs import metadata, retries, unchanged
from anony_pipeline.defs.automation import ON_CHANGED_DATA
from anony_pipeline.defs.launcher import Launcher, OnEvent
from anony_pipeline.defs.partitions import CHECKPOINTS
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.storage import manifests
from anony_pipeline.storage.locations import location

GROUP = "training"
TARGETS = ["face_pseudo_targets", "plate_pseudo_targets"]
GPU = "gpu"


def observer(context: dg.OpExecutionContext | dg.AssetExecutionContext, asset: str) -> OnEvent:
    """Hand the trainer's events to Dagster, which plots their numbers on the asset's page."""

    def observe(event: dict[str, object]) -> None:
        if figures := metadata.numbers(event):
            context.log_event(dg.AssetObservation(asset, metadata=figures))

    return observe


@dg.asset(group_name=GROUP, deps=TARGETS, pool=GPU, kinds={"pytorch"}, automation_condition=ON_CHANGED_DATA)
def pretrained_generator(
    context: dg.AssetExecutionContext, experiment: Experiment, launcher: Launcher
) -> dg.MaterializeResult:
    """The base inpainting model with adapters that have seen the pseudo-targets, and nothing else yet."""
    config = experiment.config()
    if config.training.pretrain_steps == 0:
        return dg.MaterializeResult(metadata={"step": 0}, data_version=dg.DataVersion("base model"))
    now = unchanged.made_of(context.instance, config, "training", TARGETS)
    if same := unchanged.standing(context, experiment, "pretrained_generator", now, _is_whole):
        return unchanged.again(same)
    with retries.if_a_store_is_away(context):
        result = launcher.train(
            experiment.files(), experiment.overrides, "pretrain", observer(context, "pretrained_generator")
        )
    checkpoint = location(result["checkpoint"])
    return dg.MaterializeResult(
        metadata={
            unchanged.MADE_OF: now,
            "checkpoint": metadata.path(checkpoint),
            "step": result["step"],
            **metadata.curves(result.get("curves")),
        },
        data_version=dg.DataVersion(history.version(checkpoint)),
    )


def _is_whole(old: dg.AssetMaterialization) -> bool:
    """Whether the checkpoint that was materialized is still there as it was."""
    manifest = location(str(old.metadata["checkpoint"].value)) / manifests.NAME
    return manifest.exists() and unchanged.version_of(old) == manifests.sha256_of(manifest)


@dg.op(
    pool=GPU,
    ins={name: dg.In(dg.Nothing) for name in ("pretrained", "faces", "plates")},
    out=dg.Out(dg.Nothing),
    tags={"dagster/compute_kind": "pytorch"},
)
def train_joint(
    context: dg.OpExecutionContext, experiment: Experiment, launcher: Launcher
) -> Iterator[dg.Output | dg.AssetMaterialization]:
    """The GPU op: detector, generator and discriminator take turns until `training.max_steps`."""
    now = unchanged.made_of(context.instance, experiment.config(), "training", [*TARGETS, "pretrained_generator"])
    if same := unchanged.standing(context, experiment, "joint_checkpoint", now, _is_whole):
        old = unchanged.again(same)
        yield dg.Output(None, metadata=old.metadata, data_version=old.data_version)
        return
    with retries.if_a_store_is_away(context):
        result = launcher.train(
            experiment.files(), experiment.overrides, "joint", observer(context, "joint_checkpoint")
        )
    checkpoint = location(result["checkpoint"])
    history.register(context.instance, checkpoint.name)
    yield history.announcement(checkpoint, result["step"])
    yield dg.Output(
        None,
        metadata={
            unchanged.MADE_OF: now,
            "checkpoint": metadata.path(checkpoint),
            "step": result["step"],
            **metadata.curves(result.get("curves")),
        },
        data_version=dg.DataVersion(history.version(checkpoint)),
    )


@dg.graph_asset(
    group_name=GROUP,
    kinds={"pytorch"},
    automation_condition=ON_CHANGED_DATA,
    ins={
        "pretrained": dg.AssetIn("pretrained_generator", dagster_type=dg.Nothing),
        "faces": dg.AssetIn("face_pseudo_targets", dagster_type=dg.Nothing),
        "plates": dg.AssetIn("plate_pseudo_targets", dagster_type=dg.Nothing),
    },
)
def joint_checkpoint(pretrained: None, faces: None, plates: None) -> None:
    """The newest jointly trained checkpoint; its data version is the sha256 of its manifest."""
    return train_joint(pretrained=pretrained, faces=faces, plates=plates)


checkpoints = dg.AssetSpec(
    "checkpoints",
    group_name=GROUP,
    kinds={"pytorch"},
    partitions_def=CHECKPOINTS,
    deps=["joint_checkpoint"],
    description="All checkpoints, one a partition, each with the figures that it was judged to have.",
)

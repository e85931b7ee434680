"""The roads through the graph that people ask for by name."""

from typing import Any

import dagster as dg
from pydantic import Field

from anony_pipeline.defs.partitions import EVERY_STYLE

GROUPS = ("datasets", "plates", "judges", "targets", "training", "evaluation")
HISTORY = dg.AssetSelection.assets("checkpoints")

prepare_data = dg.define_asset_job(
    "prepare_data",
    selection=dg.AssetSelection.groups("datasets", "plates"),
    description="Raw data sets to the unified COCO set, with its checks.",
    tags=EVERY_STYLE,
)
pretrain = dg.define_asset_job(
    "pretrain",
    selection=dg.AssetSelection.groups("targets") | dg.AssetSelection.assets("pretrained_generator"),
    description="Pseudo-targets and the generator that learns from them.",
    tags=EVERY_STYLE,
)
joint_training = dg.define_asset_job(
    "joint_training",
    selection=dg.AssetSelection.assets("joint_checkpoint"),
    description="Joint alternating training alone; it goes on from the newest checkpoint.",
)
evaluate = dg.define_asset_job(
    "evaluate",
    selection=dg.AssetSelection.groups("evaluation"),
    description='Judges what joint_checkpoint stands for; one style alone: --tags \'{"dagster/partition": "FR"}\'.',
    executor_def=dg.in_process_executor,
    tags=EVERY_STYLE,
)
planb = dg.define_asset_job(
    "planb",
    selection=dg.AssetSelection.groups(*GROUPS) - HISTORY,
    description="Raw data to scorecard in one run and one process.",
    # Importing torch and the judges takes more than ten seconds a process.
    executor_def=dg.in_process_executor,
    tags=EVERY_STYLE,
)
release = dg.define_asset_job(
    "release",
    selection=dg.AssetSelection.groups("release"),
    description="The anonymizer, if every gate passed, and the data set that it anonymized.",
    executor_def=dg.in_process_executor,
)


class BaseModels(dg.Config):
    """How much work the shipped weights are worth, and where they go."""

    scale: float = Field(1.0, description="multiplies data, and its root steps: 1 is for a large GPU")
    device: str = Field("auto", description="auto, cpu, cuda")
    output: str = Field("", description="a folder; empty: where the package's own weights lie")
    only: list[str] = Field([], description="names of models; empty: all")
    former: str = Field("", description="a folder of weights whose generator is gone on from; empty: from nothing")


@dg.op(pool="gpu", out=dg.Out(dg.Nothing))
def make_base_models(context: dg.OpExecutionContext, config: BaseModels) -> None:
    """Train recognizers, readers, detectors, attribute network and base generator on procedural data alone."""
    from pathlib import Path

    from anony_pipeline.fitting import base_models
    from anony_pipeline.models import weights

    output = Path(config.output) if config.output else weights.SHIPPED
    manifest = base_models.make_all(
        output,
        scale=config.scale,
        device=config.device,
        only=config.only or None,
        former=Path(config.former) if config.former else None,
    )
    context.log.info("%s: %s", output, ", ".join(manifest["models"]))


@dg.job(executor_def=dg.in_process_executor, description="Makes the demo's shipped weights anew; resumable.")
def base_models() -> None:
    """The demo's shipped weights, from nothing but this program."""
    make_base_models()


class PlateStyles(dg.Config):
    """How long the classifier of plate styles learns, and where it goes."""

    plates: int = Field(150, description="rendered of each style")
    steps: int = Field(1500, description="updates of 128 crops")
    seed: int = 0
    device: str = Field("auto", description="auto, cpu, cuda")
    output: str = Field(description="a file *.safetensors; name it as `model.plate_style` in the configuration")


@dg.op(pool="gpu", out=dg.Out(dg.Nothing))
def fit_plate_style(context: dg.OpExecutionContext, config: PlateStyles) -> None:
    """Render plates of all configured styles, fit the classifier, and measure it on plates that it has not seen."""
    from pathlib import Path

    from anony_pipeline.fitting import plate_style
    from anony_pipeline.fitting.loop import Plan
    from anony_pipeline.plates.styles import configured_styles
    from anony_pipeline.runtime import device

    output, styles = Path(config.output), configured_styles()
    plates = plate_style.render_styled(styles, config.plates, seed=config.seed)
    plan = Plan(config.steps, config.seed, device.choose_device(config.device), output.with_suffix(".state"))
    classifier = plate_style.fit_plate_style(plates, plan)
    unseen = plate_style.render_styled(styles, 12, seed=config.seed + 1)
    classifier.write(output)
    share = plate_style.accuracy(classifier, unseen)
    context.log.info("%s: %d styles, %.1f %% of unseen plates", output, len(classifier.styles), 100 * share)


@dg.job(executor_def=dg.in_process_executor, description="Fits the classifier of the configured plate styles.")
def plate_style() -> None:
    """The classifier that `model.plate_style` names, from nothing but this program."""
    fit_plate_style()


ALL: list[Any] = [prepare_data, base_models, plate_style, pretrain, joint_training, evaluate, planb, release]

"""What may leave the house: an anonymizer that passed every gate, and a data set that it anonymized."""

from pathlib import Path

import dagster as dg

from anony_pipeline.config.schema import Config
from anony_pipeline.defs import checkpoints, metadata, retries
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.storage import locations, manifests

GROUP = "release"


@dg.asset(group_name=GROUP, deps=["scorecard"], kinds={"pytorch"})
def released_anonymizer(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """The checkpoint with its scorecard, if every gate passed; otherwise nothing, and it says which failed."""
    from anony_pipeline.evaluation import release

    config = experiment.config()
    checkpoint = checkpoints.current(context.instance, config)
    card = checkpoints.scorecard_of(config, checkpoint)
    result = release.release(Path(str(checkpoint)), Path(str(card)), release_of(config))
    return dg.MaterializeResult(
        metadata={
            "released": result.released,
            "commercial_use": result.commercial_use,
            "refused_because": "; ".join(result.reasons) or "nothing: every gate passed",
            **({"folder": metadata.path(result.folder)} if result.folder else {}),
        },
        data_version=dg.DataVersion(result.version),
    )


@dg.asset(group_name=GROUP, deps=["released_anonymizer", "unified_coco"], pool="gpu", kinds={"image", "coco"})
def anonymized_dataset(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """All images of the unified set, anonymized by the released checkpoint, with their COCO labels unchanged."""
    from anony_pipeline.anonymize import dataset

    config = experiment.config()
    release = release_of(config)
    if not is_release_of(release, checkpoints.current(context.instance, config)):
        raise dg.Failure(
            "nothing was released of this checkpoint: released_anonymizer says which gates failed", allow_retries=False
        )
    with retries.if_a_store_is_away(context):
        report = dataset.anonymize_dataset(config, release, release.with_name("anonymized_dataset"))
    return dg.MaterializeResult(metadata={**metadata.numbers(report), "folder": metadata.path(report.output)})


def release_of(config: Config) -> Path:
    """Where an experiment's release lies."""
    return locations.local_folder(config.paths.outputs, "paths.outputs") / "release"


def is_release_of(release: Path, checkpoint: checkpoints.Place) -> bool:
    """Whether a release is there and was made of this very checkpoint, and not of an earlier one."""
    if not (release / manifests.NAME).exists():
        return False
    return manifests.read(release, verify=False)["released_from"]["sha256"] == checkpoints.version(checkpoint)

"""What runs by itself when something new is there."""

from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg

from anony_pipeline.config.schema import Config
from anony_pipeline.defs import checkpoints
from anony_pipeline.defs.alerts import alert_on_failure
from anony_pipeline.defs.automation import retrain_on_changed_data
from anony_pipeline.defs.jobs import evaluate
from anony_pipeline.defs.partitions import CHECKPOINTS, EVERY_STYLE
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.errors import CheckpointError
from anony_pipeline.storage import manifests

ATTEMPTS = 3
UNDER_WAY = [
    status
    for status in dg.DagsterRunStatus
    if status.value in ("QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "CANCELING")
]
MOVERS = ("planb", "evaluate", "joint_training", "release")
"""Jobs that move `joint_checkpoint`, or rely on it staying where it is."""


@dg.sensor(job=evaluate, minimum_interval_seconds=30)
def new_checkpoints(context: dg.SensorEvaluationContext, experiment: Experiment) -> dg.SensorResult | dg.SkipReason:
    """Oldest unjudged checkpoint first, one at a time, never while another run could move `joint_checkpoint`.

    A tick keeps no cursor and looks at no clock: what has no scorecard is new. It reads manifests, and the sizes of the
    files of the one that it asks for; the run checks the sums before it loads anything, and marks a damaged one. A
    checkpoint that failed three times gives way to the next.
    """
    config = experiment.config()
    for run in context.instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
        if run.job_name in MOVERS:
            return dg.SkipReason(f"the run {run.run_id} of {run.job_name} is under way")
    for checkpoint, version in _unjudged(config):
        attempt = _attempts(context.instance, version) + 1
        if attempt <= ATTEMPTS:
            return _request(checkpoint, version, attempt, experiment)
    return dg.SkipReason("every checkpoint has its scorecard, or failed three times")


def _unjudged(config: Config) -> Iterator[tuple[checkpoints.Place, str]]:
    """Whole checkpoints without a scorecard, with versions, oldest first; each is looked at when it is asked for."""
    judged = checkpoints.judged(config)
    manifest_files: Iterable[Any] = checkpoints.folder_of(config).glob(f"step_*/{manifests.NAME}")
    for checkpoint in sorted(file.parent for file in manifest_files):
        try:
            version = checkpoints.version(checkpoint)
            if checkpoints.short(version) in judged:
                continue
            manifests.read(checkpoint, verify=False)
        except (CheckpointError, FileNotFoundError):
            continue  # not whole yet, damaged, or removed since it was listed: a later tick looks again
        yield checkpoint, version


VERSION_OF_RUN = "anony/checkpoint_version"


def _attempts(instance: dg.DagsterInstance, version: str) -> int:
    return instance.get_runs_count(dg.RunsFilter(job_name=evaluate.name, tags={VERSION_OF_RUN: version}))


def _request(checkpoint: checkpoints.Place, version: str, attempt: int, experiment: Experiment) -> dg.SensorResult:
    tags = {checkpoints.VERSION_TAG: version}
    path = dg.MetadataValue.path(str(checkpoint))
    return dg.SensorResult(
        dynamic_partitions_requests=[CHECKPOINTS.build_add_request([checkpoint.name])],
        asset_events=[
            dg.AssetMaterialization(checkpoints.JOINT, metadata={"checkpoint": path}, tags=tags),
            dg.AssetMaterialization(
                checkpoints.HISTORY, partition=checkpoint.name, metadata={"checkpoint": path}, tags=tags
            ),
        ],
        run_requests=[
            dg.RunRequest(
                run_key=f"{checkpoint.name}:{version}:{attempt}",
                run_config={"resources": {"experiment": {"config": experiment.as_config()}}},
                tags={**EVERY_STYLE, VERSION_OF_RUN: version},
            )
        ],
    )


ALL = [new_checkpoints, retrain_on_changed_data, alert_on_failure]

"""What runs by itself when something new is there."""

from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg

from anony_pipeline.config.schema import Config
from anony_pipeline.defs import checkpoints
from anony_pipeline.defs.alerts import alert_on_failure
from anony_pipeline.defs.assets.evaluation import FIGURES
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
MOVED = {checkpoints.JOINT} | {
    dg.AssetKey(name) for name in (*FIGURES, "scorecard", "released_anonymizer", "anonymized_dataset")
}
"""The assets of those jobs, which the UI materializes without a job's name."""
WITHOUT_A_NAME = "__ASSET_JOB"


@dg.sensor(job=evaluate, minimum_interval_seconds=30)
def new_checkpoints(context: dg.SensorEvaluationContext, experiment: Experiment) -> dg.SensorResult | dg.SkipReason:
    """Oldest unjudged checkpoint first, one at a time, never while another run could move `joint_checkpoint`.

    A tick keeps no cursor and looks at no clock: what has no scorecard is new. It reads manifests, and the sizes of the
    files of the one that it asks for; the run checks the sums before it loads anything, and marks a damaged one. A
    checkpoint that failed three times gives way to the next. When older ones have been judged, `joint_checkpoint`
    goes back to the one that it stood for, whose figures are then the scorecard's again.
    """
    config, instance = experiment.config(), context.instance
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
        if _is_mover(run):
            return dg.SkipReason(f"the run {run.run_id} of {run.job_name} is under way")
    for checkpoint, version in _unjudged(config):
        attempt = _attempts(instance, version) + 1
        if attempt <= ATTEMPTS:
            kept = checkpoints.return_from(checkpoint, instance, config)
            ask = _ask(f"{checkpoint.name}:{version}:{attempt}", experiment, {VERSION_OF_RUN: version})
            return _result(checkpoint, version, ask, kept)
    if (kept := checkpoints.to_return_to(instance, config)) is not None:
        version = checkpoints.version(kept)
        # One can be returned to more than once, and a key starts one run for ever.
        ask = _ask(f"{kept.name}:{version}:after:{checkpoints.latest_id(instance)}", experiment, {})
        return _result(kept, version, ask, None)
    return dg.SkipReason("every checkpoint has its scorecard, or failed three times")


def _is_mover(run: dg.DagsterRun) -> bool:
    if run.job_name.startswith(WITHOUT_A_NAME):
        return run.asset_selection is None or not MOVED.isdisjoint(run.asset_selection)
    return run.job_name in MOVERS


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


def _ask(key: str, experiment: Experiment, tags: dict[str, str]) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=key,
        run_config={"resources": {"experiment": {"config": experiment.as_config()}}},
        tags={**EVERY_STYLE, **tags},
    )


def _result(
    checkpoint: checkpoints.Place, version: str, ask: dg.RunRequest, kept: checkpoints.Place | None
) -> dg.SensorResult:
    """Let `joint_checkpoint` stand for a checkpoint, and judge it; ``kept`` is where it goes back to afterwards."""
    tags = {checkpoints.VERSION_TAG: version}
    path = {"checkpoint": dg.MetadataValue.path(str(checkpoint))}
    back = {} if kept is None else {checkpoints.RETURN_TO: dg.MetadataValue.path(str(kept))}
    return dg.SensorResult(
        dynamic_partitions_requests=[CHECKPOINTS.build_add_request([checkpoint.name])],
        asset_events=[
            dg.AssetMaterialization(checkpoints.JOINT, metadata={**path, **back}, tags=tags),
            dg.AssetMaterialization(checkpoints.HISTORY, partition=checkpoint.name, metadata=path, tags=tags),
        ],
        run_requests=[ask],
    )


ALL = [new_checkpoints, retrain_on_changed_data, alert_on_failure]

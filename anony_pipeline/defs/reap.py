"""``anony reap``: frees what runs still hold whose process is gone.

A run that was started from a command line and killed (a Colab runtime that went away) stays STARTED for ever, holds its
slot in pool `gpu`, and keeps the sensor waiting. Process numbers mean something on one machine alone, until it starts
again: a run of another machine is left to that one, and a run from before the last start is dead.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from anony_pipeline.defs import machine

HERE = machine.tags()
OPEN = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


def reap(instance: dg.DagsterInstance, forced: frozenset[str] = frozenset()) -> list[dg.DagsterRun]:
    """Mark open runs as failed whose processes are all gone, and free their slots.

    Args:
        instance: The Dagster instance that keeps the runs.
        forced: Ids of runs that are dead whatever their process numbers say: another program may have one by now.

    Returns:
        The runs that were reaped.
    """
    dead = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=OPEN))
        if run.run_id in forced or (not is_elsewhere(run) and _is_dead(instance, run))
    ]
    for run in dead:
        instance.report_run_failed(run, "reaped: no process of this run is alive")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return dead


def is_elsewhere(run: dg.DagsterRun) -> bool:
    """Whether a run said that it is executed on another machine."""
    return run.tags.get(machine.HOST, HERE[machine.HOST]) != HERE[machine.HOST]


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    boot = run.tags.get(machine.BOOT)
    if boot is not None and boot != HERE.get(machine.BOOT):
        return True  # whoever has its process numbers now is somebody else
    pids = pids_of(instance, run.run_id)
    return bool(pids) and not any(_is_alive(pid) for pid in pids)


def pids_of(instance: dg.DagsterInstance, run_id: str) -> set[int]:
    """The processes that a run named in its log; empty if it named none."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    metadata = [entry.dagster_event.engine_event_data.metadata for entry in entries if entry.dagster_event]
    values = [item["pid"].value for item in metadata if "pid" in item]
    return {int(str(value)) for value in values}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main() -> None:
    """Reap in the instance that the other commands use here; arguments are ids of runs to reap by force."""
    # As `dagster job execute` does it: without DAGSTER_HOME, dagster.yaml of the working folder says where history is.
    home = os.environ.get("DAGSTER_HOME")
    if not home and not Path("dagster.yaml").exists():
        sys.exit("no dagster.yaml is here and DAGSTER_HOME is not set: go to the folder where the runs were started")
    with dg.DagsterInstance.get() if home else dg.DagsterInstance.from_config(str(Path.cwd())) as instance:
        if unknown := [run_id for run_id in sys.argv[1:] if not instance.has_run(run_id)]:
            sys.exit(f"nothing was reaped: there is no such run: {', '.join(unknown)}")
        reaped = reap(instance, frozenset(sys.argv[1:]))
        for run in reaped:
            sys.stdout.write(f"{run.run_id}  {run.job_name}\n")
        sys.stdout.write(f"{len(reaped)} runs freed\n")
        for run in instance.get_runs(dg.RunsFilter(statuses=OPEN)):
            if is_elsewhere(run):
                host = run.tags[machine.HOST]
                sys.stdout.write(f"{run.run_id}  {run.job_name}  left alone: reap it on {host}, or name it here\n")


if __name__ == "__main__":
    main()

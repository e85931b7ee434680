"""What a killed run holds is freed, and what is alive is left alone."""

import os
import subprocess
import sys

import dagster as dg
from dagster._core.events import EngineEventData

from anony_pipeline.definitions import defs
from anony_pipeline.defs import machine, reap


def started(instance, pid, tags=None):
    run = instance.create_run_for_job(defs.resolve_job_def("joint_training"), tags=tags)
    instance.handle_run_event(run.run_id, dg.DagsterEvent("PIPELINE_START", "joint_training"))
    if pid is not None:
        instance.report_engine_event("Executing steps in process", run, EngineEventData.in_process(pid))
    return run.run_id


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def status(instance, run_id):
    return instance.get_run_by_id(run_id).status


def test_a_run_whose_process_is_gone_is_failed(instance):
    run_id = started(instance, dead_pid())
    assert [run.run_id for run in reap.reap(instance)] == [run_id]
    assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE


def test_a_run_whose_process_lives_is_left_alone(instance):
    run_id = started(instance, os.getpid())
    assert reap.reap(instance) == []
    assert status(instance, run_id) == dg.DagsterRunStatus.STARTED


def test_a_run_that_named_no_process_is_left_alone_unless_it_is_named(instance):
    run_id = started(instance, None)
    assert reap.reap(instance) == []
    assert [run.run_id for run in reap.reap(instance, frozenset({run_id}))] == [run_id]


def test_a_run_of_another_machine_is_left_to_that_one(instance):
    run_id = started(instance, dead_pid(), {machine.HOST: "another", machine.BOOT: "any"})
    assert reap.reap(instance) == []
    assert [run.run_id for run in reap.reap(instance, frozenset({run_id}))] == [run_id]


def test_a_run_from_before_the_machines_last_start_is_dead_whoever_has_its_process_number_now(instance):
    before = started(instance, os.getpid(), machine.tags() | {machine.BOOT: "an earlier one"})
    now = started(instance, os.getpid(), machine.tags())
    assert [run.run_id for run in reap.reap(instance)] == [before]
    assert status(instance, now) == dg.DagsterRunStatus.STARTED


def test_what_is_left_to_another_machine_is_said(instance, monkeypatch, capsys):
    run_id = started(instance, dead_pid(), {machine.HOST: "another"})
    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    monkeypatch.setattr("sys.argv", ["reap"])
    reap.main()
    left = f"{run_id}  joint_training  left alone: reap it on another, or name it here"
    assert capsys.readouterr().out.splitlines() == ["0 runs freed", left]


def test_the_slot_in_the_pool_is_free_again(instance):
    run_id = started(instance, dead_pid())
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 1)
    storage.claim_concurrency_slot("gpu", run_id, "train_joint")
    assert storage.get_concurrency_info("gpu").active_slot_count == 1
    reap.reap(instance)
    assert storage.get_concurrency_info("gpu").active_slot_count == 0


def reaped(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    command = [sys.executable, "-m", "anony_pipeline.defs.reap", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_folder_without_dagster_is_refused_and_nothing_is_made_there(tmp_path):
    run = reaped(tmp_path, "some-run")
    assert run.returncode != 0
    assert "no dagster.yaml is here" in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_that_there_is_none_of_is_named(tmp_path):
    (tmp_path / "dagster.yaml").write_text("")
    run = reaped(tmp_path, "some-run")
    assert run.returncode != 0
    assert "no such run: some-run" in run.stderr
    assert reaped(tmp_path).stdout == "0 runs freed\n"

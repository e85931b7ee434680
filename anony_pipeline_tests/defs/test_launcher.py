"""A trainer in its own process group: its events arrive while it runs, and nothing of it survives a stop."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.defs import launcher, retries
from anony_pipeline.storage import manifests
from anony_pipeline.training.launched import EVENTS_VARIABLE, LAUNCHED_VARIABLE, TRY_AGAIN
from anony_pipeline_tests.training import tiny

TRAINER = """
import json, os, signal, subprocess, sys, time
events, folder = os.environ["ANONY_EVENTS"], sys.argv[1]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(f"{folder}/pids", "w").write(f"{os.getpid()} {child.pid}")

def stop(*_):
    open(f"{folder}/saved", "w").write("checkpoint")
    sys.exit(130)

signal.signal(signal.SIGTERM, stop)
for step in range(int(sys.argv[2])):
    with open(events, "a") as file:
        file.write(json.dumps({"event": "step", "step": step}) + "\\n")
    time.sleep(0.05)
child.kill()
sys.exit(int(sys.argv[3]))
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]


def run(folder, on_event, *, steps, code=0, grace=5.0):
    events = folder / "events.jsonl"
    events.touch()
    command = [sys.executable, "-c", TRAINER, str(folder), str(steps), str(code)]
    return launcher._run(command, {**os.environ, EVENTS_VARIABLE: str(events)}, events, on_event, grace)


def test_events_arrive_in_order_and_the_last_one_is_returned(tmp_path):
    seen = []
    last = run(tmp_path, seen.append, steps=5)
    assert [event["step"] for event in seen] == [0, 1, 2, 3, 4]
    assert last == seen[-1]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_what_would_fail_again_is_not_tried_again(tmp_path, code):
    with pytest.raises(dg.Failure, match=f"exit code {code}") as caught:
        run(tmp_path, lambda _: None, steps=1, code=code)
    assert not caught.value.allow_retries


@pytest.mark.parametrize("code", [137, TRY_AGAIN])
def test_what_can_pass_on_a_second_try_is_tried_again(tmp_path, code):
    with pytest.raises(dg.RetryRequested) as caught:
        run(tmp_path, lambda _: None, steps=1, code=code)
    assert caught.value.max_retries == retries.RETRIES
    assert f"exit code {code}" in str(caught.value.__cause__)


def test_a_stop_lets_the_trainer_save_and_leaves_no_process(tmp_path):
    def interrupt(_):
        raise dg.DagsterExecutionInterruptedError

    with pytest.raises(dg.DagsterExecutionInterruptedError):
        run(tmp_path, interrupt, steps=1000)
    assert (tmp_path / "saved").read_text() == "checkpoint"
    assert not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stop_in_a_stages_last_step_ends_the_run(monkeypatch, stopped):
    from anony_pipeline.training import loop

    def train(_config, *, on_event, **_):
        on_event({"event": "begin"})
        if stopped:
            signal.raise_signal(signal.SIGTERM)
        on_event({"event": "end"})
        return SimpleNamespace(finished=True, checkpoint="there", step=8, curves=None)

    monkeypatch.setattr(loop, "train", train)
    expected = pytest.raises(dg.DagsterExecutionInterruptedError) if stopped else contextlib.nullcontext()
    with expected:
        launcher._in_process([project.find("configs/demo.yaml")], [], "pretrain", lambda _: None)


def test_a_trainer_that_ignores_the_stop_is_killed_after_its_grace(tmp_path):
    import subprocess

    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    process.stdout.readline()
    begin = time.monotonic()
    launcher.stop_group(process, grace_seconds=0.5)
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - begin < 5


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    file = tmp_path / "events"
    file.write_text('{"a": 1}\n{"b"')
    with file.open() as lines:
        assert list(launcher._whole_lines(lines)) == [{"a": 1}]
        with file.open("a") as more:
            more.write(": 2}\n")
        assert list(launcher._whole_lines(lines)) == [{"b": 2}]


@pytest.mark.parametrize(("said", "raised"), [(TRY_AGAIN, dg.RetryRequested), (1, dg.Failure)])
def test_the_trainers_own_code_counts_where_a_launcher_between_has_another(tmp_path, said, raised):
    code = f"""
import json, os, sys
open(os.environ["ANONY_EVENTS"], "a").write(json.dumps({{"event": "failed", "exit_code": {said}}}) + "\\n")
sys.exit(1)
"""
    events = tmp_path / "events.jsonl"
    events.touch()
    with pytest.raises(raised):
        launcher._run(
            [sys.executable, "-c", code], {**os.environ, EVENTS_VARIABLE: str(events)}, events, lambda _: None, 5.0
        )


MEMBER = """
import json, os, signal, sys, time
rank, folder = os.environ["RANK"], sys.argv[1]

def stop(*_):
    open(f"{folder}/saved {rank}", "a").write("checkpoint")
    sys.exit(130)

signal.signal(signal.SIGTERM, stop)
open(f"{folder}/pid {rank}", "w").write(f"{os.getpid()} {os.environ['WORLD_SIZE']}")
while len([name for name in os.listdir(folder) if name.startswith("pid")]) < 2:
    time.sleep(0.05)
if rank == "0":
    open(os.environ["ANONY_EVENTS"], "a").write(json.dumps({"event": "begin"}) + "\\n")
time.sleep(60)
"""


@pytest.mark.slow
def test_a_stop_reaches_each_of_several_processes_once_and_leaves_none(tmp_path):
    script, events = tmp_path / "member.py", tmp_path / "events.jsonl"
    script.write_text(MEMBER)
    events.touch()
    command = [
        sys.executable,
        *launcher.Launcher(mode="accelerate", processes=2)._starter(),
        str(script),
        str(tmp_path),
    ]

    def interrupt(_):
        raise dg.DagsterExecutionInterruptedError

    with pytest.raises(dg.DagsterExecutionInterruptedError):
        launcher._run(command, {**os.environ, EVENTS_VARIABLE: str(events)}, events, interrupt, 20.0)
    members = [(tmp_path / f"pid {rank}").read_text().split() for rank in range(2)]
    assert [size for _, size in members] == ["2", "2"]
    # A second signal would break off what the first one asked to save.
    assert [(tmp_path / f"saved {rank}").read_text() for rank in range(2)] == ["checkpoint", "checkpoint"]
    assert not any(alive(int(pid)) for pid, _ in members)


TRAINING = """
import sys
from pathlib import Path

import pytest
import typer

from anony_pipeline import train_joint
from anony_pipeline_tests.training import conftest

root = Path(sys.argv.pop(1))
with pytest.MonkeyPatch.context() as patch:
    conftest.patch_training(root, patch)
    typer.run(train_joint.main)
"""


@pytest.fixture(scope="module")
def tiny_experiment(tmp_path_factory):
    """A tiny data set, a script that trains on it with tiny networks, and its configuration."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.make_coco(root)
    (root / "train.py").write_text(TRAINING)
    config = tiny.make_config(root, training__max_steps=100_000, checkpoint__save_every_steps=2)
    (root / "tiny.yaml").write_text(loading.dump(config))
    return root


def train_in_two_processes(root, outputs, on_event, *overrides):
    command = [sys.executable, *launcher.Launcher(mode="accelerate", processes=2)._starter()]
    command += [str(root / "train.py"), str(root), "--config", str(root / "tiny.yaml"), "--mode", "joint"]
    for override in (f"paths.outputs={outputs}", f"paths.private={outputs}/private", *overrides):
        command += ["--set", override]
    events = outputs.with_suffix(".jsonl")
    events.touch()
    environment = {**os.environ, EVENTS_VARIABLE: str(events), LAUNCHED_VARIABLE: "30", "OMP_NUM_THREADS": "1"}
    return launcher._run(command, environment, events, on_event, 30.0)


@pytest.mark.slow
def test_two_processes_train_together_and_one_reports(tiny_experiment, tmp_path):
    seen = []
    last = train_in_two_processes(tiny_experiment, tmp_path / "out", seen.append, "training.max_steps=2")
    assert (last["event"], last["step"], last["finished"]) == ("report", 2, True)
    assert manifests.read(Path(last["checkpoint"]))["step"] == 2
    assert [event["event"] for event in seen].count("report") == 1
    assert [event["event"] for event in seen].count("end") == 1


@pytest.mark.slow
def test_two_processes_that_are_stopped_save_where_they_are(tiny_experiment, tmp_path):
    def stop(event):
        if event["event"] == "saved":
            raise dg.DagsterExecutionInterruptedError

    with pytest.raises(dg.DagsterExecutionInterruptedError):
        train_in_two_processes(tiny_experiment, tmp_path / "out", stop)
    lines = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert (events[-1]["event"], events[-1]["stopped"]) == ("end", True)
    newest = max((tmp_path / "out" / "checkpoints").glob("step_*"))
    assert manifests.read(newest)["step"] == events[-1]["step"]

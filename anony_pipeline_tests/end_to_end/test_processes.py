"""A training that is stopped, killed or started twice: no process stays, no slot is held, and it goes on."""

import json
import os
import signal
import subprocess

import dagster as dg
import psutil
import pytest

from anony_pipeline.storage import manifests
from anony_pipeline_tests.end_to_end import smoke

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FOR_EVER = ["training.max_steps=100000", "training.validate_every_steps=100000", "checkpoint.save_every_steps=2"]
SUBPROCESS = {"mode": "subprocess", "grace_seconds": 60.0}
ACCELERATE = {"mode": "accelerate", "processes": 2, "grace_seconds": 60.0}


@pytest.fixture
def home(smoke_data, tmp_path):
    return smoke.copy_home(smoke_data, tmp_path / "home")


class Training:
    """`dagster job execute -j joint_training`, and the processes that belong to it."""

    def __init__(self, home, overrides, launcher=SUBPROCESS, name="run"):
        self.home = home
        config = smoke.run_config(home, name=name, overrides=overrides, launcher=launcher)
        self.log = (home / f"{name}.log").open("w")
        # A group of its own, as a terminal gives it to a command: Ctrl-C goes to the whole group.
        self.process = subprocess.Popen(
            smoke.job(home, "joint_training", config),
            cwd=home,
            env=smoke.environment(home),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.family = []

    def wait_for_a_checkpoint(self):
        """Until this run has saved one; returns its step."""
        saved = smoke.until(lambda: events(self.home, "saved"), 300, f"no checkpoint; see {self.log.name}")
        root = psutil.Process(self.process.pid)
        self.family = [root, *root.children(recursive=True)]
        return saved[-1]["step"]

    def one(self, who):
        """The pid of the CLI run, of the step's worker or of the trainer."""
        if who == "cli":
            return self.process.pid
        trainer = next(process for process in self.family if "anony_pipeline.train_joint" in process.cmdline())
        return trainer.pid if who == "trainer" else trainer.ppid()

    def assert_all_gone(self):
        _, alive = psutil.wait_procs(self.family, timeout=90)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def events(home, name):
    """The trainer's events of one name, whole lines only."""
    file = home / "outputs/smoke/events.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def last_good(home):
    """The newest checkpoint's step; its sums are checked."""
    return max(manifests.read(file.parent)["step"] for file in (home / "outputs/smoke/checkpoints").glob("*/man*.json"))


def assert_nothing_is_held(home):
    with dg.DagsterInstance.from_config(str(home / "dagster_home")) as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
        open_runs = [run for run in instance.get_runs() if not run.is_finished]
        assert not open_runs


def assert_it_goes_on(home, step):
    """A new run begins at the last checkpoint, and ends well."""
    before = len(events(home, "begin"))
    again = Training(home, [f"training.max_steps={step + 2}"], name="again")
    assert again.process.wait(timeout=300) == 0, (home / "again.log").read_text()
    assert [event["step"] for event in events(home, "begin")[before:]] == [step]
    assert last_good(home) == step + 2


@pytest.mark.parametrize(
    ("who", "number", "launcher"),
    [
        ("cli", signal.SIGINT, SUBPROCESS),
        ("cli", signal.SIGTERM, SUBPROCESS),
        ("cli", signal.SIGKILL, SUBPROCESS),
        ("worker", signal.SIGTERM, SUBPROCESS),
        ("worker", signal.SIGKILL, SUBPROCESS),
        ("trainer", signal.SIGTERM, SUBPROCESS),
        ("cli", signal.SIGINT, {"mode": "in_process"}),
        ("cli", signal.SIGKILL, {"mode": "in_process"}),
        ("worker", signal.SIGTERM, ACCELERATE),
        ("cli", signal.SIGKILL, ACCELERATE),
    ],
    ids=lambda value: value["mode"] if isinstance(value, dict) else getattr(value, "name", value),
)
def test_whoever_is_stopped_the_training_is_saved_and_goes_on(home, who, number, launcher):
    training = Training(home, FOR_EVER, launcher)
    saved = training.wait_for_a_checkpoint()
    if number == signal.SIGINT:
        os.killpg(training.process.pid, number)
    else:
        os.kill(training.one(who), number)
    assert training.process.wait(timeout=120) != 0
    training.assert_all_gone()
    # Who was killed at once could save nothing more; all others did.
    step = last_good(home)
    assert step >= saved
    if number == signal.SIGKILL and who == "cli":
        reaped = smoke.command(home, "anony_pipeline", "reap")
        assert "joint_training" in reaped.stdout
    assert_nothing_is_held(home)
    assert_it_goes_on(home, step)


def test_two_processes_train_one_step_together(home):
    training = Training(home, [], ACCELERATE)
    assert training.process.wait(timeout=300) == 0, (home / "run.log").read_text()
    # One of them speaks and writes.
    assert [event["step"] for event in events(home, "end") if event["stage"] == "joint"] == [2]
    assert last_good(home) == 2
    assert_nothing_is_held(home)


def test_a_trainer_that_was_killed_is_started_again_and_goes_on(home):
    training = Training(home, [*FOR_EVER[1:], "training.max_steps=8"])
    training.wait_for_a_checkpoint()
    os.kill(training.one("trainer"), signal.SIGKILL)
    assert training.process.wait(timeout=300) == 0, (home / "run.log").read_text()
    training.assert_all_gone()
    begins = [event["step"] for event in events(home, "begin")]
    assert len(begins) == 2
    assert begins[1] >= 2
    assert last_good(home) == 8
    assert_nothing_is_held(home)


def test_two_runs_at_once_take_turns(home):
    # As after a first run: in a new DAGSTER_HOME, Dagster's own making of tables and of the pool's slot is not safe
    # against a second process in the same moment.
    with dg.DagsterInstance.from_config(str(home / "dagster_home")) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        assert not instance.get_runs()
    both = [Training(home, [f"training.max_steps={steps}"], name=f"run{steps}") for steps in (4, 6)]
    for training in both:
        assert training.process.wait(timeout=600) == 0, training.log.name
    with dg.DagsterInstance.from_config(str(home / "dagster_home")) as instance:
        spans = []
        for run in instance.get_runs():
            entries = instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_START})
            ends = instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_SUCCESS})
            spans.append((entries[0].timestamp, ends[0].timestamp))
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start
    assert last_good(home) == 6
    assert_nothing_is_held(home)

import errno
import json
import signal
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from anony_pipeline import cli, train_joint
from anony_pipeline.errors import DatasetError
from anony_pipeline.training import launched, loop
from anony_pipeline_tests.training import tiny


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line with `loop.train` replaced; returns the result and what it was called with."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv(launched.EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    config = tmp_path / "tiny.yaml"
    config.write_text(train_joint_yaml(tmp_path))
    app = typer.Typer()
    app.command()(train_joint.main)

    def call(*arguments, error=None, finished=True):
        calls = []

        def train(settings, **options):
            calls.append((settings, options))
            if error is not None:
                raise error
            return loop.TrainReport(Path("/x/step_000007"), "0" * 64, "joint", 7, finished, 0, 1.0)

        monkeypatch.setattr(loop, "train", train)
        return CliRunner().invoke(app, ["--config", str(config), *arguments]), calls

    return call


def train_joint_yaml(root):
    from anony_pipeline.config import loading

    return loading.dump(tiny.make_config(root))


@pytest.mark.parametrize("name", ["--max_steps", "--max-steps"])
def test_both_spellings_of_max_steps_are_taken(run, name):
    result, calls = run("--mode", "auto", name, "1000")
    assert result.exit_code == 0
    assert calls[0][1]["max_steps"] == 1000
    assert calls[0][1]["mode"] == "auto"
    assert "/x/step_000007" in result.stdout


def test_overrides_reach_the_configuration(run):
    _, calls = run("--set", "loss.adv_weight=0.5", "--set", "seed=3")
    assert calls[0][0].loss.adv_weight == 0.5
    assert calls[0][0].seed == 3


def test_who_started_it_learns_the_checkpoint_from_the_last_event(run, tmp_path):
    run()
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert (last["checkpoint"], last["step"]) == ("/x/step_000007", 7)


def test_a_users_error_is_printed_without_a_traceback(run):
    result, _ = run(error=DatasetError("there is nothing to train on", do="add images"))
    assert result.exit_code == launched.FAILED == cli.EXIT_USER_ERROR
    assert "there is nothing to train on" in result.output
    assert "Traceback" not in result.output


def test_a_full_disk_is_said_without_a_traceback(run):
    result, _ = run(error=OSError(errno.ENOSPC, "No space left on device"))
    assert result.exit_code == launched.FAILED
    assert "free some space" in result.output
    assert "Traceback" not in result.output


def test_a_stopped_run_says_how_to_go_on(run):
    result, _ = run(finished=False)
    assert result.exit_code == launched.STOPPED
    assert "the same command goes on" in result.stdout


def test_an_unknown_mode_is_refused(run):
    result, calls = run("--mode", "both")
    assert result.exit_code == 2
    assert not calls


def test_the_first_of_several_processes_speaks_for_all(run, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    result, _ = run()
    assert result.exit_code == 0
    assert "checkpoint" not in result.output
    assert not (tmp_path / "events.jsonl").exists()

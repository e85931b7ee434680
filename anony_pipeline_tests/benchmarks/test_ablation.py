import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anony_pipeline_tests.training import conftest, tiny
from benchmarks import ablation


def test_every_row_loads_and_every_line_names_rows_and_a_figure(tmp_path):
    for name in ablation.ROWS:
        config = ablation.settings_of(name, 3, "cpu", tmp_path)
        assert config.seed == 3
        # Nothing but data and what is made of it is shared.
        assert str(tmp_path / "outputs" / f"{name}.3") in config.paths.outputs
        assert config.paths.private.startswith(config.paths.outputs)
    for line in ablation.LINES:
        assert set(line.rows) <= set(ablation.ROWS)
        assert line.figure in ablation.FIGURES
        # Rows of one length: else a longer training would be taken for what the setting does.
        assert len({ablation.is_long(name) for name in line.rows}) == 1


def test_a_row_begins_without_what_a_stopped_one_left(tmp_path, monkeypatch):
    def train(config, **asked):
        assert not (tmp_path / "outputs").exists()
        raise KeyboardInterrupt

    (tmp_path / "outputs" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(ablation, "settings_of", lambda *row: tiny.make_config(tmp_path))
    monkeypatch.setattr(ablation.loop, "train", train)
    with pytest.raises(KeyboardInterrupt):
        ablation.measured("base", 0, "cpu", tmp_path)


@pytest.mark.slow
def test_a_row_that_was_stopped_is_measured_from_its_begin(tmp_path, monkeypatch):
    tiny.make_coco(tmp_path)
    conftest.patch_training(tmp_path, monkeypatch)
    config = tiny.make_config(tmp_path, training__pretrain_steps=0, training__max_steps=1)
    monkeypatch.setattr(ablation, "settings_of", lambda *row: config)
    monkeypatch.setattr(ablation, "judge", judge_that_is_stopped)
    with pytest.raises(KeyboardInterrupt):
        ablation.measured("base", 0, "cpu", tmp_path)
    (tmp_path / "outputs" / "left").touch()
    monkeypatch.setattr(ablation, "judge", lambda *asked: SEEN)
    row = ablation.measured("base", 0, "cpu", tmp_path)
    # What training costs is known, as if it had not been done before judging was stopped.
    assert row["figures"]["step_seconds"] > 0
    assert row["figures"]["similarity"] == 0.25
    assert not (tmp_path / "outputs" / "left").exists()
    assert len(row["halves"]["peak_gb"]) == ablation.HALVES
    json.dumps(row, allow_nan=False)


def test_memory_that_cannot_be_counted_is_no_figure(monkeypatch):
    def refuse(*text):
        raise PermissionError

    monkeypatch.setattr(ablation.Path, "write_text", refuse)
    costs = ablation.Costs(torch.device("cpu"))
    costs.on_event({"event": "begin", "stage": "joint"})
    costs.should_stop()
    figures = ablation.of_training([], list(zip(costs.seconds, costs.peaks_gb, strict=True)), 1.0)
    assert figures["step_seconds"] >= 0
    assert ablation.rounded(figures["peak_gb"]) is None


SEEN = SimpleNamespace(
    images=[{"id": 1}, {"id": 2}],
    of_faces=np.array([1]),
    of_plates=np.array([2]),
    figures=lambda chosen: {"similarity": 0.25},
)


def judge_that_is_stopped(*asked):
    raise KeyboardInterrupt


def test_jobs_share_devices_evenly_and_each_sees_its_own(monkeypatch):
    ran = []

    def run(command, **asked):
        ran.append((command[-2:], asked["env"].get("CUDA_VISIBLE_DEVICES")))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(ablation.subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    turns = ablation.Turns(["cuda:0", "cuda:1"])
    with turns.device() as first, turns.device() as second, turns.device() as third:
        assert [first, second] == ["cuda:0", "cuda:1"]
        assert third == first
        turns.alone(["--measure", "demo"], 1)
    # A job that ended makes room on its device.
    with turns.device() as fourth:
        assert fourth == "cuda:0"
        turns.alone(["--measure", "base"], 1)
    ablation.Turns(["cpu"]).alone([], 1)
    assert ran == [(["--device", "cuda"], "1"), (["--device", "cuda"], "1"), (["--device", "cpu"], None)]

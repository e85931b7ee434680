import copy
import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import signal
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anony_pipeline.errors import AnonyPipelineError, ConfigError, DatasetError
from anony_pipeline.models import weights
from anony_pipeline.models.generator import Generator
from anony_pipeline.models.recognizer import align
from anony_pipeline.ops import images
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.training import loop, networks, state, validation
from anony_pipeline.training.journal import COLUMNS, read_metrics
from anony_pipeline.training.networks import Critics
from anony_pipeline_tests.training import conftest, tiny

TENSORS = ("generator", "ema", "detector", "discriminator", "optimizer")


def tensors_of(folder):
    return {name: load_file(folder / f"{name}.safetensors") for name in TENSORS}


def assert_same(first, second):
    for name, tensors in tensors_of(first).items():
        others = load_file(second / f"{name}.safetensors")
        assert tensors.keys() == others.keys()
        for key, value in tensors.items():
            assert torch.equal(value, others[key]), f"{name}: {key}"
    for name in ("state.json", "optimizer.json"):
        one, two = (json.loads((folder / name).read_text()) for folder in (first, second))
        for content in (one, two):
            content.pop("seconds", None)
        assert one == two


@pytest.fixture(scope="module")
def whole(tiny_root, tmp_path_factory):
    """One run of mode `auto`, with its configuration, report and events."""
    folder = tmp_path_factory.mktemp("whole")
    own = {"paths__outputs": str(folder / "outputs"), "paths__private": str(folder / "private")}
    settings, events = tiny.make_config(tiny_root, **own), []
    with pytest.MonkeyPatch.context() as patch:
        report = conftest.patch_training(tiny_root, patch)(settings, on_event=events.append)
    return settings, report, events


def test_auto_pretrains_and_then_trains_jointly(whole):
    settings, report, events = whole
    assert (report.stage, report.step, report.finished) == ("joint", 2, True)
    assert report.checkpoint == Path(settings.paths.outputs) / "checkpoints" / "step_000002"
    assert (Path(settings.paths.outputs) / "pretrained" / "step_000001" / manifests.NAME).exists()
    assert report.manifest_sha256 == manifests.sha256_of(report.checkpoint / manifests.NAME)
    assert report.samples == {"face": 12, "license_plate": 6}
    # How many `step` events there are between depends on the clock.
    happened = [event["event"] for event in events if event["stage"] == "joint" and event["event"] != "step"]
    assert happened == ["begin", "validated", "saved", "end"]
    assert {"arcface_mean_sim", "easyocr_plate_acc", "fid", "val_map"} <= set(report.metrics)
    gap = report.metrics["train_mean_sim"] - report.metrics["arcface_mean_sim"]
    assert report.metrics["similarity_gap"] == pytest.approx(gap)


def test_the_metrics_file_has_the_plans_columns_first(whole):
    _, report, _ = whole
    with report.metrics_file.open() as file:
        rows = list(csv.DictReader(file))
    plan = ["step", "l1", "perceptual", "arcface_mean_sim", "easyocr_plate_acc", "fid", "val_map"]
    assert list(rows[0])[: len(plan)] == plan
    assert list(rows[0]) == list(COLUMNS)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert rows[0]["fid"] == ""
    assert float(rows[1]["fid"]) > 0
    assert all(row["l1"] and row["discriminator"] and row["detector"] for row in rows)


def test_curves_and_a_page_lie_beside_the_metrics_of_each_stage(whole):
    settings, report, _ = whole
    assert report.curves == report.metrics_file.with_name("curves.png")
    for folder, stage in (
        (report.metrics_file.parent, "joint"),
        (Path(settings.paths.outputs) / "pretrained", "pretrain"),
    ):
        assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
        text = (folder / "summary.html").read_text()
        assert f"<h1>tiny: {stage} training</h1>" in text
        assert str(folder) not in text
    assert report.manifest_sha256[:12] in (report.metrics_file.parent / "summary.html").read_text()


def test_pictures_show_original_masked_and_anonymized_and_are_private(whole):
    settings, _, _ = whole
    folder = Path(settings.paths.private) / "val_samples" / "step0002"
    pictures = sorted(folder.glob("face_*.png"))
    assert pictures
    assert images.read(pictures[0]).shape == (32, 96, 3)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(pictures[0].stat().st_mode) == 0o600


def test_checkpoints_and_outputs_hold_no_pictures(whole):
    settings, report, _ = whole
    files = [path for path in Path(settings.paths.outputs).rglob("*") if path.is_file()]
    assert {path.name for path in files if path.suffix in (".png", ".jpg", ".npy")} == {"curves.png"}
    assert {path.suffix for path in report.checkpoint.rglob("*") if path.is_file()} == {
        ".safetensors",
        ".json",
        ".yaml",
    }


def test_a_finished_run_is_not_trained_again(whole, tiny_training):
    settings, first, _ = whole
    second = tiny_training(settings)
    assert second.manifest_sha256 == first.manifest_sha256
    assert second.resumed_from == 2


def test_a_run_that_began_with_other_weights_of_the_same_name_is_not_taken_for_this_one(
    tiny_training, config, tmp_path, monkeypatch
):
    settings = config(paths__outputs=str(tmp_path / "outputs"))
    tiny_training(settings, mode="joint", max_steps=1)
    assert tiny_training(settings, mode="joint", max_steps=1).resumed_from == 1
    with monkeypatch.context() as patch:
        patch.setattr(loop, "base_version", lambda config: "what the package ships now")
        assert tiny_training(settings, mode="joint", max_steps=1).resumed_from == 0
    assert tiny_training(settings, mode="joint", max_steps=1).resumed_from == 1
    shipped = copy.deepcopy(weights.shipped_manifest())
    shipped["files"]["detector.safetensors"]["sha256"] = "another one"
    monkeypatch.setattr(weights, "shipped_manifest", lambda: shipped)
    assert tiny_training(settings, mode="joint", max_steps=1).resumed_from == 0


def test_without_pretraining_a_pretrained_generator_of_before_is_left_alone(tiny_training, config, tmp_path):
    places = {"paths__outputs": str(tmp_path / "outputs")}
    tiny_training(config(**places, training__pretrain_steps=1), mode="pretrain")
    settings = config(**places, training__pretrain_steps=0)
    alone = config(paths__outputs=str(tmp_path / "alone"), training__pretrain_steps=0)
    beside, apart = (tiny_training(one, mode="auto", max_steps=1).checkpoint for one in (settings, alone))
    files = [path.relative_to(beside) for path in beside.rglob("*.safetensors")]
    assert files
    for file in files:
        first, second = load_file(beside / file), load_file(apart / file)
        assert all(torch.equal(value, second[name]) for name, value in first.items()), file


def test_curves_are_of_whoever_they_are_shown_for(tiny_training, config, tmp_path):
    first, second = (config(paths__outputs=str(tmp_path / "outputs"), lr__generator=rate) for rate in (1e-3, 2e-3))
    assert tiny_training(first, mode="joint", max_steps=1).curves is not None
    assert tiny_training(second, mode="joint", max_steps=1).curves is not None
    assert tiny_training(second, mode="joint", max_steps=1).curves is not None
    assert tiny_training(first, mode="joint", max_steps=1).curves is None


@pytest.mark.parametrize(
    ("stage", "change", "same"),
    [
        ("pretrain", {"loss__adv_weight": 0.2}, True),
        ("pretrain", {"lr__generator": 1e-3}, False),
        ("joint", {"loss__adv_weight": 0.2}, False),
        ("joint", {"training__batch_size": 3}, False),
        ("joint", {"training__max_steps": 9, "checkpoint__keep_last": 7, "paths__outputs": "/elsewhere"}, True),
        ("joint", {"training__accumulation": 2, "training__max_bad_steps": 3}, True),
        ("joint", {"model__generator__diffusers": {"gradient_checkpointing": True, "enable_xformers": True}}, True),
        ("joint", {"model__generator__diffusers": {"tiny_vae": "taesd"}}, False),
        ("joint", {"model__offline": False, "model__plate_style": "styles.safetensors"}, True),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_a_run_is_resumed_only_with_settings_that_give_the_same(config, stage, change, same):
    prints = [loop.fingerprint(config(**changes), stage, "data") for changes in ({}, change)]
    assert (prints[0] == prints[1]) is same


@pytest.mark.parametrize(
    ("stage", "key", "same"),
    [
        ("joint", "judges__recognizer", False),
        ("pretrain", "judges__recognizer", True),
        ("joint", "judges__second_detector", True),
        ("joint", "lpips", False),
        ("pretrain", "lpips", False),
    ],
)
def test_a_critic_that_is_replaced_under_its_name_makes_another_run(config, tmp_path, stage, key, same):
    file = tmp_path / "critic.onnx"
    changes = {"model__lpips": {"backbone": str(file)}} if key == "lpips" else {key: str(file)}
    prints = []
    for content in (b"one", b"another"):
        file.write_bytes(content)
        prints.append(loop.fingerprint(config(**changes), stage, "data"))
    assert (prints[0] == prints[1]) is same


def test_another_beginning_is_another_run(config):
    assert loop.fingerprint(config(), "joint", "a") != loop.fingerprint(config(), "joint", "b")


def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(tiny_training, config, tmp_path):
    def settings(name):
        # Three of six steps end in the middle of a cycle.
        outputs = {"paths__outputs": str(tmp_path / name), "alternating__generator": 2}
        return config(**outputs, training__validate_every_steps=4)

    unbroken = tiny_training(settings("whole"), mode="joint", max_steps=6)
    tiny_training(settings("parts"), mode="joint", max_steps=3)
    resumed = tiny_training(settings("parts"), mode="joint", max_steps=6)
    assert resumed.resumed_from == 3
    assert_same(unbroken.checkpoint, resumed.checkpoint)


def test_joint_training_begins_with_the_pretrained_generator_beside_a_discriminator_of_another_capacity(
    tiny_training, config
):
    begun = tiny_training(config(), mode="pretrain", max_steps=4)
    reported = tiny_training(config(model__discriminator__channels=8), mode="joint", max_steps=1)
    first, later = (load_file(one.checkpoint / "generator.safetensors") for one in (begun, reported))
    # A step of AdamW moves a weight by its rate at most; a fresh generator is several steps away.
    assert 0 < max((first[name] - later[name]).abs().max() for name in first) < 1.1 * config().lr.generator


def test_the_metrics_of_a_checkpoint_are_on_disk_before_it_is(tiny_training, config, monkeypatch):
    """A kill leaves no time to write them afterwards, and the run goes on behind them."""
    found, save = {}, state.TrainingState.save

    def looked(self, root, *args):
        rows = read_metrics(root.parent / "metrics.csv")
        found[self.progress.step] = [(row["step"], "fid" in row) for row in rows]
        return save(self, root, *args)

    monkeypatch.setattr(state.TrainingState, "save", looked)
    every = {"training__validate_every_steps": 2, "checkpoint__save_every_steps": 2}
    tiny_training(config(**every), mode="joint", max_steps=4)
    assert found == {
        2: [(1, False), (2, True)],
        4: [(1, False), (2, True), (3, False), (4, True)],
    }


def test_another_configuration_in_the_same_outputs_loses_nothing_of_the_former(tiny_training, config):
    former, other = config(), config(loss__adv_weight=0.2)
    first = tiny_training(former, mode="joint", max_steps=2)
    rows = first.metrics_file.read_text()
    second = tiny_training(other, mode="joint", max_steps=2)
    assert second.resumed_from == 0
    assert second.metrics_file.read_text() != rows
    done = tiny_training(former, mode="joint", max_steps=2)
    assert (done.resumed_from, done.manifest_sha256) == (2, first.manifest_sha256)
    assert done.metrics_file.read_text() == rows
    longer = tiny_training(former, mode="joint", max_steps=3)
    assert longer.resumed_from == 2
    assert longer.metrics_file.name == "metrics.csv"
    assert longer.metrics_file.read_text().startswith(rows)
    again = tiny_training(other, mode="joint", max_steps=2)
    assert again.manifest_sha256 == second.manifest_sha256
    assert [row["step"] for row in read_metrics(again.metrics_file)] == [1, 2]


def test_a_damaged_checkpoint_in_the_way_is_replaced_and_stops_nobody(tiny_training, config):
    first = tiny_training(config(), mode="joint", max_steps=2)
    manifest = first.checkpoint / manifests.NAME
    manifest.write_text(manifest.read_text()[:40])
    again = tiny_training(config(), mode="joint", max_steps=2)
    assert again.resumed_from == 0
    assert again.checkpoint == first.checkpoint
    assert state.read_manifest(again.checkpoint)["step"] == 2


def test_a_request_to_stop_saves_and_the_next_run_goes_on(tiny_training, config, tmp_path):
    unbroken = tiny_training(config(paths__outputs=str(tmp_path / "whole")), mode="joint", max_steps=4)
    asked = []

    def should_stop():
        asked.append(None)
        # In the middle of the second cycle: the generator acted, the others did not yet.
        return len(asked) >= 4

    settings = config(paths__outputs=str(tmp_path / "parts"))
    stopped = tiny_training(settings, mode="joint", max_steps=4, should_stop=should_stop)
    assert (stopped.finished, stopped.step) == (False, 2)
    resumed = tiny_training(settings, mode="joint", max_steps=4)
    assert resumed.finished
    assert_same(unbroken.checkpoint, resumed.checkpoint)


def test_a_cycle_calls_the_generator_once(tiny_training, config, monkeypatch):
    calls = []
    fill = Generator.fill

    def counted(self, *args, **kwargs):
        if self.training:
            calls.append(torch.is_grad_enabled())
        return fill(self, *args, **kwargs)

    monkeypatch.setattr(Generator, "fill", counted)
    report = tiny_training(config(), mode="joint", max_steps=3)
    row = list(csv.DictReader(report.metrics_file.open()))[-1]
    assert all(row[name] for name in ("l1", "discriminator", "detector"))
    assert calls == [True] * 3


def test_detector_and_discriminator_may_learn_alone(tiny_training, config):
    report = tiny_training(config(alternating__generator=0), mode="joint", max_steps=2)
    assert report.step == 2
    row = list(csv.DictReader(report.metrics_file.open()))[-1]
    assert row["l1"] == ""
    assert row["discriminator"]


def test_without_a_discriminator_the_others_go_on(tiny_training, config):
    report = tiny_training(config(model__discriminator__enabled=False), mode="joint", max_steps=1)
    assert not (report.checkpoint / "discriminator.safetensors").exists()


@pytest.mark.parametrize(("left", "gone"), [("face", "license_plate"), ("license_plate", "face")])
def test_one_kind_alone_trains_and_says_so(tiny_training, config, monkeypatch, tmp_path, caplog, left, gone):
    coco = tiny.make_coco(tmp_path / "own", faces=left == "face", plates=left != "face")
    monkeypatch.setattr(loop.loaders, "open_split", lambda config, split: coco)
    own = {f"paths__{name}": str(tmp_path / name) for name in ("targets", "cache")}
    report = tiny_training(config(**own), mode="joint", max_steps=1)
    assert set(report.samples) == {left}
    assert f"no {gone} with a target" in caplog.text


def test_outputs_with_a_file_in_their_way_are_refused(tiny_training, config, tmp_path):
    (tmp_path / "outputs").touch()
    with pytest.raises(ConfigError, match=r"nothing can be written(.|\n)*outputs is a file"):
        tiny_training(config())


def test_an_empty_data_set_is_refused(tiny_training, config, monkeypatch, tiny_root):
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    empty = dataclasses.replace(coco, annotations=[])
    monkeypatch.setattr(loop.loaders, "open_split", lambda config, split: empty)
    with pytest.raises(DatasetError, match="nothing to train on"):
        tiny_training(config())


@pytest.mark.parametrize("wrong", ["train", "val"])
def test_plates_of_a_style_without_a_file_are_refused(tiny_training, config, tiny_root, monkeypatch, wrong):
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    spoiled = dataclasses.replace(coco, images=[image | {"plate_style": "QQ"} for image in coco.images])
    monkeypatch.setattr(loop.loaders, "open_split", lambda config, split: spoiled if split == wrong else coco)
    with pytest.raises(DatasetError, match=r"(?s)QQ, 6 images.*configs/plate_styles"):
        tiny_training(config())


def test_without_a_weight_of_its_loss_no_discriminator_learns_or_is_kept(tiny_training, config):
    report = tiny_training(config(loss__adv_weight=0), mode="joint", max_steps=2)
    rows = read_metrics(report.metrics_file)
    assert len(rows) == 2
    assert not {"adv", "discriminator", "r1"} & set().union(*rows)
    assert not (report.checkpoint / "discriminator.safetensors").exists()


@pytest.mark.parametrize(("part", "name"), [(validation.Validator, "_fill"), (networks, "load_networks")])
def test_memory_that_runs_out_outside_of_a_step_is_explained_too(tiny_training, config, monkeypatch, part, name):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(part, name, refuse)
    with pytest.raises(AnonyPipelineError, match=r"(?s)ran out of memory.*joint, .*step.*batch_size 2"):
        tiny_training(config(), mode="joint", max_steps=1)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"),
        MemoryError("out"),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_memory_that_runs_out_names_what_takes_it_with_the_values(tiny_training, config, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(Generator, "fill", refuse)
    with pytest.raises(AnonyPipelineError) as caught:
        tiny_training(config(training__batch_size=6, training__accumulation=4), mode="joint", max_steps=1)
    message = str(caught.value)
    for part in ("batch_size 6", "accumulation 4", "2 crops in a pass", "gradient_checkpointing false", "face_size 32"):
        assert part in message
    assert "plate_height 32" in message
    assert "joint, step 0" in message


def test_other_errors_of_a_step_stay_what_they_are(tiny_training, config, monkeypatch):
    monkeypatch.setattr(Generator, "fill", lambda *args, **kwargs: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        tiny_training(config(), mode="joint", max_steps=1)


def run_on(root, outputs, until):
    """Train as another process does; a checkpoint after each step."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        train = conftest.patch_training(root, patch)
        changes = {"paths__outputs": outputs, "paths__private": f"{outputs}/private", "checkpoint__save_every_steps": 1}
        train(tiny.make_config(root, **changes), mode="joint", max_steps=until)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments_end_in_the_same_weights(tiny_root, tmp_path):
    # A fork server has imported torch once: a process that is killed costs a second, and not twelve.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])

    def start(name, until):
        process = server.Process(target=run_on, args=(tiny_root, str(tmp_path / name), until))
        process.start()
        return process

    for until in (2, 4):
        begin = time.monotonic()
        first = start("timed", until)
        first.join(timeout=300)
        assert first.exitcode == 0
    # Of a start that goes on for two steps.
    seconds = time.monotonic() - begin

    checkpoints, moments = tmp_path / "killed" / "checkpoints", random.Random(0)
    kills, half_written, reached = 0, 0, set()
    while kills < 50:
        process = start("killed", 10_000)
        process.join(timeout=moments.uniform(0, seconds))
        os.kill(process.pid, moments.choice([signal.SIGKILL, signal.SIGTERM]))
        process.join()
        assert process.exitcode in (-signal.SIGKILL, -signal.SIGTERM)
        kills += 1
        # What was being written when the kill came is no checkpoint; what is one is whole.
        half_written += any(not (path / manifests.NAME).exists() for path in checkpoints.glob("*"))
        for saved in state.list_checkpoints(checkpoints):
            state.read_manifest(saved.path)
            reached.add(saved.step)
    until = max(reached) + 2
    for name in ("killed", "whole"):
        last = start(name, until)
        last.join(timeout=600)
        assert last.exitcode == 0
    assert len(reached) > 10
    assert half_written, "no kill met a checkpoint that was being written"
    assert_same(*(tmp_path / name / "checkpoints" / f"step_{until:06d}" for name in ("whole", "killed")))
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "killed")]
    for row in itertools.chain(*rows):
        for taken in ("seconds", "crops_per_second"):
            del row[taken]
    assert rows[0] == rows[1]


class ColorTwin:
    """Sees a face's mean color, as a differentiable recognizer."""

    input_size = 112

    def __call__(self, crops):
        return torch.nn.functional.normalize(crops.mean(dim=(2, 3)))


def test_the_margin_is_what_two_strangers_reach_in_one_pair_of_twenty(data):
    samples = data.samples[Kind.FACE]
    colors, names = [], []
    for crop, row in zip(samples.originals, samples.rows, strict=True):
        # By the judge's own way of cutting faces out.
        seen = align(crop, Region(Kind.FACE, row.box_xyxy, landmarks=row.landmarks), 112) / 127.5 - 1
        colors.append(seen.mean(axis=(0, 1)) / np.linalg.norm(seen.mean(axis=(0, 1))))
        names.append(row.identity)
    strangers = [(i, j) for i in range(len(names)) for j in range(i) if names[i] != names[j]]
    assert len(strangers) < len(names) * (len(names) - 1) / 2
    wanted = np.quantile([colors[i] @ colors[j] for i, j in strangers], 0.95)
    assert wanted > 0.1
    device = torch.device("cpu")
    assert loop.measure_margin(Critics(recognizer=ColorTwin()), data, device) == pytest.approx(wanted, abs=0.01)
    assert loop.measure_margin(Critics(), data, device) == 0


def test_the_identity_hinge_has_the_measured_margin(tiny_training, config, monkeypatch):
    margins = []
    hinge = loop.identity.identity_hinge
    monkeypatch.setattr(loop.identity, "identity_hinge", lambda *given: margins.append(given[2]) or hinge(*given))
    monkeypatch.setattr(loop, "measure_margin", lambda *_: 0.37)
    monkeypatch.setattr(loop.batches, "kind_of_step", lambda *_: Kind.FACE)
    report = tiny_training(config(), mode="joint", max_steps=1)
    assert margins == [0.37]
    assert json.loads((report.checkpoint / "state.json").read_text())["margin"] == 0.37


def test_a_run_keeps_as_many_checkpoints_as_asked(tiny_training, config):
    settings = config(checkpoint__save_every_steps=1, checkpoint__keep_last=2)
    report = tiny_training(settings, mode="joint", max_steps=3)
    assert sorted(path.name for path in report.checkpoint.parent.iterdir()) == ["step_000002", "step_000003"]


@pytest.mark.parametrize("stage", ["pretrain", "joint"])
def test_tensorboard_shows_what_the_metrics_file_says(whole, stage):
    _, report, _ = whole
    folder = report.metrics_file.parent
    folder = folder / "pretrained" if stage == "pretrain" else folder
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    shown = {}
    for tag in board.Tags()["scalars"]:
        for event in board.Scalars(tag):
            shown[event.step, tag.split("/")[1]] = event.value
    with (folder / "metrics.csv").open() as file:
        rows = {int(row.pop("step")): row for row in csv.DictReader(file)}
    written = {(step, name): float(text) for step, row in rows.items() for name, text in row.items() if text}
    assert len(written) > 5
    assert {key: shown.get(key, "not shown") for key in written} == pytest.approx(written, rel=1e-4, abs=1e-6)
    trained = {tag for tag in board.Tags()["scalars"] if tag.startswith("train/")}
    assert {"train/l1", "train/crops_per_second"} <= trained
    assert "val/fid" in board.Tags()["scalars"]


def test_rates_and_times_are_those_of_the_clock(tiny_training, config, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 2))
    report = tiny_training(config(training__batch_size=3), mode="joint", max_steps=2)
    rows = list(csv.DictReader(report.metrics_file.open()))
    # An action takes half a second, and a step three of them.
    assert [float(row["crops_per_second"]) for row in rows] == [6, 6]
    assert [float(row["seconds"]) for row in rows] == [1.5, 3]

"""The command line: thin, quick to answer, and clear about what was wrong."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from anony_pipeline import cli, plan, printing, project
from anony_pipeline.config import loading
from anony_pipeline.datasets import unify
from anony_pipeline.errors import ConfigError

COMMANDS = (
    "doctor",
    "init",
    "demo",
    "scorecard",
    "compare",
    "cross-fit",
    "streetscape",
    "unify",
    "plan",
    "train",
    "evaluate",
    "anonymize",
    "colab-paths",
    "reap",
    "purge",
)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(part) for part in arguments])


def process(*arguments, cwd=None):
    command = [sys.executable, "-W", "ignore", "-m", "anony_pipeline", *(str(part) for part in arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def pp4av(folder):
    """Two frames with a plate each, in PP4AV's layout."""
    from PIL import Image

    for i in range(2):
        for part in ("images/paris", "annotations/paris"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (10 * i, 90, 90)).save(folder / f"images/paris/{i}.jpg")
        (folder / f"annotations/paris/{i}.txt").write_text("1 0.5 0.5 0.25 0.125\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_the_documented_commands_are_all_there():
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} == set(COMMANDS)


def test_the_version_is_the_packages():
    from anony_pipeline import __version__

    assert invoke("--version").output.strip() == __version__


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["doctor"], ["unify", "--pp4av", "{data}", "--output", "{out}"]]
)
def test_torch_is_not_loaded_for(arguments, tmp_path):
    pp4av(tmp_path / "data")
    filled = [part.format(data=tmp_path / "data", out=tmp_path / "out") for part in arguments]
    code = (
        "import sys\nfrom anony_pipeline import cli\n"
        f"sys.argv = ['anony', *{filled}]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({'torch', 'diffusers', 'dagster'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("LOADED []")


def test_an_error_that_the_user_can_mend_has_no_traceback(tmp_path):
    run = process("plan", "--config", tmp_path / "none.yaml")
    assert run.returncode == cli.EXIT_USER_ERROR
    assert run.stdout == ""
    assert "there is no such configuration file" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "check the permissions"), (errno.EBADF, None)],
)
def test_a_disk_that_refuses_is_said_without_a_traceback(monkeypatch, tmp_path, capsys, number, said):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "out"))

    monkeypatch.setattr(project, "copy_to", refuse)
    monkeypatch.setattr(sys, "argv", ["anony", "init", str(tmp_path / "out")])
    with pytest.raises(SystemExit if said else OSError) as caught:
        cli.main()
    if said:
        assert caught.value.code == cli.EXIT_USER_ERROR
        printed = capsys.readouterr().err
        assert said in printed
        assert "out" in printed


def test_all_mistakes_of_a_configuration_are_printed(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("sed: 1\nface_steps: 9\n")
    run = process("train", "--config", file)
    assert run.returncode == cli.EXIT_USER_ERROR
    assert "did you mean seed?" in run.stderr
    assert "face_steps" in run.stderr


def test_unify_writes_the_set_and_says_what_is_in_it(tmp_path):
    result = invoke("unify", "--pp4av", pp4av(tmp_path / "data"), "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["boxes"] == 2
    assert "pp4av" in result.output


def test_names_with_brackets_and_blanks_are_printed_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pp4av(Path("drive [old]"))
    assert "drive [old]/out" in invoke("unify", "--pp4av", folder, "--output", folder / "out").output
    assert "cd 'drive [old]/run' && anony demo" in " ".join(invoke("init", folder / "run").output.split())


def test_a_problem_s_image_is_named_as_it_is():
    from anony_pipeline.anonymize.folder import FolderReport, Problem

    report = FolderReport(problems=[Problem("trip [/edited].jpg", "it has [no] end")], other_files=Counter({".[x]": 1}))
    console = Console(width=200, file=io.StringIO())
    console.print(printing.folder(report))
    for text in ("trip [/edited].jpg", "it has [no] end", ".[x]"):
        assert text in console.file.getvalue()


@pytest.mark.parametrize("command", [["unify"], ["streetscape"], ["anonymize", "x", "--checkpoint", "y"]])
def test_an_output_with_a_file_in_its_way_is_refused_first(command, tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke(*command, "--output", tmp_path / "file" / "below")
    assert isinstance(result.exception, ConfigError)
    assert f"{tmp_path / 'file'} is a file" in str(result.exception)


def test_unify_takes_the_sources_of_a_configuration_as_a_run_does(tmp_path):
    layer = tmp_path / "layer.yaml"
    source = {"name": "streets", "layout": "pp4av", "root": str(pp4av(tmp_path / "data")), "exhaustive": ["face"]}
    layer.write_text(json.dumps({"data": {"sources": [source]}, "paths": {"unified": str(tmp_path / "out")}}))
    result = invoke("unify", "--config", layer, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    images = [
        image
        for split in ("train", "val")
        for image in json.loads((tmp_path / "out" / f"unified_{split}.json").read_text())["images"]
    ]
    assert {image["source"] for image in images} == {"streets"}
    assert all(image["not_exhaustive_category_ids"] for image in images)
    assert unify.made_otherwise(loading.load([layer])) == []
    other = loading.load([layer], ["data.splits.block_frames=7"])
    assert len(unify.made_otherwise(other)) == 2
    assert [f.needed for f in plan.examine(other) if "made with other settings" in f.what] == [False, False]


def test_unify_takes_folders_or_a_configuration_and_not_both(tmp_path):
    result = invoke("unify", "--pp4av", tmp_path, "--config", "configs/smoke.yaml", "--output", tmp_path / "out")
    assert result.exit_code == 2


def test_a_data_set_is_never_drawn_over(tmp_path):
    photo = tmp_path / "widerface" / "WIDER_train" / "images" / "a" / "x.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_text("mine")
    result = invoke("streetscape", "--output", tmp_path, "--people", 1, "--scenes", 1)
    assert "would be overwritten" in str(result.exception)
    assert photo.read_text() == "mine"


def test_unify_wants_at_least_one_source(tmp_path):
    result = invoke("unify", "--output", tmp_path)
    assert result.exit_code == 2
    assert "--widerface DIR" in result.output


def test_init_copies_what_is_needed_and_never_overwrites(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("mine")
    assert invoke("init", tmp_path).exit_code == 0
    assert (tmp_path / "configs/demo.yaml").read_text() == "mine"
    assert (tmp_path / "workspace.yaml").is_file()
    assert (tmp_path / "dagster.yaml").is_file()
    assert loading.load([tmp_path / "configs/smoke.yaml"]).paths.outputs == str(tmp_path / "outputs/smoke")


def test_init_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    result = invoke("init", tmp_path / "file")
    assert isinstance(result.exception, ConfigError)
    assert (tmp_path / "file").read_text() == "mine"


def test_configurations_are_found_from_the_working_folder_first(tmp_path, monkeypatch):
    project.copy_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert project.find("configs/demo.yaml") == str(tmp_path / "configs/demo.yaml")
    with pytest.raises(Exception, match=r"no such configuration file(.|\n)*configs/demo\.yaml"):
        project.find("configs/none.yaml")


class TestColabPaths:
    """`anony colab-paths` finds the data and writes an overlay that loads."""

    @pytest.fixture
    def runtime(self, tmp_path, monkeypatch):
        project.copy_to(tmp_path)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "drive").mkdir()
        return tmp_path

    def overlay(self, runtime, *arguments):
        result = invoke("colab-paths", "--drive", runtime / "drive", *arguments)
        assert result.exit_code == 0, result.output + str(result.exception)
        layers = [runtime / "configs/planB_colab.yaml", runtime / "configs/paths_colab.yaml"]
        return loading.load(layers)

    def test_unified_files_come_first(self, runtime):
        for folder in ("drive/data/unified", "data/raw/widerface", "data/raw/pp4av"):
            (runtime / folder).mkdir(parents=True)
        for name in ("unified_train.json", "unified_val.json"):
            (runtime / "drive/data/unified" / name).write_text("{}")
        config = self.overlay(runtime)
        assert config.paths.unified == str(runtime / "drive/data/unified")
        assert config.paths.outputs == str(runtime / "drive/outputs/planB_colab")

    def test_otherwise_the_sources_are_merged(self, runtime):
        (runtime / "data/raw/widerface").mkdir(parents=True)
        (runtime / "drive/data/pp4av").mkdir(parents=True)
        config = self.overlay(runtime)
        assert [source.root for source in config.data.sources] == [
            str(runtime / "data/raw/widerface"),
            str(runtime / "drive/data/pp4av"),
        ]
        assert config.data.sources[1].plate_styles["paris"] == "FR"

    @pytest.mark.parametrize(
        ("mode", "message"), [("auto", "data set widerface is nowhere"), ("unified", "unified files are nowhere")]
    )
    def test_data_that_is_nowhere_is_named_with_the_places(self, runtime, mode, message):
        run = process("colab-paths", "--drive", runtime / "drive", "--mode", mode, cwd=runtime)
        assert run.returncode == cli.EXIT_USER_ERROR
        assert message in run.stderr


def test_purge_removes_private_folders_and_nothing_else(tmp_path, monkeypatch):
    from anony_pipeline.storage import private

    private.folder(tmp_path / "data/targets", retention_days=30, holds="crops")
    private.folder(tmp_path / "outputs/x/private", retention_days=30, holds="crops")
    (tmp_path / "outputs/x/scorecard.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert "0 private folders" in invoke("purge").output
    assert "2 private folders" in invoke("purge", "--all").output
    assert (tmp_path / "outputs/x/scorecard.json").exists()


@pytest.mark.parametrize("wrong", ["mistyped", "a_file"])
def test_purge_of_what_is_no_folder_removes_nothing_and_says_so(tmp_path, wrong):
    from anony_pipeline.storage import private

    kept = private.folder(tmp_path / "data/targets", retention_days=30, holds="crops")
    (tmp_path / "a_file").touch()
    result = invoke("purge", "--all", tmp_path / "data", tmp_path / wrong)
    assert result.exit_code == cli.EXIT_USER_ERROR
    assert "removed" not in result.output
    assert kept.exists()


def test_anony_train_stops_as_the_original_command_does(monkeypatch, tmp_path):
    from anony_pipeline.training import loop

    def train(config, *, mode, max_steps, on_event, should_stop):
        on_event({"event": "begin"})
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        return loop.TrainReport(tmp_path / "step_000007", "0" * 64, mode, max_steps, False, 0, 1.0)

    monkeypatch.setattr(loop, "train", train)
    result = invoke("train", "--config", project.find("configs/demo.yaml"), "--max_steps", "7")
    assert result.exit_code == 130
    assert "the same command goes on from here" in result.output


def test_plan_refuses_what_cannot_run_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "out", Console(width=400))
    layer = tmp_path / "layer.yaml"
    layer.write_text(yaml.safe_dump({"model": {"offline": True}, "device": "cpu", "precision": "fp16"}))
    base = project.find("configs/planB_colab.yaml")
    result = invoke("plan", "--config", base, "--config", layer, "--set", f"paths.weights={tmp_path}")
    assert result.exit_code == 1
    flat = " ".join(result.output.split())
    assert "fp16 needs a GPU" in flat
    assert "sd2-inpainting is not here" in flat


def planned(*overrides):
    from anony_pipeline import plan

    config = loading.load([Path(__file__).parents[2] / "configs/demo.yaml"], overrides)
    return {finding.name: finding for finding in plan.examine(config)}


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("what learns", 'model.finetune.learnable_layers=["unet.up_blocks[9]"]', "unet.up_blocks[9]"),
        ("what learns", "model.finetune.style_mix={QQ: {plate: 1.0}}", "plate style that does not exist (QQ)"),
        ("xFormers", "model.generator.diffusers.enable_xformers=true", "this run is on cpu"),
        ("tiny autoencoder", "model.generator.diffusers.tiny_vae=nowhere", "nowhere is not here"),
        ("LPIPS", "model.lpips={network: vgg, backbone: none.pth}", "none.pth"),
        ("disk", "paths.outputs=memory://outputs", "on this machine alone"),
        ("targets.landmarks", "targets.landmarks=/nowhere/yunet.onnx", "/nowhere/yunet.onnx is not there"),
        (
            "model.plate_style",
            "model.plate_style=/nowhere/styles.safetensors",
            "styles.safetensors: the weights file is missing",
        ),
        ("recognizer", "judges.recognizer=docs", "docs holds no weights"),
    ],
)
def test_plan_refuses_what_training_would_refuse_later(name, override, said):
    finding = planned("device=cpu", override)[name]
    assert finding.needed
    assert not finding.fine
    assert said in finding.what


def test_plan_misses_the_judges_that_gates_need_and_no_others():
    found = planned("judges.held_out_reader=null")
    assert "the gates that need them fail" in found["held out reader"].what
    assert not any(name.startswith("second") for name in found)


def test_plan_looks_at_the_users_plate_styles(monkeypatch, tmp_path):
    monkeypatch.setattr(project, "plate_styles_folder", lambda: tmp_path)
    (tmp_path / "XX.yaml").write_text("key: XX\ncolour: red\n")
    finding = planned()["plate styles"]
    assert finding.needed
    assert not finding.fine
    assert "colour: there is no such key" in finding.what


def test_plan_looks_at_the_styles_that_a_source_names(tmp_path):
    sources = loading.load([Path(__file__).parents[2] / "configs/demo.yaml"]).model_dump(mode="json")["data"]["sources"]
    sources[1]["plate_styles"] = {"paris": "QQ", "zurich": "CH", "none": None}
    found = planned(f"paths.unified={tmp_path}", f"data.sources={json.dumps(sources)}")
    assert "plate styles of widerface" not in found
    finding = found["plate styles of pp4av"]
    assert not finding.fine
    assert "QQ in plate_styles" in finding.what


def test_plan_looks_into_the_unified_files(tmp_path):
    from anony_pipeline.datasets import coco
    from anony_pipeline_tests.training import tiny

    def split(name):
        return planned(f"paths.unified={tmp_path}")[f"unified data, {name}"]

    tiny.make_coco(tmp_path, plates=False)
    (tmp_path / "unified_val.json").write_text("{")
    assert not split("val").fine
    assert "can't be read" in split("val").what
    assert split("train").fine
    assert "6 images, 12 faces and 0 plates of 8 px or more: the generator learns one kind alone" in split("train").what
    (tmp_path / "images" / "003.png").unlink()
    assert split("train").what == "unified_train.json: images/003.png of tiny is not there"
    path = tmp_path / "unified_train.json"
    tiny.make_coco(tmp_path)
    path.write_text(path.read_text().replace('"plate_style": "FR"', '"plate_style": "QQ"'))
    assert "unified_train.json: QQ, 6 images; known: " in split("train").what
    coco.save(path, {"sources": {"tiny": {"root": "."}}}, [], [])
    assert not split("train").fine
    assert "0 images" in split("train").what


def test_plan_looks_at_a_folders_unet_without_loading_it(tmp_path):
    from anony_pipeline_tests.models.tiny_pipelines import save_pipeline

    def what_learns(folder):
        return planned(f"model.generator.diffusers.model_id={folder}")["what learns"].what

    folder = save_pipeline("sd15", tmp_path / "nine")
    assert "layers of the UNet by LoRA" in what_learns(folder)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:-1])
    assert "cut off" in what_learns(folder)
    assert "4 input channels" in what_learns(save_pipeline("sd15", tmp_path / "four", in_channels=4))
    lacking = save_pipeline("sd15", tmp_path / "lacking")
    shutil.rmtree(lacking / "tokenizer")
    assert "without tokenizer" in what_learns(lacking)


def test_doctor_names_what_is_missing(monkeypatch, tmp_path):
    from anony_pipeline import doctor

    monkeypatch.setattr(doctor, "_requirements", lambda: ["numpy", "no-such-package"])
    monkeypatch.setattr(doctor, "SHIPPED_WEIGHTS", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "relative")
    result = invoke("doctor")
    assert result.exit_code == 1
    bad = [line for line in result.output.splitlines() if "missing" in line]
    assert any("no-such-package" in line for line in bad)
    assert any("shipped weights" in line for line in bad)
    assert any("DAGSTER_HOME" in line for line in bad)


def test_doctor_names_a_broken_plate_style(monkeypatch, tmp_path):
    monkeypatch.setattr(project, "plate_styles_folder", lambda: tmp_path)
    (tmp_path / "XX.yaml").write_text("key: XX\ncolour: red\n")
    result = invoke("doctor")
    assert result.exit_code == 1
    flat = " ".join(result.output.split())
    assert "plate styles" in flat
    assert "colour: there is no such key" in flat


@pytest.mark.parametrize("home", ["relative", "/nowhere/at/all"])
@pytest.mark.parametrize("command", ["demo", "reap"])
def test_a_dagster_home_that_dagster_would_not_take_is_refused_before_anything_starts(monkeypatch, home, command):
    monkeypatch.setenv("DAGSTER_HOME", home)
    monkeypatch.setattr(cli, "_run", pytest.fail)
    error = invoke(command).exception
    assert isinstance(error, ConfigError)
    assert error.got == home
    assert "mkdir -p" in error.do


def test_doctor_notices_two_builds_of_opencv(monkeypatch):
    from anony_pipeline import doctor

    monkeypatch.setattr(doctor, "_version_of", lambda name: "5.0" if name in doctor.OPENCV_BUILDS[:2] else None)
    finding = doctor._opencv()
    assert not finding.fine
    assert "pip uninstall -y opencv-python opencv-python-headless" in finding.do


def test_doctor_notices_an_xformers_of_another_torch(monkeypatch):
    from anony_pipeline import doctor

    monkeypatch.setattr(doctor, "_version_of", {"xformers": "0.0.35", "torch": "2.9.1+cpu"}.get)
    assert not doctor._xformers().fine
    monkeypatch.setattr(doctor, "_version_of", {"xformers": "0.0.35", "torch": "2.10.0+cu128"}.get)
    assert doctor._xformers().fine


def test_plan_counts_a_steps_crops_as_training_draws_them():
    from anony_pipeline import plan
    from anony_pipeline.config import loading

    config = loading.load(
        [Path(__file__).parents[2] / "configs/planB_colab.yaml"], ["training.batch_size=6", "training.accumulation=4"]
    )
    (work,) = [finding.what for finding in plan.examine(config) if finding.name == "work"]
    assert "joint steps of 6 crops, 2 at a time" in work


@pytest.mark.parametrize(
    ("gpus", "fits", "shared"),
    [([], True, True), ([80e9], True, False), ([80e9] * 4, True, True), ([8e9] * 4, False, True)],
)
def test_plan_says_what_is_shared_out_and_that_all_weights_must_fit(monkeypatch, gpus, fits, shared):
    from anony_pipeline import plan
    from anony_pipeline.config import loading

    monkeypatch.setattr(plan, "_gpus_bytes", lambda: gpus)
    files = [Path(__file__).parents[2] / "configs" / name for name in ("planB_colab.yaml", "planB_sdxl.yaml")]
    found = {finding.name: finding for finding in plan.examine(loading.load(files, ["training.fsdp=true"]))}
    assert found["memory for weights"].fine is fits
    # SDXL: 2.6 and 0.9 billion weights of two bytes.
    assert "6.9 GB for all weights while they are loaded" in found["memory for weights"].what
    assert "1.8 GB in each process, and the UNet's frozen 5.1 GB" in found["memory for weights"].what
    assert found["training.fsdp"].fine is shared
    assert "training.fsdp" not in {finding.name for finding in plan.examine(loading.load(files))}

"""The wheel works where there is no clone: `anony doctor` and `anony init`."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from anony_pipeline.config import loading

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel in a folder of its own, beside the packages of this environment, and far from the clone."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder


def anony(installed, *arguments, cwd):
    code = "import sys; from anony_pipeline import cli; sys.stderr.write(cli.__file__); cli.main()"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert str(installed) in run.stderr, "the clone's code ran instead of the wheel's"
    return run


def test_the_wheel_holds_what_it_needs_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "anony_pipeline/project_files/configs/demo.yaml" in names
    assert "anony_pipeline/project_files/dagster.yaml" in names
    assert "anony_pipeline/plates/styles/FR.yaml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("anony_pipeline_tests", "data/", "outputs/"))]


def test_the_wheel_holds_the_weights_of_its_manifest(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"anony_pipeline/weights/{path.name}" for path in (ROOT / "anony_pipeline/weights").iterdir() if path.is_file()
    }
    assert shipped <= names


def test_doctor_answers_outside_the_clone(installed, tmp_path):
    run = anony(installed, "doctor", cwd=tmp_path)
    assert "Python" in run.stdout
    assert "anony init DIR" in run.stdout


def test_init_makes_a_project_outside_the_clone(installed, tmp_path):
    run = anony(installed, "init", tmp_path / "mine", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    made = {path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*.yaml")}
    assert made >= {"configs/demo.yaml", "configs/runs/demo.yaml", "workspace.yaml", "dagster.yaml"}
    config = loading.load([tmp_path / "mine/configs/demo.yaml"])
    assert config.paths.outputs == str(tmp_path / "mine/outputs/demo")


def test_the_code_location_of_that_project_loads(installed, tmp_path):
    anony(installed, "init", tmp_path, cwd=tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    environment.pop("DAGSTER_HOME", None)
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

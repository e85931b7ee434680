"""A folder with the smoke experiment, as `anony init` makes it, and what the longer proofs do in it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from anony_pipeline import project

ROOT = Path(__file__).parents[2]


def environment(home):
    """What a command in the folder is run with: quiet, without telemetry, on this checkout's code."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DAGSTER_HOME": str(home / "dagster_home"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONWARNINGS": "ignore",
    }


def make_home(home):
    """Configurations, workspace, and a DAGSTER_HOME with absolute paths."""
    project.copy_to(home)
    dagster_home = home / "dagster_home"
    dagster_home.mkdir()
    settings = (ROOT / "dagster.yaml").read_text().replace(".dagster", str(dagster_home))
    (dagster_home / "dagster.yaml").write_text(settings)
    return home


def copy_home(made, home):
    """A folder of one test's own, with the data of one that was made before."""
    make_home(home)
    shutil.copytree(made / "data", home / "data")
    return home


def command(home, *arguments, **options):
    """Run a command of this interpreter in the folder until it ends."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def run_config(home, *, name="run", overrides=(), launcher=None):
    """Write a run config of the smoke experiment; returns its path."""
    resources = {"experiment": {"config": {"layers": ["configs/smoke.yaml"], "overrides": list(overrides)}}}
    if launcher is not None:
        resources["launcher"] = {"config": launcher}
    file = home / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"resources": resources}))
    return file


def job(home, name, config):
    """The command line of a job, for `subprocess`."""
    arguments = ["job", "execute", "-m", "anony_pipeline.definitions", "-j", name, "-c", str(config)]
    return [sys.executable, "-m", "dagster", *arguments]


def until(true, seconds, what):
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s in vain: {what}")

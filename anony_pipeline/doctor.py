"""What is here, what is missing, and what to do: looked up without loading torch or any model."""

import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anony_pipeline import project
from anony_pipeline.errors import ConfigError
from anony_pipeline.storage import manifests

DISTRIBUTION = "anony-pipeline"
SUPPORTED_PYTHON = ((3, 11), (3, 12))
OPENCV_BUILDS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
SHIPPED_WEIGHTS = project.PACKAGE / "weights"
# xFormers loads only with the torch that it was built for, whatever its metadata says.
TORCH_OF_XFORMERS = {"0.0.35": "2.10.0"}
DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        fine: Whether it is as it should be.
        what: What was found.
        do: What to do if it is not fine.
        needed: Whether the program can't do its work without it.
    """

    name: str
    fine: bool
    what: str
    do: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Look at this machine and this installation."""
    return [
        _python(),
        *_packages(),
        _opencv(),
        _xformers(),
        _machine(),
        _gpu(),
        _weights(),
        _disk(),
        _dagster_home(),
        _project(),
        plate_styles(),
    ]


def _python() -> Finding:
    version = sys.version_info[:2]
    allowed = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHON)
    return Finding(
        "Python",
        version in SUPPORTED_PYTHON,
        platform.python_version(),
        f"use Python {allowed}: `make env PYTHON=python3.11`",
    )


def _packages() -> Iterator[Finding]:
    for name in _requirements():
        # OpenCV has a row of its own: any of its builds will do.
        if name in OPENCV_BUILDS:
            continue
        version = _version_of(name)
        yield Finding(name, version is not None, version or "missing", f"pip install {name}, or `make env`")


def _requirements() -> list[str]:
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    names = [re.match(r"[A-Za-z0-9._-]+", line) for line in requirements if "extra ==" not in line]
    return sorted(name.group() for name in names if name)


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _opencv() -> Finding:
    builds = {name: version for name in OPENCV_BUILDS if (version := _version_of(name))}
    what = ", ".join(f"{name} {version}" for name, version in builds.items()) or "missing"
    mend = (
        f"two builds overwrite each other, and the GUI build needs libGL: pip uninstall -y {' '.join(builds)} && "
        "pip install --no-deps opencv-python-headless"
    )
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        return Finding("OpenCV", False, f"{what}, but it can't be imported: {error}", mend)
    # EasyOCR and InsightFace may name another build than the one that lies there; what counts is what is imported.
    return Finding("OpenCV", len(builds) == 1 and "headless" in what, what, mend, needed=False)


def _xformers() -> Finding:
    xformers, torch = _version_of("xformers"), _version_of("torch")
    if xformers is None:
        return Finding("xFormers", True, "not installed (optional; SDPA is used)", needed=False)
    wanted = TORCH_OF_XFORMERS.get(xformers)
    fine = wanted is None or (torch or "").split("+")[0] == wanted
    return Finding(
        "xFormers",
        fine,
        f"{xformers} beside torch {torch}",
        f"this xFormers was built for torch {wanted}: pip install torch=={wanted}, or pip uninstall xformers",
        needed=False,
    )


def _machine() -> Finding:
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30) if hasattr(os, "sysconf") else None
    what = f"{cores} cores" + (f", {memory:.0f} GB of memory" if memory else "")
    return Finding("CPU", memory is None or memory >= 4, what, "the demo wants 4 GB of memory", needed=False)


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("GPU", True, "none (the demo needs none; Plan B needs an NVIDIA GPU with 16 GB)", needed=False)
    asked = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603 - a fixed command
    except (subprocess.SubprocessError, OSError) as error:
        return Finding("GPU", False, f"nvidia-smi fails: {error}", "check the driver", needed=False)
    return Finding("GPU", True, "; ".join(answer.strip().splitlines()) or "none", needed=False)


def _weights() -> Finding:
    path = SHIPPED_WEIGHTS / manifests.NAME
    try:
        files = json.loads(path.read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return Finding(
            "shipped weights", False, f"no manifest ({type(error).__name__})", "install again, or `make base-models`"
        )
    bad = [name for name, entry in files.items() if not _is_whole(SHIPPED_WEIGHTS / name, entry["sha256"])]
    size = sum((SHIPPED_WEIGHTS / name).stat().st_size for name in files if name not in bad) / 1e6
    what = f"{len(files)} files, {size:.1f} MB, sums checked" if not bad else f"missing or changed: {', '.join(bad)}"
    return Finding("shipped weights", not bad, what, "install the package again, or `make base-models`")


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and manifests.sha256_of(path) == sha256


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding(
        "disk",
        free >= DISK_BYTES,
        f"{free / (1 << 30):.0f} GB free here",
        "the demo wants 2 GB, Plan B about 30 GB",
        needed=False,
    )


def check_dagster_home() -> None:
    """Refuse a ``DAGSTER_HOME`` that Dagster would not take, before anything is started with it.

    Raises:
        ConfigError: If it is set, and is not absolute or not there.
    """
    finding = _dagster_home()
    if not finding.fine:
        raise ConfigError("Dagster can't keep its history there", where="DAGSTER_HOME", got=finding.what, do=finding.do)


def _dagster_home() -> Finding:
    home = os.environ.get("DAGSTER_HOME")
    if home is None:
        what = "unset: history goes where dagster.yaml of the working folder says"
        return Finding("DAGSTER_HOME", True, what, needed=False)
    fine = Path(home).is_absolute() and Path(home).is_dir()
    return Finding(
        "DAGSTER_HOME", fine, home, "it must be absolute, and the folder must be there: mkdir -p, or unset it"
    )


def _project() -> Finding:
    home = project.home()
    if home is None:
        return Finding("configurations", False, "not in this folder", "anony init DIR && cd DIR", needed=False)
    return Finding("configurations", True, str(home / "configs"), needed=False)


def plate_styles() -> Finding:
    """Whether all style files can be read, the user's own among them."""
    try:
        # pydantic and the styles are loaded when they are asked for, so that a broken installation is still told of.
        from anony_pipeline.plates import styles  # noqa: PLC0415

        found = styles.configured_styles()
    except ConfigError as error:
        return Finding("plate styles", False, " ".join(str(error).split()), "mend the file, or move it elsewhere")
    except ImportError as error:
        return Finding("plate styles", False, str(error), "pip install anony_pipeline")
    return Finding("plate styles", True, f"{len(found)}, with your own in configs/plate_styles")

"""The project's own files: in a clone they lie at its root, in an installed package beside the code."""

import os
import shutil
from pathlib import Path

from anony_pipeline.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
FILES = ("configs", "workspace.yaml", "dagster.yaml")


def home() -> Path | None:
    """The folder that holds ``configs``: the working folder, or the clone that the code runs from; None if neither.

    An installed package's own copies are none: results would land beside the code. `copy_to` makes a home of them.
    """
    for folder in (Path.cwd(), PACKAGE.parent):
        if (folder / "configs").is_dir() and (folder / "dagster.yaml").is_file():
            return folder
    return None


def find(name: str | os.PathLike[str]) -> str:
    """Find a configuration file: as named, or from the project's home.

    Args:
        name: An absolute path, a URL, or a path relative to the working folder or to `home`.

    Raises:
        ConfigError: If it is in neither place; the message lists the configurations that there are.
    """
    if "://" in str(name) or Path(name).is_absolute():
        return str(name)
    base = home()
    for folder in filter(None, (Path.cwd(), base)):
        if (folder / name).is_file():
            return str(folder / name)
    known = sorted(path.relative_to(base).as_posix() for path in base.glob("configs/*.yaml")) if base else []
    raise ConfigError(
        "there is no such configuration file",
        where=base or Path.cwd(),
        got=name,
        allowed=", ".join(known) or None,
        do="check the path, or copy the configurations with `anony init DIR` and run in DIR",
    )


def plate_styles_folder() -> Path | None:
    """The user's own plate styles, ``configs/plate_styles``, if that folder is there."""
    base = home()
    folder = base / "configs" / "plate_styles" if base else None
    return folder if folder and folder.is_dir() else None


def copy_to(target: Path) -> list[Path]:
    """Copy the project's files into a folder, to run and edit them there; files that are there already are left alone.

    Args:
        target: Made if it is not there.

    Returns:
        The files that were written.
    """
    source = PACKAGE / "project_files" if (PACKAGE / "project_files").is_dir() else PACKAGE.parent
    found = [
        path
        for name in FILES
        for path in ([source / name] if (source / name).is_file() else (source / name).rglob("*.yaml"))
    ]
    written = []
    for path in sorted(found):
        copy = target / path.relative_to(source)
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        written.append(copy)
    return written

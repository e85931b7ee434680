"""Plate styles as data: one YAML file a style, checked when it is loaded.

Loads neither torch nor cv2: the partition keys come from here.
"""

import functools
from pathlib import Path

import yaml
from pydantic import ValidationError

from anony_pipeline import project
from anony_pipeline.config.problems import problem_of
from anony_pipeline.errors import ConfigError
from anony_pipeline.plates.styles.grammar import Grammar, Mark, Piece
from anony_pipeline.plates.styles.schema import NEUTRAL, PlateStyle

__all__ = [
    "NEUTRAL",
    "Grammar",
    "Mark",
    "Piece",
    "PlateStyle",
    "configured_styles",
    "load_style",
    "load_styles",
]

SHIPPED = Path(__file__).parent


def load_styles(extra_dir: Path | None = None) -> dict[str, PlateStyle]:
    """Read the shipped styles and the user's own; each file is read once a process.

    Args:
        extra_dir: Folder of further ``*.yaml`` files. A style in it replaces the shipped one of the same key; a folder
            that is not there holds no styles.

    Returns:
        Styles by key, sorted by key.

    Raises:
        ConfigError: With every mistake in every file, by file and key.
    """
    return dict(_load(extra_dir.resolve() if extra_dir is not None else None))


def configured_styles() -> dict[str, PlateStyle]:
    """The shipped styles and those in the project's ``configs/plate_styles``: what targets and new plates are made of.

    Raises:
        ConfigError: See `load_styles`.
    """
    return load_styles(project.plate_styles_folder())


def load_style(path: Path) -> PlateStyle:
    """Read one style file.

    Raises:
        ConfigError: If it can't be read, is no YAML mapping, or breaks a rule of `PlateStyle`; also if the file's name
            is not its style's key.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe ones
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            "the plate style can't be read", where=path, got=" ".join(str(error).split()), do="mend the YAML file"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            "a plate style must be a mapping", where=path, got=type(values).__name__, allowed="key: value"
        )
    try:
        style = PlateStyle.model_validate(values)
    except ValidationError as error:
        problems = [problem_of(details, PlateStyle, "(the whole style)") for details in error.errors()]
        raise ConfigError.of_problems(path, problems) from error
    if style.key != path.stem:
        raise ConfigError(
            "a plate style's file is named after its key", where=path, got=f"key: {style.key}", do="rename one of them"
        )
    return style


@functools.cache
def _load(extra_dir: Path | None) -> dict[str, PlateStyle]:
    folders = [SHIPPED] if extra_dir is None else [SHIPPED, extra_dir]
    styles: dict[str, PlateStyle] = {}
    mistakes: list[str] = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        try:
            styles[path.stem] = load_style(path)
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return dict(sorted(styles.items()))

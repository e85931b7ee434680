"""Plate styles as data: one YAML file a style, checked when it is loaded.

Loads neither torch nor cv2: the partition keys come from here.
"""

import difflib
import functools
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from anony_pipeline import project
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
        raise ConfigError.of_problems(path, [_problem(details) for details in error.errors()]) from error
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


def _problem(details: Any) -> str:  # noqa: ANN401 - pydantic's error dictionary
    path = ".".join(str(part) for part in details["loc"]) or "(the whole style)"
    if details["type"] == "extra_forbidden":
        known = _known_keys(details["loc"][:-1])
        near = difflib.get_close_matches(str(details["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{path}: there is no such key; {hint} (got {details['input']!r})"
    if details["type"] == "missing":
        return f"{path}: this key is required"
    if details["type"] == "value_error":
        return f"{path}: {details['ctx']['error']}"
    return f"{path}: {details['msg']} (got {details['input']!r})"


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = PlateStyle
    for part in path:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:  # noqa: ANN401 - any annotation
    """The pydantic model inside ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_model_in(part) for part in annotation.__args__ if part not in (type(None), Ellipsis))

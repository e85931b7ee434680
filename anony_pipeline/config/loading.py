"""From YAML layers and overrides to one checked configuration."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from upath import UPath

from anony_pipeline.config.problems import problem_of
from anony_pipeline.config.schema import Config
from anony_pipeline.errors import ConfigError

# Keys whose values are paths, wherever they stand; their relative values count from the file that names them.
PATH_KEYS = {
    "root",
    "ground_truth",
    "outputs",
    "unified",
    "targets",
    "cache",
    "private",
    "weights",
    "widerface_ground_truth",
}
PATH_SECTIONS = {"paths", "sources", "evaluation"}

WITHOUT_EFFECT = (("model", "weights"), ("training", "workers"))
"""Keys that older files and checkpoints have, and that never did anything."""

log = logging.getLogger("anony_pipeline")


def load(layers: Sequence[str | os.PathLike[str]], overrides: Iterable[str] = ()) -> Config:
    """Read YAML layers and ``key=value`` overrides into one frozen configuration; later ones win.

    Mappings are merged key by key; lists and single values are replaced whole.

    Args:
        layers: YAML files, local or fsspec URLs. Relative paths in a file count from that file; so does any other
            value that begins with ``./`` or ``../``.
        overrides: ``loss.adv_weight=0.05``; the value is read as YAML. Relative paths count from the working folder.

    Raises:
        ConfigError: With every mistake at once: key path, rule, value, and the nearest known key of an unknown one.

    Example:
        >>> load(["configs/demo.yaml"], ["loss.adv_weight=0.5"]).loss.adv_weight  # doctest: +SKIP
        0.5
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, _anchored(_read(layer), _folder_of(layer)))
    for override in overrides:
        merged = _merge(merged, _anchored(_parse_override(override), str(Path.cwd())))
    for section, key in WITHOUT_EFFECT:
        if isinstance(merged.get(section), dict) and merged[section].pop(key, None) is not None:
            log.warning("%s.%s has no effect: remove it", section, key)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        source = ", ".join([*(str(layer) for layer in layers), *overrides]) or "the configuration"
        raise ConfigError.of_problems(
            source, [problem_of(details, Config, "(top)") for details in error.errors()]
        ) from error


def fingerprint(*parts: BaseModel | str | float | None) -> str:
    """A short hash of configuration parts: what depends on them is made anew when it changes."""
    values = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def dump(config: Config, folder: Path | None = None) -> str:
    """The whole configuration as YAML, defaults included; `load` reads it back to an equal one.

    Args:
        config: The configuration.
        folder: Where the file will lie: paths of this machine are written relative to it, so that a tree of data,
            outputs and weights may be moved as a whole. None writes them as they are.
    """
    values = config.model_dump(mode="json")
    if folder is not None:
        base = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as the user has them
        values = _with_paths(values, lambda path: path if "://" in path else _relative(path, base))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def dump_for_others(config: Config) -> str:
    """The configuration as YAML without a place in it: what is given away names no folder of this machine.

    `paths` are left out, which makes them the defaults, and of any other path or URL its last part stays.
    """
    values = _with_paths(config.model_dump(mode="json"), lambda path: path.rstrip("/").rpartition("/")[2])
    del values["paths"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings may not name a key twice: the first value would be lost without a word."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(layer: str | os.PathLike[str]) -> dict[str, Any]:
    path = UPath(layer)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such configuration file", where=layer, do="check the path, or run `anony init DIR`"
        ) from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the configuration is no text file", where=layer, got=type(error).__name__, do="give a YAML file"
        ) from error
    try:
        value = yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(
            "the configuration is no valid YAML", where=layer, got=" ".join(str(error).split())
        ) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            "the configuration must be a mapping", where=layer, got=type(value).__name__, allowed="key: value"
        )
    return value


def _folder_of(layer: str | os.PathLike[str]) -> str:
    path = UPath(layer)
    return str(path.parent) if path.protocol not in ("", "file") else str(Path(os.path.abspath(path.path)).parent)  # noqa: PTH100


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            "an override needs a key and a value", where="--set", got=text, allowed="loss.adv_weight=0.05"
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            "an override's value is no valid YAML",
            where=f"--set {key}",
            got=value,
            do="put text with brackets or colons in quotes, and the whole override in the shell's other ones",
        ) from error
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _anchored(value: Any, folder: str) -> Any:  # noqa: ANN401 - any YAML value
    """Make the relative paths in a layer absolute."""
    return _with_paths(value, lambda path: _absolute(path, folder))


def _with_paths(value: Any, change: Callable[[str], str], section: str = "", key: str = "") -> Any:  # noqa: ANN401
    """Change every path in a configuration's values: those of known keys, and whatever else can only be a path."""
    if isinstance(value, list):
        return [_with_paths(item, change, key or section) for item in value]
    if isinstance(value, dict):
        return {name: _with_paths(item, change, key or section, name) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    is_path = section in PATH_SECTIONS and key in PATH_KEYS
    return change(value) if is_path or value.startswith(("./", "../", "~/", "/")) or "://" in value else value


def _relative(path: str, folder: Path) -> str:
    """A local path as it is seen from a folder, marked as a path by its first dot."""
    relative = os.path.relpath(Path(path).expanduser(), folder)
    return relative if relative.startswith("..") else f"./{relative}"


def _absolute(path: str, folder: str) -> str:
    if "://" in path or Path(path).expanduser().is_absolute():
        return str(Path(path).expanduser()) if "://" not in path else path
    if "://" in folder:
        return f"{folder.rstrip('/')}/{path}"
    return os.path.normpath(Path(folder) / path)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged

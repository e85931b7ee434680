"""The weights that a configuration names, by what is in their files: one that is replaced under its name is another.

Without torch, for Dagster's assets ask here whether anything changed before they load a library.
"""

import functools
import hashlib
from pathlib import Path

from anony_pipeline.config.schema import Config
from anony_pipeline.storage import manifests

REMEMBERED = 256


def version_of(name: str, weights_dir: Path) -> str:
    """The sha256 of a named file, of a named folder that of all its files; the name itself of what is neither.

    Names that stand for what is fetched (a pack, a repository) are versions: they are pinned where they are known, and
    would be others before the first use than after it.

    Args:
        name: As configured.
        weights_dir: ``paths.weights``, where a file without a folder lies.
    """
    direct, below = Path(name).expanduser(), weights_dir / name
    if direct.is_dir():
        files = sorted(path for path in direct.rglob("*") if path.is_file())
        parts = [f"{file.relative_to(direct).as_posix()} {_sha256_of(file)}" for file in files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    found = next((path for path in (direct, below) if path.is_file()), None)
    return name if found is None else _sha256_of(found)


def versions(config: Config) -> dict[str, str]:
    """The versions of all that a configuration names beside the base generator, by the keys that name it."""
    lpips = config.model.lpips
    names = {f"judges.{key}": name for key, name in config.judges}
    names |= {"targets.landmarks": config.targets.landmarks, "model.plate_style": config.model.plate_style}
    names |= {f"model.lpips.{key}": getattr(lpips, key, None) for key in ("backbone", "fitted")}
    folder = Path(config.paths.weights)
    return {key: version_of(name, folder) for key, name in names.items() if name is not None}


def _sha256_of(path: Path) -> str:
    """As `manifests.sha256_of`; a file that did not change since is not read again."""
    status = path.stat()
    return _remembered(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=REMEMBERED)
def _remembered(path: Path, _size: int, _changed_ns: int) -> str:
    return manifests.sha256_of(path)

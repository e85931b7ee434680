"""The sources' folders: found, unpacked from an archive, or drawn."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from anony_pipeline.config.schema import Data, Source, Streetscape
from anony_pipeline.datasets import archives
from anony_pipeline.datasets.streetscape import writer
from anony_pipeline.errors import ConfigError
from anony_pipeline.storage import locations


@dataclass(frozen=True)
class RawReport:
    """One source's folder.

    Attributes:
        name: The source's name.
        layout: ``widerface`` or ``pp4av``.
        root: The folder.
        how: ``found``, ``unpacked`` or ``drawn``.
        files: Files in it.
        megabytes: Their size.
        version: A hash of all names and sizes: the contents of hundreds of thousands of files are not read for it.
    """

    name: str
    layout: str
    root: str
    how: str
    files: int
    megabytes: float
    version: str


def provide(data: Data, cache: Path) -> list[RawReport]:
    """See to it that every source's folder is there.

    Args:
        data: The sources; with `streetscape`, they are drawn unless they are there with the same settings.
        cache: Where a fetched archive is kept until it is unpacked; private.

    Raises:
        DatasetError: If an archive can't be had.
        ConfigError: If procedural data is asked for other than one source of each layout, or where something else lies.
    """
    drawn = data.streetscape is not None and _draw(data.streetscape, data.sources)
    reports = []
    for source in data.sources:
        unpacked = archives.provide(source, cache)
        reports.append(_report(source, "drawn" if drawn else "unpacked" if unpacked else "found"))
    return reports


def _draw(settings: Streetscape, sources: tuple[Source, ...]) -> bool:
    """Draw the procedural set, unless it is there with the same settings. Folders that hold anything else are safe."""
    roots = {source.layout: Path(str(locations.location(source.root))) for source in sources}
    if set(roots) != {"widerface", "pp4av"} or len(sources) != 2:
        raise ConfigError(
            "procedural data fills one source of each layout",
            where="data.sources",
            got=", ".join(f"{source.name} ({source.layout})" for source in sources),
            allowed="one of widerface, one of pp4av",
            do="name both, or leave data.streetscape out",
        )
    return writer.write(settings, roots["widerface"], roots["pp4av"]).written


def _report(source: Source, how: str) -> RawReport:
    root = locations.location(source.root)
    files = sorted(
        (path.relative_to(root).as_posix(), path.stat().st_size) for path in root.rglob("*") if path.is_file()
    )
    version = hashlib.sha256("\n".join(f"{name} {size}" for name, size in files).encode()).hexdigest()[:16]
    size = round(sum(size for _, size in files) / 1e6, 3)
    return RawReport(source.name, source.layout, str(root), how, len(files), size, version)

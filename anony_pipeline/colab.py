"""The overlay that points an experiment at the folders of a Colab runtime: data where it lies, results on Drive."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from anony_pipeline.config.schema import Config, Source
from anony_pipeline.errors import DatasetError
from anony_pipeline.storage import atomic

Mode = Literal["auto", "unified", "sources"]
UNIFIED_FILES = ("unified_train.json", "unified_val.json")


@dataclass(frozen=True)
class Overlay:
    """What was found and written.

    Attributes:
        file: The overlay, to be given as the last `--config`.
        data: What training will read: ``unified``, or the sources' names.
        values: The overlay's content.
    """

    file: Path
    data: str
    values: dict[str, Any]


def write_overlay(config: Config, mode: Mode, places: Sequence[Path], results: Path, file: Path) -> Overlay:
    """Find the data and write the overlay: the unified files first, otherwise the sources, to be merged.

    Args:
        config: The experiment that the overlay goes on.
        mode: ``auto`` takes the unified files if they are there, else the sources; the others insist.
        places: Folders to look in, in this order; in each, ``unified`` and folders named after the sources.
        results: Where results go: a Drive folder, so that they survive the runtime.
        file: The overlay to write.

    Raises:
        DatasetError: If what `mode` asks for is nowhere.
    """
    outputs = results / config.name
    paths = {"outputs": str(outputs), "private": str(outputs / "private")}
    unified = next((place / "unified" for place in places if _all_there(place / "unified")), None)
    if unified is not None and mode != "sources":
        values: dict[str, Any] = {"paths": {**paths, "unified": str(unified)}}
        return _write(Overlay(file, "unified", values))
    if mode == "unified":
        raise DatasetError(
            "the unified files are nowhere",
            where=", ".join(map(str, places)),
            allowed=" and ".join(UNIFIED_FILES),
            do="copy them into data/unified, or use --mode sources",
        )
    sources = [
        {**source.model_dump(mode="json", exclude_defaults=True), "root": _root_of(source, config, places)}
        for source in config.data.sources
    ]
    return _write(
        Overlay(file, ", ".join(source["name"] for source in sources), {"paths": paths, "data": {"sources": sources}})
    )


def _root_of(source: Source, config: Config, places: Sequence[Path]) -> str:
    """Where a source lies, or where it will: one that is drawn or downloaded need not be there yet."""
    candidates = [*(place / source.name for place in places), Path(source.root)]
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None and (source.download or config.data.streetscape is not None):
        return source.root
    if found is None:
        raise DatasetError(
            f"the data set {source.name} is nowhere",
            where=", ".join(map(str, candidates)),
            do="copy or unpack it to one of these folders",
        )
    return str(found)


def _all_there(folder: Path) -> bool:
    return all((folder / name).is_file() for name in UNIFIED_FILES)


def _write(overlay: Overlay) -> Overlay:
    header = "# Written by `anony colab-paths`: give it as the last --config, after the experiment's own.\n"
    atomic.write_text(overlay.file, header + yaml.safe_dump(overlay.values, sort_keys=False, allow_unicode=True))
    return overlay

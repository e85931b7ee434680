"""What need not be made again: same code, same configuration, same inputs, and the result is still there.

Dagster itself skips nothing. Each materialization notes in its metadata what it was made of; one that would be made of
the same repeats the former's metadata and data version, and says so. ``force: true`` on the resource `experiment` makes
it anew.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import dagster as dg

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.storage import named_weights

VERSION_TAG = "dagster/data_version"
MADE_OF, SKIPPED = "made_of", "skipped"

LAYERS = (
    "config",
    "storage",
    "runtime",
    "structures",
    "ops",
    "plates",
    "datasets",
    "models",
    "targets",
    "losses",
    "fitting",
    "anonymize",
    "evaluation",
    "training",
)
"""The library's folders; each imports only those before it, so what an asset runs is its own layer and all before."""

HASHED = (".py", ".yaml", ".j2", ".json")
SHIPPED = "weights"
"""Files of the package, for all that the layer ``models`` and those after it do; their manifest holds their sha256."""

Context = dg.AssetExecutionContext | dg.OpExecutionContext
Still = Callable[[dg.AssetMaterialization], bool]


def code_version(layer: str) -> str:
    """The hash of all that a layer can run: code, YAML, templates, the shipped weights and the user's plate styles."""
    folders = [project.PACKAGE / name for name in LAYERS[: LAYERS.index(layer) + 1]]
    if layer not in LAYERS[: LAYERS.index("models")]:
        folders.append(project.PACKAGE / SHIPPED)
    own_styles = project.plate_styles_folder()
    if own_styles is not None and layer not in LAYERS[: LAYERS.index("plates")]:
        folders.append(own_styles)
    return _digest(_hash_of_folder(folder) for folder in folders)


def made_of(instance: dg.DagsterInstance, config: Config, layer: str, deps: Iterable[str]) -> str:
    """The hash of code, configuration, what is in the files of weights that it names, and an asset's inputs."""
    inputs = (f"{dep}={_version(instance, dg.AssetKey(dep))}" for dep in sorted(deps))
    named = (f"{key}={version}" for key, version in named_weights.versions(config).items())
    return _digest([code_version(layer), loading.dump(config), *named, *inputs])


def standing(
    context: Context, experiment: Experiment, key: str, now: str, still: Still
) -> dg.AssetMaterialization | None:
    """The latest materialization of an asset if making it again would change nothing.

    Args:
        context: Of the step; it is told.
        experiment: Its `force` makes everything anew.
        key: The asset.
        now: What it would be made of, by `made_of`.
        still: Whether a materialization's result is still where it was, and unchanged.
    """
    event = context.instance.get_latest_materialization_event(dg.AssetKey(key))
    found = event.asset_materialization if event else None
    return _if_standing(context, experiment, key, now, [found], still)


def standing_styles(
    context: dg.AssetExecutionContext,
    experiment: Experiment,
    key: str,
    now: str,
    styles: Sequence[str],
    still: Still,
) -> dg.MaterializeResult | None:
    """As `standing`, for one asset by plate style: the result that repeats all styles, with their own metadata."""
    found = [_latest_of(context.instance, key, style) for style in styles]
    if (first := _if_standing(context, experiment, key, now, found, still)) is None:
        return None
    for style, one in zip(styles, found, strict=True):
        context.add_asset_metadata(dict(one.metadata) if one else {}, asset_key=key, partition_key=style)
    return dg.MaterializeResult(
        asset_key=key, metadata={SKIPPED: True}, data_version=dg.DataVersion(str(version_of(first)))
    )


def again(old: dg.AssetMaterialization) -> dg.MaterializeResult:
    """The result of a step that made nothing: the former's metadata and version."""
    return dg.MaterializeResult(
        metadata={**old.metadata, SKIPPED: True}, data_version=dg.DataVersion(str(version_of(old)))
    )


def version_of(materialization: dg.AssetMaterialization) -> str | None:
    """A materialization's data version."""
    return (materialization.tags or {}).get(VERSION_TAG)


def path_is_there(name: str) -> Still:
    """Says that a file is there which a materialization's metadata names; one that names none needs none."""

    def still(old: dg.AssetMaterialization) -> bool:
        entry = old.metadata.get(name)
        return entry is None or Path(str(entry.value)).exists()

    return still


def _if_standing(
    context: Context,
    experiment: Experiment,
    key: str,
    now: str,
    found: Sequence[dg.AssetMaterialization | None],
    still: Still,
) -> dg.AssetMaterialization | None:
    if experiment.force:
        return None
    for one in found:
        before = one.metadata.get(MADE_OF) if one is not None else None
        if one is None or before is None or before.value != now or not still(one):
            return None
    context.log.info(
        f"{key} is unchanged: same code, configuration and inputs as when it was made. Nothing is made; `force: true` "
        "on the resource `experiment` makes it anew."
    )
    return found[0]


def _latest_of(instance: dg.DagsterInstance, key: str, style: str) -> dg.AssetMaterialization | None:
    asked = dg.AssetRecordsFilter(asset_key=dg.AssetKey(key), asset_partitions=[style])
    records = instance.fetch_materializations(asked, limit=1).records
    return records[0].asset_materialization if records else None


def _version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    """Of all partitions, where an asset has some."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, [VERSION_TAG]
    )
    if tags:
        return _digest(f"{partition}={values.get(VERSION_TAG)}" for partition, values in sorted(tags.items()))
    event = instance.get_latest_materialization_event(key)
    return str(version_of(event.asset_materialization)) if event and event.asset_materialization else "none"


@functools.cache
def _hash_of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in HASHED)
    return _digest(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

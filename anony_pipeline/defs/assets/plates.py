"""What plates of each style look like, before anything is trained on them."""

import hashlib

import dagster as dg

from anony_pipeline.defs import metadata, unchanged
from anony_pipeline.defs.partitions import PER_STYLE, styles_of
from anony_pipeline.defs.resources import Experiment


@dg.asset(group_name="plates", kinds={"image"}, **PER_STYLE)
def plate_samples(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """Rendered plates with drawn serials, a sheet a style."""
    from anony_pipeline.ops import images
    from anony_pipeline.plates import samples, styles
    from anony_pipeline.storage.locations import location

    config = experiment.config()
    keys = styles_of(context)
    now = unchanged.made_of(context.instance, config, "plates", ())
    if same := unchanged.standing_styles(
        context, experiment, "plate_samples", now, keys, unchanged.path_is_there("file")
    ):
        return same
    known, content = styles.configured_styles(), hashlib.sha256()
    for key in keys:
        plates, serials = samples.draw(known[key], count=12, seed=config.seed)
        page = images.sheet(plates, cell_hw=(64, 224), columns=3)
        file = location(config.paths.outputs) / "plate_samples" / f"{key}.png"
        images.write(file, page)
        content.update(page.tobytes())
        context.add_asset_metadata(
            {
                unchanged.MADE_OF: now,
                "serials": ", ".join(serials),
                "plates": metadata.picture(page, key),
                "file": metadata.path(file),
            },
            partition_key=key,
        )
    return dg.MaterializeResult(data_version=dg.DataVersion(content.hexdigest()))

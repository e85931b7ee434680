"""What plates of each style look like, before anything is trained on them."""

import dagster as dg

from anony_pipeline.defs import metadata
from anony_pipeline.defs.partitions import PER_STYLE, styles_of
from anony_pipeline.defs.resources import Experiment


@dg.asset(group_name="plates", kinds={"image"}, **PER_STYLE)
def plate_samples(context: dg.AssetExecutionContext, experiment: Experiment) -> dg.MaterializeResult:
    """Rendered plates with drawn serials, a sheet a style."""
    from anony_pipeline.ops import images
    from anony_pipeline.plates import samples, styles
    from anony_pipeline.storage.locations import location

    config = experiment.config()
    known = styles.configured_styles()
    for key in styles_of(context):
        plates, serials = samples.draw(known[key], count=12, seed=config.seed)
        page = metadata.sheet(plates, cell_hw=(64, 224), columns=3)
        file = location(config.paths.outputs) / "plate_samples" / f"{key}.png"
        images.write(file, page)
        context.add_asset_metadata(
            {"serials": ", ".join(serials), "plates": metadata.picture(page, key), "file": metadata.path(file)},
            partition_key=key,
        )
    return dg.MaterializeResult()

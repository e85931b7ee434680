"""The assets, a module for each group."""

import dagster as dg

from anony_pipeline.defs.assets import datasets, evaluation, judges, plates, release, targets, training

OWNERS = {
    "datasets": "team:data",
    "plates": "team:data",
    "targets": "team:data",
    "training": "team:training",
    "judges": "team:privacy",
    "evaluation": "team:privacy",
    "release": "team:privacy",
}
"""Who answers for a group. Whoever trains does not judge."""

_ASSETS: list[dg.AssetsDefinition | dg.AssetSpec] = [
    datasets.raw_data,
    datasets.unified_coco,
    plates.plate_samples,
    judges.face_recognizer,
    judges.plate_reader,
    judges.held_out_judges,
    targets.face_pseudo_targets,
    targets.plate_pseudo_targets,
    training.pretrained_generator,
    training.joint_checkpoint,
    training.checkpoints,
    evaluation.judged,
    evaluation.scorecard,
    release.released_anonymizer,
    release.anonymized_dataset,
]

ALL = dg.with_source_code_references(
    list(dg.map_asset_specs(lambda spec: spec.merge_attributes(owners=[OWNERS[str(spec.group_name)]]), _ASSETS))
)
"""With their owners, and the places in the code where they are made."""

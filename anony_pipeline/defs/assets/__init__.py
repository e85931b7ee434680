"""The assets, a module for each group."""

from anony_pipeline.defs.assets import datasets, evaluation, judges, plates, release, targets, training

ALL = [
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

"""A whole unified set, anonymized, with its labels: what most users came for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from anony_pipeline.anonymize import marking
from anony_pipeline.anonymize.anonymizer import Anonymizer, Job
from anony_pipeline.anonymize.labels import without_who_it_was
from anony_pipeline.anonymize.loading import load_anonymizer
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import coco, folds, loaders
from anony_pipeline.datasets.coco import CocoSet, Record
from anony_pipeline.datasets.loaders import RegionExample
from anony_pipeline.datasets.sources import SPLITS
from anony_pipeline.errors import DatasetError, PrivacyError
from anony_pipeline.ops import images
from anony_pipeline.runtime.progress import track
from anony_pipeline.storage import locations
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Region, boxes_of

SAME_REGION_IOU = 0.5
IMAGES_AT_ONCE = 4


@dataclass
class DatasetReport:
    """What was written.

    Attributes:
        output: The folder: a folder for each source, and one COCO file for each split.
        images: Images written.
        regions: Counts by kind and method, ``face generated``.
        found: Regions found beyond the labeled ones, of kinds that a source does not label exhaustively.
    """

    output: Path
    images: int = 0
    regions: Counter[str] = field(default_factory=Counter)
    found: int = 0


def anonymize_dataset(
    config: Config, checkpoint: Path | Sequence[Path], output: Path, device: str = "auto"
) -> DatasetReport:
    """Anonymize every image of both splits: what is labeled, and what is found of kinds that a source leaves out.

    Args:
        config: Names the unified set, and says where weights lie.
        checkpoint: A release, or a checkpoint. Several: one a fold of the training images, the k-th trained without
            fold k, which it anonymizes; val images were in no training, and the first takes them.
        output: Another folder than the sources'.
        device: ``auto``, ``cpu``, ``cuda``.

    Raises:
        PrivacyError: If the output lies where originals of any source lie, or where their labels lie.
        DatasetError: If a region lies beyond its image, or an image's name leads out of its folder.
        CheckpointError: If a checkpoint is incomplete.
    """
    checkpoints = [checkpoint] if isinstance(checkpoint, Path) else list(checkpoint)
    whole = {split: loaders.open_split(config, split) for split in SPLITS}
    for unified in whole.values():
        _refuse_same_place(unified, output)
        _refuse_ways_out(unified)
    fold_of = folds.folds_of(whole["train"], config.data.sources, len(checkpoints)) if len(checkpoints) > 1 else {}
    report = DatasetReport(output)
    for number, path in enumerate(checkpoints):
        anonymizer = load_anonymizer(path, device, here=config)
        for split, unified in whole.items():
            seen = fold_of if split == "train" else {}
            mine = folds.only(unified, {image["id"] for image in unified.images if seen.get(image["id"], 0) == number})
            found = track(loaders.examples(mine), f"anonymizing {split}", len(mine))
            for group in loaders.batches(found, IMAGES_AT_ONCE):
                _write(anonymizer, group, output, report)
    for split, unified in whole.items():
        roots = {name: {"root": name} for name in unified.info.get("sources", {})}
        info = {**unified.info, "description": "anonymized", "sources": roots}
        labels = [without_who_it_was(annotation) for annotation in unified.annotations]
        coco.save(output / f"unified_{split}.json", info, unified.images, labels)
    return report


def _refuse_same_place(unified: CocoSet, output: Path) -> None:
    """Of every source: an image is written over by one of the same name, whichever source it is of."""
    target, labels = output.resolve(), locations.location(unified.path.parent)
    roots = list(unified.roots.values())
    if any(image.get("source") not in unified.roots for image in unified.images):
        roots.append(labels)
    for root in (Path(str(root)).resolve() for root in roots if locations.is_local(root)):
        if target == root or root in target.parents or target in root.parents:
            raise PrivacyError(
                "the output lies where the originals lie", where=output, got=root, do="name an output folder of its own"
            )
    if locations.is_local(labels) and target == Path(str(labels)).resolve():
        raise PrivacyError(
            "the output's labels would be written over those of the originals",
            where=output,
            got=unified.path,
            do="name an output folder of its own",
        )


def _refuse_ways_out(unified: CocoSet) -> None:
    """An image of such a name would be written outside of the output, perhaps over an original."""
    for image in unified.images:
        path = PurePosixPath(image["file_name"])
        if path.is_absolute() or ".." in path.parts:
            raise DatasetError(
                "the image's name leads out of its folder",
                where=unified.path,
                got=image["file_name"],
                do="put the images below the root of their source, and name them from there",
            )


def _write(anonymizer: Anonymizer, group: list[RegionExample], output: Path, report: DatasetReport) -> None:
    jobs = []
    for example in group:
        extra = _beyond_labels(anonymizer, example)
        report.found += len(extra)
        name = f"{example.image.get('source')}/{example.image['file_name']}"
        jobs.append(Job(example.image_rgb, name, [*example.regions, *extra], example.image.get("plate_style")))
    for job, done in zip(jobs, anonymizer.anonymize_batch(jobs), strict=True):
        images.write(output / job.name, done.image_rgb, packet=marking.packet(done.rows))
        report.images += 1
        report.regions.update(f"{row.kind} {row.method}" for row in done.rows)


def _beyond_labels(anonymizer: Anonymizer, example: RegionExample) -> list[Region]:
    """Regions that the detector finds and no label covers; only of kinds that may be there without a label."""
    unsure = _unsure_kinds(example.image)
    if not unsure or anonymizer.detect is None:
        return []
    found = [r for r in anonymizer.find([example.image_rgb])[0] if CATEGORY_IDS[r.kind] in unsure]
    if not found or not example.regions:
        return found
    overlap = boxes.iou(boxes_of(found), boxes_of(list(example.regions))).max(axis=1)
    return [region for region, most in zip(found, overlap, strict=True) if most < SAME_REGION_IOU]


def _unsure_kinds(image: Record) -> set[int]:
    return set(image.get("not_exhaustive_category_ids", ()))

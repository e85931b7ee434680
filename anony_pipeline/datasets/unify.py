"""One COCO set of all sources: read, measured, clipped, split, joined and written, with every problem by name."""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from upath import UPath

from anony_pipeline.config.loading import fingerprint
from anony_pipeline.config.schema import Config, Data, Source
from anony_pipeline.datasets import archives, coco, ground_truth, image_headers, pp4av, sources, splits, widerface
from anony_pipeline.datasets.coco import Record
from anony_pipeline.datasets.sources import Problem, SourceBox, SourceImage, SourceSet, Split
from anony_pipeline.errors import ConfigError, DatasetError, MediaError
from anony_pipeline.runtime.progress import log, track
from anony_pipeline.storage import atomic, locations, private
from anony_pipeline.storage.locations import AnyPath
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind

REPORT_FORMAT = "anony_pipeline.unify_report/1"
PROBLEMS_NAMED = 5
HEADER_READERS = 8
HEADERS_A_TASK = 32
# A clipped box is counted if an edge moved by more; less is the rounding of a file that gives boxes in six digits.
CLIP_TOLERANCE_PX = 0.01


@dataclass(slots=True)
class Counts:
    """What one source gave to one split."""

    images: int = 0
    boxes: int = 0
    faces: int = 0
    license_plates: int = 0
    iscrowd: int = 0
    images_without_boxes: int = 0


@dataclass(frozen=True, slots=True)
class UnifyReport:
    """What was made of the sources, and what could not be.

    Attributes:
        images: Images in both files.
        boxes: Boxes kept in both files.
        iscrowd: Boxes kept that count neither as found nor as missed.
        dropped: Boxes left out, because they have no area or lie outside their image.
        images_without_boxes: Images kept in which nothing is labeled.
        clipped: Boxes cut to their image; None if the images were not there, so that nothing could be cut.
        left_out_frames: Frames next to a border between train and val.
        joined: Annotations that the procedural ground truth was joined to.
        by_source: Counts by source, then by split.
        missing_splits: Splits of a source that aren't there, ``source/split: what is missing``.
        problems: All problems and notes, in the order of the sources and their files.
        files: The names of the two COCO files; none if the set was refused.
        refused: Why the set was refused; None if it was made.
    """

    images: int
    boxes: int
    iscrowd: int
    dropped: int
    images_without_boxes: int
    clipped: int | None
    left_out_frames: int
    joined: int
    by_source: dict[str, dict[str, Counts]]
    missing_splits: tuple[str, ...]
    problems: tuple[Problem, ...]
    files: tuple[str, ...]
    refused: str | None = None

    @property
    def bad_images(self) -> int:
        """Images left out because they, or their annotation, can't be read."""
        return sum(problem.scope == "image" for problem in self.problems)

    @property
    def bad_rows(self) -> int:
        """Rows of annotations that can't be read."""
        return sum(problem.scope == "row" for problem in self.problems)

    def as_dict(self) -> Record:
        """The report as JSON values, as `unify` writes it to ``report.json``."""
        return {"format": REPORT_FORMAT, "bad_images": self.bad_images, "bad_rows": self.bad_rows, **asdict(self)}


def unified_file(folder: AnyPath, split: Split) -> UPath:
    """Where a split's unified file lies."""
    return locations.location(folder) / f"unified_{split}.json"


def unified_is_there(folder: AnyPath) -> bool:
    """Whether both unified files are there.

    Raises:
        DatasetError: If only one is: making both anew would overwrite it.
    """
    there = [unified_file(folder, split).exists() for split in sources.SPLITS]
    if any(there) and not all(there):
        raise DatasetError(
            "only one of the two unified files is there",
            where=locations.location(folder),
            got=unified_file(folder, sources.SPLITS[there.index(True)]).name,
            allowed="unified_train.json and unified_val.json",
            do="add the other one (it may hold no image), or remove this one to make both anew",
        )
    return all(there)


def ensure_unified(config: Config) -> UnifyReport | None:
    """Make the unified files, unless both are there: those are used first, as they are.

    Returns:
        The report of what was made; None if the files were there already.

    Raises:
        DatasetError: If files that are there can't be used, or the sources can't be unified.
    """
    if not unified_is_there(config.paths.unified):
        return unify(config.data, config.paths.unified, cache=_cache(config))
    for file in made_otherwise(config):
        log.warning("%s was made with other settings of `data`, and is used as it is; remove it to make it anew", file)
    return None


def made_otherwise(config: Config) -> list[AnyPath]:
    """The unified files that this program made with other settings of ``data``; your own have none."""
    files = [unified_file(config.paths.unified, split) for split in sources.SPLITS]
    return [file for file in files if coco.load(file).info.get("made_with") not in (None, _made_with(config.data))]


def unify(data: Data, output: AnyPath, *, without_images: bool = False, cache: Path | None = None) -> UnifyReport:
    """Merge all sources to ``unified_train.json`` and ``unified_val.json``, with a ``report.json`` beside them.

    The same input gives the same bytes. Files that it made before are replaced.

    Args:
        data: The sources and how they are split.
        output: The folder to write to, local or an fsspec URL.
        without_images: Don't look at image files: sizes are left out, and boxes are not clipped.
        cache: Where copies of what is not local are kept; without it, images are read and not kept.

    Raises:
        ConfigError: If `data.splits` would leave out every frame of a block.
        DatasetError: If a source can't be read, the folder can't be written or holds somebody else's files, or more of
            a source is bad than ``data.max_bad_share``; then ``report.json`` is written all the same, and lists every
            problem.
    """
    splits.check(data.splits)
    folder = locations.location(output)
    _refuse_foreign(folder)
    gathered = [_gather(source, data, without_images=without_images, cache=cache) for source in data.sources]
    report = _report(gathered, folder, without_images=without_images)
    refusal = _refusal(gathered, data)
    if refusal is not None:
        report = replace(report, files=(), refused=refusal.what)
    try:
        atomic.write_json(folder / "report.json", report.as_dict())
        if refusal is not None:
            raise refusal
        records = _numbered(gathered)
        for split in sources.SPLITS:
            images = [image for image, of, _ in records if of == split]
            annotations = [annotation for _, of, below in records if of == split for annotation in below]
            coco.save(unified_file(folder, split), _info(data, folder, split, without_images), images, annotations)
    except OSError as error:
        raise DatasetError(
            "the unified set can't be written", where=folder, got=error.strerror, do="check free space and permissions"
        ) from error
    return report


def _refuse_foreign(folder: UPath) -> None:
    """Refuse to replace annotations that were written by hand or by another program."""
    for file in (unified_file(folder, split) for split in sources.SPLITS):
        if locations.location(file).exists() and "made_with" not in coco.load(file).info:
            raise DatasetError(
                "the file was not made here, and would be replaced",
                where=file,
                do="name another folder, or move the file away; to train on it, leave it where it is",
            )


def image_cache(config: Config) -> Path:
    """The private folder where copies of source images and archives are kept that don't lie on this machine.

    Raises:
        ConfigError: If the cache isn't on this machine either.
    """
    folder = locations.location(config.paths.cache)
    if not locations.is_local(folder):
        raise ConfigError(
            "the cache must be on this machine", where="paths.cache", got=folder, allowed="a local folder"
        )
    return private.folder(
        Path(str(folder)) / "images",
        retention_days=config.paths.retention_days,
        holds="copies of source images and archives that don't lie on this machine",
    )


def data_of(widerface_root: str | None, pp4av_root: str | None) -> Data:
    """The sources of the original plan, as `anony unify --widerface DIR --pp4av DIR` means them.

    Args:
        widerface_root: WIDERFace's folder; None leaves it out.
        pp4av_root: PP4AV's folder; None leaves it out.
    """
    found = []
    if widerface_root is not None:
        found.append(Source(name="widerface", layout="widerface", root=widerface_root, exhaustive=(Kind.FACE.value,)))
    if pp4av_root is not None:
        found.append(
            Source(
                name="pp4av",
                layout="pp4av",
                root=pp4av_root,
                exhaustive=(Kind.FACE.value, Kind.PLATE.value),
                sequences=True,
                plate_styles=pp4av.PLATE_STYLES,
            )
        )
    return Data(sources=tuple(found))


@dataclass(slots=True)
class _Gathered:
    """One source, on its way into the unified set."""

    source: Source
    problems: list[Problem] = field(default_factory=list)
    missing_splits: list[str] = field(default_factory=list)
    records: list[tuple[Record, Split, list[Record]]] = field(default_factory=list)
    images_named: int = 0
    rows: int = 0
    dropped: int = 0
    clipped: int = 0
    left_out_frames: int = 0
    joined: int = 0


def _cache(config: Config) -> Path | None:
    """The folder for copies, if anything of the configuration isn't on this machine."""
    roots = [locations.location(source.root) for source in config.data.sources]
    if all(locations.is_local(root) for root in roots) and not any(source.download for source in config.data.sources):
        return None
    return image_cache(config)


def _gather(source: Source, data: Data, *, without_images: bool, cache: Path | None) -> _Gathered:
    if archives.provide(source, cache or Path(str(locations.location(source.root).parent))):
        log.info("%s: unpacked %s to %s", source.name, source.download, source.root)
    gathered = _Gathered(source)
    found = _read(source, gathered, without_images=without_images)
    sizes = _sizes(source, found, gathered, cache) if not without_images else [None] * len(found)
    kept = [(image, size) for image, size in zip(found, sizes, strict=True) if without_images or size is not None]
    chosen = _split(source, data, [image for image, _ in kept])
    gathered.left_out_frames = chosen.count(None)
    truth = ground_truth.load(source)
    for (image, size), split in zip(kept, chosen, strict=True):
        if split is not None:
            _add(gathered, image, size, split, truth)
    _note_unused_styles(gathered, found)
    return gathered


def _read(source: Source, gathered: _Gathered, *, without_images: bool) -> list[SourceImage]:
    parts: list[SourceSet] = []
    if source.layout == "widerface":
        missing = widerface.missing_splits(source, without_images=without_images)
        gathered.missing_splits = [f"{source.name}/{split}: {lacks} is not there" for split, lacks in missing.items()]
        gathered.problems += [
            Problem("split", source.name, lacks, f"the split {split} is left out: this is not there")
            for split, lacks in missing.items()
        ]
        parts = [widerface.read(source, split) for split in sources.SPLITS if split not in missing]
    else:
        if without_images:
            raise DatasetError(
                "PP4AV can't be unified without its images",
                where=f"source {source.name}",
                got="--without-images",
                do="leave --without-images out: rows are shares of the image's size, which only the image tells",
            )
        parts = [pp4av.read(source)]
    for part in parts:
        gathered.problems += part.problems
        gathered.images_named += part.images_named
        gathered.rows += part.rows
        gathered.dropped += part.dropped
    return [image for part in parts for image in part.images]


def _sizes(
    source: Source, images: Sequence[SourceImage], gathered: _Gathered, cache: Path | None
) -> list[tuple[int, int] | None]:
    root = locations.location(source.root)
    # Joining plain paths is a fifth of the time that fsspec's take, and there may be tens of thousands.
    base = Path(str(root)) if locations.is_local(root) else root

    def measure(part: Sequence[SourceImage]) -> list[tuple[int, int] | MediaError]:
        return [_size(base / image.file_name, cache) for image in part]

    # Threads pay on network drives and stores; a task of many images keeps them from costing where files are at hand.
    parts = [images[i : i + HEADERS_A_TASK] for i in range(0, len(images), HEADERS_A_TASK)]
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        sizes = itertools.chain.from_iterable(pool.map(measure, parts))
        measured = list(track(sizes, f"{source.name}: image sizes", total=len(images)))
    for image, size in zip(images, measured, strict=True):
        if isinstance(size, MediaError):
            got = f"{size.got}; named in {image.where}" if size.got else f"named in {image.where}"
            gathered.problems.append(Problem("image", source.name, image.file_name, size.what, got))
    return [None if isinstance(size, MediaError) else size for size in measured]


def _size(path: UPath | Path, cache: Path | None) -> tuple[int, int] | MediaError:
    """The size, or why there is none: one bad image doesn't stop the others."""
    try:
        return image_headers.upright_size(path, cache)
    except MediaError as error:
        return error


def _split(source: Source, data: Data, images: Sequence[SourceImage]) -> Sequence[Split | None]:
    if source.layout == "widerface":
        return [image.split for image in images]
    if source.sequences is False:
        return splits.of_stills(images, data.splits)
    return splits.of_sequences(images, data.splits)


def _add(
    gathered: _Gathered, image: SourceImage, size: tuple[int, int] | None, split: Split, truth: dict[str, Record]
) -> None:
    source = gathered.source
    labeled = {Kind(name) for name in source.exhaustive} - image.unsure
    record: Record = {
        "file_name": image.file_name,
        "source": source.name,
        "group": image.group,
        "plate_style": source.plate_styles.get(image.group) if image.group is not None else None,
        "not_exhaustive_category_ids": [number for kind, number in CATEGORY_IDS.items() if kind not in labeled],
    }
    if size is not None:
        record["width"], record["height"] = size
    annotations = [found for box in image.boxes if (found := _annotation(gathered, image, box, size)) is not None]
    if image.file_name in truth:
        gathered.problems += ground_truth.join(source, truth[image.file_name], record, annotations)
        gathered.joined += sum("identity" in annotation for annotation in annotations)
    elif truth:
        what = "the ground truth doesn't know this image"
        gathered.problems.append(Problem("note", source.name, image.file_name, what))
    gathered.records.append((record, split, annotations))


def _annotation(gathered: _Gathered, image: SourceImage, box: SourceBox, size: tuple[int, int] | None) -> Record | None:
    """The annotation record of a box, in pixels and clipped; None, and counted, if nothing of it is in the image."""
    x, y, width, height = box.box_xywh
    if size is not None:
        scale_x, scale_y = size if image.normalized else (1, 1)
        corners = (x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y)
        inside = tuple(min(max(value, 0.0), float(limit)) for value, limit in zip(corners, size * 2, strict=True))
        x, y, width, height = inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1]
        if round(width, 6) <= 0 or round(height, 6) <= 0:
            gathered.dropped += 1
            return None
        gathered.clipped += max(abs(a - b) for a, b in zip(corners, inside, strict=True)) > CLIP_TOLERANCE_PX
    record: Record = {
        "category_id": CATEGORY_IDS[box.kind],
        "bbox": [_number(value) for value in (x, y, width, height)],
        "area": _number(width * height),
        "iscrowd": int(box.iscrowd),
    }
    if box.attributes is not None:
        record["attributes"] = box.attributes
    return record


def _number(value: float) -> int | float:
    """Whole numbers without a point, others with six digits: the same bytes wherever they were computed."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def _note_unused_styles(gathered: _Gathered, images: Sequence[SourceImage]) -> None:
    groups = {image.group for image in images}
    if unknown := sorted(gathered.source.plate_styles.keys() - groups):
        what = "plate_styles names groups that the data doesn't have"
        gathered.problems.append(Problem("note", gathered.source.name, "plate_styles", what, ", ".join(unknown)))


def _numbered(gathered: Sequence[_Gathered]) -> list[tuple[Record, Split, list[Record]]]:
    """Number images and annotations from 1 through both files, so that ids stay unique where files are merged."""
    records = [record for part in gathered for record in part.records]
    annotation_id = 0
    for image_id, (image, _, annotations) in enumerate(records, start=1):
        image["id"] = image_id
        for annotation in annotations:
            annotation_id += 1
            annotation["id"], annotation["image_id"] = annotation_id, image_id
    return records


def _info(data: Data, folder: UPath, split: Split, without_images: bool) -> Record:
    return {
        "format": coco.FORMAT,
        "description": f"faces and licence plates, {split}",
        "split": split,
        "clipping": "not done" if without_images else "done",
        "made_with": _made_with(data),
        "sources": {
            source.name: {
                "root": _root_from(folder, locations.location(source.root)),
                "layout": source.layout,
                "exhaustive": list(source.exhaustive),
            }
            for source in data.sources
        },
    }


def _root_from(folder: UPath, root: UPath) -> str:
    """The root relative to the unified file's folder where they share one, so that both can be moved together."""
    if not (locations.is_local(folder) and locations.is_local(root)):
        return str(root)
    shared = os.path.commonpath([str(folder), str(root)])
    return str(root) if shared == os.sep else Path(os.path.relpath(str(root), str(folder))).as_posix()


def _made_with(data: Data) -> str:
    """A fingerprint of the settings that the files depend on, wherever the sources lie."""
    places = {"root", "ground_truth", "download", "sha256"}
    return fingerprint(data.splits, *(str(source.model_dump(mode="json", exclude=places)) for source in data.sources))


def _report(gathered: Sequence[_Gathered], folder: UPath, *, without_images: bool) -> UnifyReport:
    by_source: dict[str, dict[str, Counts]] = {
        part.source.name: {split: _counts(part, split) for split in sources.SPLITS} for part in gathered
    }
    totals: Counter[str] = Counter()
    for of_source in by_source.values():
        for counts in of_source.values():
            totals.update(asdict(counts))
    return UnifyReport(
        images=totals["images"],
        boxes=totals["boxes"],
        iscrowd=totals["iscrowd"],
        dropped=sum(part.dropped for part in gathered),
        images_without_boxes=totals["images_without_boxes"],
        clipped=None if without_images else sum(part.clipped for part in gathered),
        left_out_frames=sum(part.left_out_frames for part in gathered),
        joined=sum(part.joined for part in gathered),
        by_source=by_source,
        missing_splits=tuple(missing for part in gathered for missing in part.missing_splits),
        problems=tuple(problem for part in gathered for problem in _in_order(part.problems)),
        files=tuple(unified_file(folder, split).name for split in sources.SPLITS),
    )


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: pp4av.natural_key(problem.where))


def _counts(part: _Gathered, split: Split) -> Counts:
    counts = Counts()
    for _, of, annotations in part.records:
        if of != split:
            continue
        counts.images += 1
        counts.images_without_boxes += not annotations
        counts.boxes += len(annotations)
        counts.faces += sum(annotation["category_id"] == CATEGORY_IDS[Kind.FACE] for annotation in annotations)
        counts.iscrowd += sum(annotation["iscrowd"] for annotation in annotations)
    counts.license_plates = counts.boxes - counts.faces
    return counts


def _refusal(gathered: Sequence[_Gathered], data: Data) -> DatasetError | None:
    for part in gathered:
        for scope, whole, name in (("image", part.images_named, "images"), ("row", part.rows, "rows")):
            bad = [problem for problem in part.problems if problem.scope == scope]
            share = min(len(bad) / max(whole, 1), 1.0)
            if share > data.max_bad_share:
                first = "\n    ".join(str(problem) for problem in bad[:PROBLEMS_NAMED])
                return DatasetError(
                    f"too much of the data set is bad: {len(bad)} of {whole} {name}",
                    where=locations.location(part.source.root),
                    got=f"{share:.1%}, the first:\n    {first}",
                    allowed=f"max_bad_share: {data.max_bad_share:.1%}",
                    do="mend them (report.json lists all), or raise data.max_bad_share",
                )
    return None

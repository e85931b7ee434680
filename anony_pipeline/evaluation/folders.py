"""Judge anybody's anonymizer: a folder of originals, one of anonymized images, and a COCO file with the regions."""

import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from anony_pipeline.config import loading
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import given_boxes, image_headers
from anony_pipeline.datasets.coco import CocoSet, Record
from anony_pipeline.errors import DatasetError
from anony_pipeline.evaluation import baselines, coverage, scorecard
from anony_pipeline.evaluation.judges import load_without_checkpoint
from anony_pipeline.evaluation.methods import Method, Scene, Treated
from anony_pipeline.evaluation.run import Run
from anony_pipeline.evaluation.schema import ANONYMIZER, BoxSource, Scorecard, Subject
from anony_pipeline.ops import images
from anony_pipeline.runtime import device as devices
from anony_pipeline.storage import locations
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind

NAMED = 5
UNNAMED_SOURCE = "originals"
NO_TRAINING = "a folder does not tell what its anonymizer was trained on"
DEFAULT_DATA = f"data.sources=[{{name: {UNNAMED_SOURCE}, layout: pp4av, root: ., exhaustive: [face, license_plate]}}]"


def configuration(layers: Sequence[str], overrides: Sequence[str]) -> Config:
    """The configuration of an evaluation without a training: its name, judges, baselines, floors and gates count.

    Args:
        layers: YAML files; may be none, and then all keys have their defaults.
        overrides: ``judges.second_detector=yunet.onnx``.

    Raises:
        ConfigError: See `anony_pipeline.config.loading.load`.
    """
    needed = [] if layers else [DEFAULT_DATA, "name=folders"]
    return loading.load(layers, [*needed, *overrides])


def evaluate(
    config: Config, originals: Path, anonymized: Path, boxes_file: Path, output: Path, command: str | None = None
) -> Scorecard:
    """Judge a folder of anonymized images beside the baselines, and write ``scorecard.json`` and ``report/index.html``.

    A region less than half of whose pixels differ from the original counts as leaked, whatever the judges see.

    Args:
        config: By whom it is judged, against which baselines and gates.
        originals: The images that ``boxes_file`` names, below this folder.
        anonymized: The same names, below this folder; another suffix is fine.
        boxes_file: COCO with faces and license plates; ``identity`` and ``serial`` of its annotations make
            re-identification and leaked plates measurable. A category that it does not list counts as unlabeled.
        output: Where the two files go.
        command: What makes the scorecard again; the command line's own if None.

    Raises:
        DatasetError: If the folders and the boxes do not fit together.
        WeightsError: If a judge is not there.
    """
    found = scorecard.limited(read_boxes(boxes_file, originals), config.evaluation.max_images)
    pairs = pair(found, originals, anonymized)
    _in_place(found, originals, boxes_file)
    locations.writable(output)
    judges = load_without_checkpoint(config, devices.choose_device(config.device))
    methods: dict[str, Method] = {f"{ANONYMIZER}/detected": Given(pairs)}
    methods |= {name: _baseline(name, config, found) for name in config.evaluation.baselines if name in BASELINES}
    run = Run(config, found, judges, methods)
    run.look()
    given = {"--originals": originals, "--anonymized": anonymized, "--boxes": boxes_file}
    again = command or shlex.join(["anony", "evaluate", *(str(part) for item in given.items() for part in item)])
    subject = Subject(checkpoint=anonymized.resolve().name, step=0, sha256=_sha256(pairs), kind="folder")
    card = scorecard.summarize(config, subject, run, run.evidence({}, NO_TRAINING), again)
    scorecard.save(card, output, run.pictures)
    return card


BASELINES = ("none", "blur", "pixelate", "solid", "inpaint", "other_face")
"""The baselines that need no training."""


def _baseline(name: str, config: Config, judged: CocoSet) -> Method:
    if name == "none":
        return baselines.none()
    if name == "other_face":
        return baselines.other_face(baselines.Donors.read(config, judged, of_judged=True))
    return baselines.redaction(name)


@dataclass(frozen=True)
class Given:
    """Images that somebody anonymized: a method that reads what is there.

    Attributes:
        pairs: The anonymized file by the original's ``file_name``.
    """

    pairs: dict[str, Path]
    name: str = ANONYMIZER
    boxes: BoxSource = "detected"
    kinds: frozenset[Kind] = frozenset(Kind)

    def apply(self, scenes: Sequence[Scene]) -> list[Treated]:
        """See `Method.apply`."""
        return [self._read(scene) for scene in scenes]

    def _read(self, scene: Scene) -> Treated:
        image_rgb = images.read(self.pairs[scene.record["file_name"]])
        places = boxes.as_boxes([region.box_xyxy for region in scene.regions])
        changed = coverage.changed(scene.image_rgb, image_rgb, places)
        shares = coverage.cover(places, changed, places).shares
        done = [
            f"{region.kind} {'replaced' if share >= coverage.HALF else 'left as it was by half or more'}"
            for region, share in zip(scene.regions, shares, strict=True)
        ]
        return Treated(image_rgb, done=done, changed=changed)


def read_boxes(path: Path, originals: Path) -> CocoSet:
    """Read anybody's COCO file of faces and license plates as a unified set whose images lie in one folder.

    Args:
        path: See `given_boxes.read`.
        originals: Where the images lie.

    Raises:
        DatasetError: See `given_boxes.read`; also if an image would lie outside the folder, or if there is no region.
    """
    given = given_boxes.read(path)
    records = [_record(image, given.kinds) for image in given.images]
    roots = {record["source"]: {"root": str(originals.resolve())} for record in records}
    found = CocoSet(locations.location(path), {"sources": roots}, records, given.annotations)
    _none_outside(found, path)
    if not found.annotations:
        raise DatasetError(
            "the boxes file has no region, so there is nothing to judge",
            where=path,
            got=f"{len(found)} images without boxes",
            do="give the file that says where faces and license plates are in the originals",
        )
    return found


def _none_outside(found: CocoSet, where: Path) -> None:
    """Names that lead out of the folder would show originals as if they were anonymized."""
    names = [image["file_name"] for image in found.images]
    leading = [name for name in names if PurePath(name).is_absolute() or ".." in PurePath(name).parts]
    if leading:
        raise DatasetError(
            f"{len(leading)} of {len(names)} images lie outside the folders",
            where=where,
            got=_few(leading),
            allowed="file names relative to --originals and --anonymized, without ..",
            do="write the names as they stand below the folders",
        )


def _record(image: Record, kinds: dict[int, Kind]) -> Record:
    partly = {kinds.get(number) for number in image.get("not_exhaustive_category_ids") or ()}
    unlabeled = [number for kind, number in CATEGORY_IDS.items() if kind in partly or kind not in kinds.values()]
    source = image.get("source") or UNNAMED_SOURCE
    return {**image, "source": source, "not_exhaustive_category_ids": unlabeled}


def pair(found: CocoSet, originals: Path, anonymized: Path) -> dict[str, Path]:
    """Find each image's anonymized version, and compare their sizes without decoding them.

    Args:
        found: What the boxes name.
        originals: Its images' folder.
        anonymized: The other folder.

    Returns:
        The anonymized file by the original's ``file_name``.

    Raises:
        DatasetError: If a folder or an image is missing, if both folders are one, if two originals would have one
            anonymized version, or if two sizes differ.
        MediaError: If a file is no image.
    """
    for folder in (originals, anonymized):
        if not folder.is_dir():
            raise DatasetError("there is no such folder of images", where=folder)
    if originals.resolve() == anonymized.resolve():
        raise DatasetError("originals and anonymized images are one and the same folder", where=originals)
    names = [image["file_name"] for image in found.images]
    _none_missing([name for name in names if not (originals / name).is_file()], len(names), originals, "an original")
    pairs = {name: counterpart for name in names if (counterpart := _counterpart(anonymized / name)) is not None}
    missing = [name for name in names if name not in pairs]
    _none_missing(missing, len(names), anonymized, "an anonymized version")
    counted = Counter(pairs.values())
    shared = [f"{name}: {file.name}" for name, file in pairs.items() if counted[file] > 1]
    if shared:
        raise DatasetError(
            f"{len(shared)} of {len(pairs)} images would share an anonymized version with another one",
            where=anonymized,
            got=_few(shared),
            allowed="one anonymized version an image",
            do="keep the suffixes where originals differ by them alone, or rename such originals",
        )
    differing = [
        f"{name}: {before[0]} x {before[1]} and {after[0]} x {after[1]} px"
        for name, file in pairs.items()
        if (before := image_headers.upright_size(originals / name)) != (after := image_headers.upright_size(file))
    ]
    if differing:
        raise DatasetError(
            f"{len(differing)} of {len(pairs)} images have another size than their originals",
            where=anonymized,
            got=_few(differing),
            allowed="the original's width and height",
            do="anonymize without resizing, or resize the originals and their boxes alike",
        )
    return pairs


def _in_place(found: CocoSet, originals: Path, where: Path) -> None:
    """Boxes of images in another size, or beyond their image, would be judged in the wrong places."""
    sizes = {image["id"]: image_headers.upright_size(originals / image["file_name"]) for image in found.images}
    resized = []
    for image in found.images:
        said, (width, height) = (image.get("width"), image.get("height")), sizes[image["id"]]
        if None not in said and said != (width, height):
            resized.append(f"{image['file_name']}: {width} x {height} and {said[0]} x {said[1]} px")
    if resized:
        raise DatasetError(
            f"{len(resized)} of {len(found)} originals have another size than the boxes file says",
            where=where,
            got=_few(resized),
            do="give the boxes of the images as they are, upright by their EXIF orientation",
        )
    places = boxes.xywh_to_xyxy([annotation["bbox"] for annotation in found.annotations])
    ends = np.array([sizes[annotation["image_id"]] * 2 for annotation in found.annotations], np.float32)
    beyond = [found.annotations[i] for i in np.flatnonzero(boxes.area(np.clip(places, 0, ends)) == 0)]
    if beyond:
        raise DatasetError(
            f"{len(beyond)} of {len(found.annotations)} boxes lie beyond their images",
            where=where,
            got=_few([f"annotation {annotation['id']}: {annotation['bbox']}" for annotation in beyond]),
            do="mend the boxes: x, y, width and height in pixels",
        )


def _counterpart(path: Path) -> Path | None:
    candidates = [path, *(path.with_suffix(suffix) for suffix in images.SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _none_missing(missing: Sequence[str], total: int, folder: Path, what: str) -> None:
    if missing:
        raise DatasetError(
            f"{len(missing)} of {total} images of the boxes lack {what}",
            where=folder,
            got=_few(missing),
            do="name the folders so that folder/file_name is the image, or take these images out of the boxes file",
        )


def _few(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def _sha256(pairs: dict[str, Path]) -> str:
    found = hashlib.sha256()
    for name, file in sorted(pairs.items()):
        found.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()

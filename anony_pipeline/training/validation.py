"""Quick figures on a few val regions, and pictures of them. The scorecard judges all, by judges that are in no loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anony_pipeline.anonymize.verifying import plate_crop
from anony_pipeline.config.schema import Config
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.evaluation import detection, plate_reading, reidentification
from anony_pipeline.evaluation import fid as distances
from anony_pipeline.evaluation.canaries import membership_auc
from anony_pipeline.evaluation.judges import LOWEST_SCORE
from anony_pipeline.models import detector as detectors
from anony_pipeline.models import weights
from anony_pipeline.models.features import FeatureExtractor, load_features
from anony_pipeline.models.reader import Reader, load_reader
from anony_pipeline.models.recognizer import Recognizer, align, load_recognizer
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.plates.styles import NEUTRAL, configured_styles
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.device import torch_generator
from anony_pipeline.storage import private
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind, Region
from anony_pipeline.targets import plates as plate_targets
from anony_pipeline.targets import selection
from anony_pipeline.targets.faces import face_size_hw
from anony_pipeline.targets.plates import plate_size_hw
from anony_pipeline.targets.selection import Chosen
from anony_pipeline.training import batches, cache
from anony_pipeline.training.cache import SampleRow, SampleSet
from anony_pipeline.training.canaries import Canaries
from anony_pipeline.training.state import TrainingState

PICTURES = 8
"""Pictures of each kind in `val_samples`."""

MIN_FEATURES = 8
"""Fewer regions give no distance of distributions worth a number."""


@dataclass(frozen=True)
class Judges:
    """Who measures during training: the judges that are in the losses too, so these figures flatter."""

    recognizer: Recognizer
    reader: Reader
    features: FeatureExtractor


@dataclass(frozen=True)
class Scene:
    """One val image: pixels, records, and its samples as ``(kind, index)``."""

    image: dict[str, Any]
    pixels: np.ndarray
    annotations: list[dict[str, Any]]
    samples: list[tuple[Kind, int]]


def load_judges(config: Config, device: torch.device) -> Judges:
    """Load the first recognizer and reader, and the features.

    Raises:
        WeightsError: If a judge's weights are missing.
    """
    options = weights.loader_options(config, device)
    return Judges(
        recognizer=load_recognizer(config.judges.recognizer, **options),
        reader=load_reader(config.judges.reader, cache=Path(config.paths.cache), **options),
        features=load_features(config.judges.features, **options),
    )


class Validator:
    """Measures the averaged generator and the detector on the same val regions each time.

    Args:
        config: With `training.validation_regions`.
        coco: The val split.
        judges: Who measures; loaded at the first call if None.
        trained_on: The training faces. Some are filled too: a generator that gives back faces that it learned from
            makes them more like the originals than it makes faces that it never saw.
        canaries: Of an audit.
    """

    def __init__(
        self,
        config: Config,
        coco: CocoSet,
        judges: Judges | None = None,
        trained_on: SampleSet | None = None,
        canaries: Canaries | None = None,
    ) -> None:
        self.config, self.coco, self.judges, self.canaries = config, coco, judges, canaries
        self.trained_on = _evenly(trained_on, -(-config.training.validation_regions // 2)) if trained_on else None
        self.samples: dict[Kind, SampleSet] = {}
        self.scenes: list[Scene] = []

    def __call__(self, state: TrainingState, folder: Path) -> dict[str, float]:
        """Measure, and write pictures.

        Args:
            state: It is the same afterwards as before.
            folder: Where ``stepXXXX/`` of pictures goes: private, they hold original pixels.

        Returns:
            `arcface_mean_sim`, `train_mean_sim`, `similarity_gap` (the one on training faces minus that on val faces),
            `canary_auc`, `easyocr_plate_acc`, `fid`, `kid` and `val_map`; what can't be measured is left out.
        """
        judges = self.judges = self.judges or load_judges(self.config, state.device)
        if not self.scenes:
            self._choose()
        with state.averaged():
            outputs = {kind: self._fill(state, samples) for kind, samples in self.samples.items()}
            learned = self._fill(state, self.trained_on) if self.trained_on else []
            sung = self._fill(state, self.canaries.samples) if self.canaries else []
        figures = self._faces(judges.recognizer, outputs, learned) | self._plates(judges.reader, outputs)
        if self.canaries is not None:
            scores = _cosines(judges.recognizer, self.canaries.samples, sung)
            figures["canary_auc"] = membership_auc(scores, self.canaries.planted)
        figures |= self._distances(judges.features, outputs)
        figures |= self._detections(state, outputs)
        self._pictures(outputs, folder / f"step{state.progress.step:04d}")
        return {name: value for name, value in figures.items() if np.isfinite(value)}

    def _choose(self) -> None:
        """Take whole images at random until there are enough regions of each kind; all regions in them are filled."""
        groups: dict[int, list[Chosen]] = {image["id"]: [] for image in self.coco.images}
        shown = self.config.model.generator
        for kind, size_hw, context in (
            (Kind.FACE, face_size_hw(self.config), shown.face_context),
            (Kind.PLATE, plate_size_hw(self.config), shown.plate_context),
        ):
            chosen, _ = selection.choose(
                self.coco,
                kind,
                min_region_px=self.config.data.min_region_px,
                size_hw=size_hw,
                context=context,
            )
            for item in chosen:
                groups[item.image["id"]].append(item)
        wanted = dict.fromkeys(Kind, -(-self.config.training.validation_regions // 2))
        taken: list[tuple[dict[str, Any], list[Chosen]]] = []
        order = seeding.numpy_generator(self.config.seed, "validation").permutation(len(self.coco.images))
        for image in (self.coco.images[number] for number in order):
            items = groups[image["id"]]
            # A crowd alone would fill the whole sample.
            fits = len(items) <= self.config.training.validation_regions
            if fits and any(wanted[item.region.kind] > 0 for item in items):
                taken.append((image, items))
                for item in items:
                    wanted[item.region.kind] -= 1
        self._cut(taken)

    def _cut(self, taken: Sequence[tuple[dict[str, Any], list[Chosen]]]) -> None:
        parts: dict[Kind, list[tuple[np.ndarray, np.ndarray, np.ndarray, SampleRow]]] = {kind: [] for kind in Kind}
        regions, crowds = self.coco.regions_by_image(), cache.crowds_of(self.coco.annotations)
        styles = configured_styles()
        for image, items in taken:
            pixels = images.read(self.coco.image_file(image))
            places = []
            for item in items:
                kind = item.region.kind
                size_hw = face_size_hw(self.config) if kind is Kind.FACE else plate_size_hw(self.config)
                original = crops.cut(pixels, item.window, size_hw)
                anchor, serial = original, None
                if kind is Kind.PLATE:
                    style = styles[item.region.style or NEUTRAL]
                    drawn = plate_targets.draw(self.config, style, item.annotation)
                    anchor, serial = (
                        crops.cut(plate_targets.replace(pixels, item.region, drawn)[0], item.window, size_hw),
                        drawn.serial,
                    )
                others = regions[image["id"]]
                row = cache.sample_row(
                    item.region, others, image, item.annotation, item.window, size_hw, serial, crowds
                )
                places.append((kind, len(parts[kind])))
                parts[kind].append((original, anchor, masks.crop_mask(others, item.window, size_hw), row))
            self.scenes.append(Scene(image, pixels, self.coco.annotations_by_image[image["id"]], places))
        self.samples = {kind: _sample_set(kind, found) for kind, found in parts.items() if found}

    def _fill(self, state: TrainingState, samples: SampleSet) -> list[np.ndarray]:
        outputs: list[np.ndarray] = []
        generator, training = state.networks.generator, self.config.training
        # Without gradients twice as many fit as in a step's pass.
        size = 2 * -(-training.batch_size // training.accumulation)
        for start in range(0, len(samples), size):
            chosen = range(start, min(start + size, len(samples)))
            noise = torch.cat(
                [
                    torch.randn(
                        generator.noise_shape(1, samples.masks.shape[1:]),
                        generator=torch_generator(
                            seeding.seed_for(self.config.seed, "validation/noise", samples.rows[index].annotation_id)
                        ),
                    )
                    for index in chosen
                ]
            )
            batch = batches.assemble(samples, chosen, samples.masks[list(chosen)], noise, state.device)
            with torch.inference_mode():
                filled = batches.fill(generator, batch)
            outputs += images.to_images(filled)
        return outputs

    def _faces(
        self, recognizer: Recognizer, outputs: dict[Kind, list[np.ndarray]], learned: list[np.ndarray]
    ) -> dict[str, float]:
        figures = {}
        if Kind.FACE in outputs:
            figures["arcface_mean_sim"] = float(
                _cosines(recognizer, self.samples[Kind.FACE], outputs[Kind.FACE]).mean()
            )
        if self.trained_on is not None:
            figures["train_mean_sim"] = float(_cosines(recognizer, self.trained_on, learned).mean())
        if len(figures) == 2:
            figures["similarity_gap"] = figures["train_mean_sim"] - figures["arcface_mean_sim"]
        return figures

    def _plates(self, reader: Reader, outputs: dict[Kind, list[np.ndarray]]) -> dict[str, float]:
        if Kind.PLATE not in outputs:
            return {}
        rows = self.samples[Kind.PLATE].rows
        plates = [
            plate_crop(output, _region(Kind.PLATE, row)) for output, row in zip(outputs[Kind.PLATE], rows, strict=True)
        ]
        texts = [reading.text for reading in reader.read(plates)]
        return {"easyocr_plate_acc": float(plate_reading.exact(texts, [row.serial or "" for row in rows]).mean())}

    def _distances(self, features: FeatureExtractor, outputs: dict[Kind, list[np.ndarray]]) -> dict[str, float]:
        real, made = [], []
        for kind, pictures in outputs.items():
            samples = self.samples[kind]
            for original, output, row in zip(samples.originals, pictures, samples.rows, strict=True):
                window = tuple(boxes.grow([row.box_xyxy], masks.GROWTH[kind])[0].tolist())
                real.append(crops.cut(np.asarray(original), window, original.shape[:2]))
                made.append(crops.cut(output, window, original.shape[:2]))
        if len(real) < MIN_FEATURES:
            return {}
        first, second = features.extract(real), features.extract(made)
        rng = seeding.numpy_generator(self.config.seed, "validation/kid")
        return {"fid": distances.fid(first, second), "kid": distances.kid(first, second, rng).value}

    def _detections(self, state: TrainingState, outputs: dict[Kind, list[np.ndarray]]) -> dict[str, float]:
        edge = self.config.training.detector_image_px
        found, truth = [], []
        for scene in self.scenes:
            pixels = scene.pixels
            for kind, index in scene.samples:
                row = self.samples[kind].rows[index]
                pixels = crops.paste(pixels, outputs[kind][index], row.window, self._mask(scene, kind, row))
            square, known = cache.letterboxed(pixels, scene.image, scene.annotations, edge)
            regions = detectors.detect(state.networks.detector, [square], LOWEST_SCORE)[0]
            found += [_result(scene.image["id"], region) for region in regions]
            truth += [
                {
                    "id": annotation["id"],
                    "image_id": scene.image["id"],
                    "category_id": label,
                    "bbox": boxes.xyxy_to_xywh([box])[0].tolist(),
                    "iscrowd": int(crowd),
                }
                for annotation, box, label, crowd in zip(
                    scene.annotations, known.boxes_xyxy, known.labels, known.iscrowd, strict=True
                )
            ]
        scores = detection.average_precision([scene.image for scene in self.scenes], truth, found)
        return {"val_map": scores.map}

    @staticmethod
    def _mask(scene: Scene, kind: Kind, row: SampleRow) -> np.ndarray:
        annotation = next(a for a in scene.annotations if a["id"] == row.annotation_id)
        return masks.region_mask([Region(kind, Region.from_coco(annotation).box_xyxy)], scene.pixels.shape[:2])

    def _pictures(self, outputs: dict[Kind, list[np.ndarray]], folder: Path) -> None:
        private.folder(
            folder, retention_days=self.config.paths.retention_days, holds="original, masked and anonymized val regions"
        )
        for kind, pictures in outputs.items():
            samples = self.samples[kind]
            for index in range(min(PICTURES, len(pictures))):
                original, hidden = samples.originals[index], samples.masks[index][..., None] > 0
                masked = np.where(hidden, np.uint8(128), original)
                row = np.concatenate([original, masked, pictures[index]], axis=1)
                images.write(folder / f"{kind.value}_{samples.rows[index].annotation_id}.png", row, mode=0o600)


def _sample_set(kind: Kind, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, SampleRow]]) -> SampleSet:
    originals, anchors, holes, rows = zip(*parts, strict=True)
    return SampleSet(
        kind=kind,
        originals=np.stack(originals),
        targets=np.stack(anchors),
        anchors=np.stack(anchors) if kind is Kind.PLATE else None,
        masks=np.stack(holes).astype(np.uint8),
        rows=list(rows),
    )


def _evenly(samples: SampleSet, count: int) -> SampleSet:
    """So many samples of a set, evenly spread, held in memory."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int))
    return SampleSet(
        kind=samples.kind,
        originals=samples.originals[chosen],
        targets=samples.targets[chosen],
        anchors=None if samples.anchors is None else samples.anchors[chosen],
        masks=samples.masks[chosen],
        rows=[samples.rows[index] for index in chosen],
    )


def _cosines(recognizer: Recognizer, samples: SampleSet, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """How like each original a recognizer finds what was made of it, ``(N,)``."""

    def embed(faces: Sequence[np.ndarray]) -> np.ndarray:
        regions = (_region(Kind.FACE, row) for row in samples.rows)
        return recognizer.embed(
            [align(face, region, recognizer.input_size) for face, region in zip(faces, regions, strict=True)]
        )

    return reidentification.cosine(embed(list(samples.originals)), embed(pictures))


def _region(kind: Kind, row: SampleRow) -> Region:
    return Region(kind, row.box_xyxy, quad=row.quad, landmarks=row.landmarks)


def _result(image_id: int, region: Region) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": CATEGORY_IDS[region.kind],
        "bbox": boxes.xyxy_to_xywh([region.box_xyxy])[0].tolist(),
        "score": region.score,
    }

"""What the shipped base generator can do, on people and plates that it has never seen; with the sheets of the docs.

Run:   python benchmarks/base_generator.py
Takes: about three minutes on two cores. Writes results/base_generator.json and docs/images/base_*.jpg.

Each figure that flatters has its control: distances beside those of OpenCV's inpainting, of the k-same mean and of real
pictures among themselves; likeness to the original beside that of strangers; recognition with the face itself covered.
"""

import argparse
import json
import platform
from pathlib import Path

import cv2
import numpy as np
import torch

from anony_pipeline.evaluation import fid, intervals, reidentification
from anony_pipeline.fitting import generator as fitting
from anony_pipeline.fitting.generator_crops import face_crop, plate_crop
from anony_pipeline.fitting.recognizer import verification
from anony_pipeline.models import features, recognizer, weights
from anony_pipeline.models.generator import SHIPPED_UNET
from anony_pipeline.ops import images, masks
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import faces as face_targets

RESULT = Path(__file__).parent / "results" / "base_generator.json"
SHEETS = Path(__file__).parents[1] / "docs" / "images"
SEED = 0
PEOPLE = 200
"""Numbered from 0: neither the base model nor a judge was trained on them."""
SHOWN = 64
BATCH = 16
TRAINING_SEED = 2028
"""Of the crops that taught the base model its faces (see weights/manifest.json)."""


class Crops:
    """Crops of one kind, what is masked in them, and how they are filled."""

    def __init__(self, kind: Kind, pictures: list[np.ndarray], boxes: list[np.ndarray], anchors: list | None = None):
        self.kind, self.pictures, self.anchors = kind, pictures, anchors
        self.regions = [Region(kind, tuple(box.tolist())) for box in boxes]
        self.masks = [masks.region_mask([region], pictures[0].shape[:2]) for region in self.regions]

    def __len__(self) -> int:
        return len(self.pictures)

    @torch.inference_mode()
    def filled(self, generator, seed: int = SEED) -> list[np.ndarray]:
        """What the generator makes of each, in one step."""
        noise_rng = torch.Generator().manual_seed(seed)
        made = []
        for start in range(0, len(self), BATCH):
            rows = slice(start, start + BATCH)
            pictures = images.to_tensor(self.pictures[rows])
            noise = torch.randn(generator.noise_shape(len(pictures), pictures.shape[2:]), generator=noise_rng)
            anchors = None if self.anchors is None else images.to_tensor(self.anchors[rows])
            holes = torch.from_numpy(np.stack(self.masks[rows]))[:, None]
            made += images.to_images(generator.fill(pictures, holes, self.kind, noise=noise, anchors=anchors))
        return made

    def inpainted(self) -> list[np.ndarray]:
        """OpenCV's inpainting of the masked place."""
        pairs = zip(self.pictures, self.masks, strict=True)
        return [cv2.inpaint(picture, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA) for picture, mask in pairs]

    def averaged(self, k: int = 5) -> list[np.ndarray]:
        """The k-same mean: k other people's faces, laid over each other in the face's place."""
        made = []
        for number, picture in enumerate(self.pictures):
            others = [(number + step) % len(self) for step in range(1, k + 1)]
            warped = [
                face_targets.warp_onto(self.pictures[other], self.regions[other], self.regions[number])
                for other in others
            ]
            mean = np.mean(warped, axis=0)
            made.append(np.where(self.masks[number][..., None] > 0, mean, picture).round().astype(np.uint8))
        return made

    def covered(self) -> list[np.ndarray]:
        """With the face itself under gray: what hair, clothes and outline leave to recognize."""
        return [
            np.where(m[..., None] > 0, 128, p).astype(np.uint8) for p, m in zip(self.pictures, self.masks, strict=True)
        ]


def faces(people: range, view: int) -> Crops:
    """One picture of each person."""
    drawn = [face_crop(SEED + view, number, person_seed=number) for number in people]
    return Crops(Kind.FACE, [image for image, _ in drawn], [box for _, box in drawn])


def training_faces(count: int) -> Crops:
    """Crops that the base model was trained on."""
    drawn = [face_crop(TRAINING_SEED, number) for number in range(count)]
    return Crops(Kind.FACE, [image for image, _ in drawn], [box for _, box in drawn])


def embed(judge, crops: Crops, pictures: list[np.ndarray]) -> np.ndarray:
    """Unit vectors of faces, cut by the original's box."""
    pairs = zip(pictures, crops.regions, strict=True)
    return judge.embed([recognizer.align(picture, region, judge.input_size) for picture, region in pairs])


def mean_of(values: np.ndarray) -> dict:
    """The mean and its interval over people."""
    rng = np.random.default_rng(SEED)
    low, high = intervals.bootstrap_by_person(values, np.arange(len(values)), 500, rng)
    return {"mean": round(float(values.mean()), 4), "interval": [round(low, 4), round(high, 4)]}


def quality(judge, crops: Crops, versions: dict[str, list[np.ndarray]]) -> dict:
    """KID of each version, beside that of the originals' halves."""
    real = judge.extract(crops.pictures)
    half = len(real) // 2
    rows = {"originals_among_themselves": (real[:half], real[half : 2 * half])}
    rows |= {name: (real, judge.extract(pictures)) for name, pictures in versions.items()}
    found = {name: fid.kid(*pair, np.random.default_rng(SEED)) for name, pair in rows.items()}
    return {
        name: {"kid": round(one.value, 4), "interval": [round(bound, 4) for bound in one.interval]}
        for name, one in found.items()
    }


def identities(judge, generator, unseen: Crops, other_view: Crops) -> dict:
    """Who is seen in what was made: the original, a training person, always the same, or nobody."""
    originals, made = embed(judge, unseen, unseen.pictures), embed(judge, unseen, unseen.filled(generator))
    again = embed(judge, other_view, other_view.pictures)
    trained = training_faces(len(unseen))
    trained_originals = embed(judge, trained, trained.pictures)
    trained_made = embed(judge, trained, trained.filled(generator))
    one = Crops(Kind.FACE, [unseen.pictures[0]] * SHOWN, [np.array(unseen.regions[0].box_xyxy)] * SHOWN)
    spread = embed(judge, one, one.filled(generator))
    strangers = (originals @ again.T)[~np.eye(len(originals), dtype=bool)]
    covered = np.concatenate([embed(judge, crops, crops.covered()) for crops in (unseen, other_view)])
    whole = np.concatenate([originals, again])
    owners = np.tile(np.arange(len(unseen)), 2)
    return {
        "same_person_two_pictures": mean_of(reidentification.cosine(originals, again)),
        "strangers": {
            "mean": round(float(strangers.mean()), 4),
            "highest_of_1000": round(float(np.quantile(strangers, 0.999)), 4),
        },
        "made_and_original_unseen": mean_of(reidentification.cosine(originals, made)),
        "made_and_original_trained": mean_of(reidentification.cosine(trained_originals, trained_made)),
        "made_and_nearest_of_200_trained": mean_of((made @ trained_originals.T).max(axis=1)),
        "made_and_nearest_of_200_unseen": mean_of((made @ again.T - np.eye(len(made))).max(axis=1)),
        "64_of_one_context": {
            "mean_cosine": round(reidentification.sameness(spread)[0], 4),
            "effective_share": round(reidentification.sameness(spread)[1], 4),
        },
        "64_people": {
            "mean_cosine": round(reidentification.sameness(originals[:SHOWN])[0], 4),
            "effective_share": round(reidentification.sameness(originals[:SHOWN])[1], 4),
        },
        "recognition": verification(torch.from_numpy(whole), owners),
        "recognition_without_the_face": verification(torch.from_numpy(covered), owners),
    }


def sheet(path: Path, before: list[np.ndarray], after: list[np.ndarray], columns: int) -> None:
    """Pairs, before above after."""
    pairs = [np.concatenate(pair) for pair in zip(before, after, strict=True)]
    rows = [np.concatenate(pairs[start : start + columns], axis=1) for start in range(0, len(pairs), columns)]
    images.write(path, np.concatenate(rows), quality=90)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    generator = fitting.demo_generator()
    file = weights.shipped(SHIPPED_UNET)
    weights.load_into(generator.unet, weights.load_safetensors(file), file)
    generator.anchor_strength = 0.1
    generator.eval()
    unseen, other_view = faces(range(PEOPLE), 0), faces(range(PEOPLE), 1)
    plates = Crops(
        Kind.PLATE, *zip(*[(i, b, a) for i, a, b in (plate_crop(SEED, n) for n in range(PEOPLE))], strict=True)
    )
    plates.pictures, plates.anchors = list(plates.pictures), list(plates.anchors)
    judge = features.load_features("shipped")
    made, plates_made = unseen.filled(generator), plates.filled(generator)
    versions = {"base": made, "inpaint": unseen.inpainted(), "k_same": unseen.averaged()}
    plate_versions = {"base": plates_made, "fitted_without_generator": plates.anchors, "inpaint": plates.inpainted()}
    result = {
        "benchmark": "base_generator",
        "machine": {"device": platform.processor() or platform.machine(), "torch": torch.__version__},
        "people": PEOPLE,
        "faces": quality(judge, unseen, versions),
        "plates": quality(judge, plates, plate_versions),
    }
    for name, held_out in (("recognizer", False), ("held_out_recognizer", True)):
        result[name] = identities(
            recognizer.load_recognizer("shipped", held_out=held_out), generator, unseen, other_view
        )
    sheet(SHEETS / "base_faces.jpg", unseen.pictures[:SHOWN], made[:SHOWN], columns=16)
    sheet(SHEETS / "base_plates.jpg", plates.pictures[:SHOWN], plates_made[:SHOWN], columns=8)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""What the shipped base generator can do, on people and plates that it has never seen; with the sheets of the docs.

Run:   python benchmarks/base_generator.py
Takes: about ten minutes on two cores. Writes results/base_generator.json and docs/images/base_*.jpg.

Each figure that flatters has its control: distances beside those of OpenCV's inpainting, of the k-same mean and of real
pictures among themselves; likeness to the original beside that of strangers; recognition with the face itself covered.
"""

import argparse
import dataclasses
import functools
import json
import platform
from pathlib import Path

import cv2
import numpy as np
import torch

from anony_pipeline.datasets.streetscape import people as streetscape
from anony_pipeline.datasets.streetscape.identity import SHAPES, Person
from anony_pipeline.evaluation import fid, intervals, reidentification
from anony_pipeline.fitting import generator as fitting
from anony_pipeline.fitting.generator_crops import FACE_DRAWN_PX, FACE_HW, face_crop, plate_crop
from anony_pipeline.fitting.recognizer import verification
from anony_pipeline.models import features, recognizer, weights
from anony_pipeline.models.generator import SHIPPED_UNET
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime.seeding import numpy_generator
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import faces as face_targets

RESULT = Path(__file__).parent / "results" / "base_generator.json"
SHEETS = Path(__file__).parents[1] / "docs" / "images"
SEED = 0
PEOPLE = 200
"""Numbered from 0: neither the base model nor a judge was trained on them."""
SHOWN = 64
BATCH = 16
TRAINING_SEED = 2026
"""Of the crops that taught the base model its faces (see weights/manifest.json)."""
CONTEXTS = 24
STRANGERS = 30_000_000
"""Seeds of people from here on stand in for each other in one context; nobody else's are so high."""
SEEN_AROUND = ("hair_", "ear_", "neck_")
"""What of a face's shape is seen around a face that is masked."""
CONTEXT = 2.0


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


@dataclasses.dataclass
class Context:
    """One photograph whose face is masked, what was made of it, and who else might have been in it.

    Attributes:
        around: The photograph, as often as it is filled.
        strangers: The same with other people's faces drawn into the mask: hair, ears, neck and skin tone are the
            original's, as what is around demands; face, beard, glasses and what the face does are their own.
    """

    around: Crops
    strangers: list[np.ndarray]

    def colors(self, pictures: list[np.ndarray]) -> np.ndarray:
        """The mean color of the masked place in each, ``(N, 3)`` of 255."""
        inside = self.around.masks[0] > 0
        return np.stack([picture[inside].mean(axis=0) for picture in pictures])

    def recolored(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """Pictures whose masked place is brought to the original's mean color."""
        shifts = self.colors(self.around.pictures[:1]) - self.colors(pictures)
        inside = self.around.masks[0][..., None] > 0
        return [
            np.where(inside, picture + shift, picture).round().clip(0, 255).astype(np.uint8)
            for picture, shift in zip(pictures, shifts, strict=True)
        ]


def context(number: int) -> Context:
    """The context of an unseen person."""
    person = streetscape.sample_person(number)

    def taken(whose: Person, other: streetscape.Shot | None = None) -> streetscape.FaceCrop:
        rng = numpy_generator(SEED, "one context", number)
        shot = streetscape.sample_shot(rng, FACE_DRAWN_PX)
        if other is not None:
            wear = dataclasses.replace(shot.wear, glasses=other.wear.glasses)
            shot = dataclasses.replace(shot, expression=other.expression, wear=wear)
        return streetscape.photograph(whose, shot, rng)

    def framed(drawn: streetscape.FaceCrop) -> np.ndarray:
        return crops.cut(drawn.image, window, FACE_HW)

    own = taken(person)
    corners = own.box_xyxy.astype(np.float64).reshape(2, 2)
    window = crops.window_around(tuple(corners.ravel().tolist()), FACE_HW, context=CONTEXT)
    box = crops.to_crop(corners, window, FACE_HW).reshape(4)
    around = Crops(Kind.FACE, [framed(own)] * SHOWN, [box] * SHOWN)
    inside = around.masks[0][..., None] > 0
    strangers = []
    for other in resembling(person):
        shot = streetscape.sample_shot(numpy_generator(other.seed, "one context"))
        strangers.append(np.where(inside, framed(taken(other, shot)), around.pictures[0]))
    return Context(around, strangers)


def resembling(person: Person) -> list[Person]:
    """People who differ from somebody in nothing that is seen around a masked face.

    Hair and tone are copied, of those who are nearest in them: age, eyes, freckles and beards go with these.
    """
    seen = [name.startswith(SEEN_AROUND) for name in SHAPES]
    like = [other for other in _strangers() if other.hair_color == person.hair_color]
    like.sort(key=lambda other: abs(other.skin_tone - person.skin_tone))
    return [
        dataclasses.replace(
            other,
            shape=tuple(np.where(seen, person.shape, other.shape).tolist()),
            skin_tone=person.skin_tone,
            undertone=person.undertone,
            hair_style=person.hair_style,
            part_side=person.part_side,
        )
        for other in like[:SHOWN]
    ]


@functools.cache
def _strangers() -> list[Person]:
    return [streetscape.sample_person(seed) for seed in range(STRANGERS, STRANGERS + 20_000)]


def alike_in_one_context(judge, contexts: list[Context], filled: list[list[np.ndarray]]) -> dict:
    """How alike faces of one context are: made of 64 noises, of 64 other people, made of eight noises alone.

    The mean cosine of two of them, and as how many different faces they count (`reidentification.sameness`). Made faces
    whose mean color is the original's say how much of their variety is in their color.
    """
    found: dict[str, list] = {"made": [], "made_in_the_original_color": [], "strangers": [], "made_of_8_noises": []}
    for one, made in zip(contexts, filled, strict=True):
        vectors = embed(judge, one.around, made)
        found["made"].append(reidentification.sameness(vectors))
        found["made_of_8_noises"].append(reidentification.sameness(np.tile(vectors[:8], (SHOWN // 8, 1))))
        for name, pictures in (("made_in_the_original_color", one.recolored(made)), ("strangers", one.strangers)):
            found[name].append(reidentification.sameness(embed(judge, one.around, pictures)))
    cosines, shares = ({name: np.array(rows)[:, column] for name, rows in found.items()} for column in (0, 1))
    return {
        "cosine": {
            **{name: mean_of(values) for name, values in cosines.items()},
            "made_minus_strangers": mean_of(cosines["made"] - cosines["strangers"]),
        },
        "effective_faces": {name: mean_of(values * SHOWN) for name, values in shares.items()},
        "cosine_by_context": {name: [round(float(value), 3) for value in values] for name, values in cosines.items()},
    }


def color_in_one_context(contexts: list[Context], filled: list[list[np.ndarray]]) -> dict:
    """How far a masked place's mean color is from the original's, in 8-bit levels: of made, of strangers, of others."""
    own = [one.colors(one.around.pictures[:1])[0] for one in contexts]
    off = {
        "made": [np.abs(one.colors(made) - mine).mean() for one, made, mine in zip(contexts, filled, own, strict=True)],
        "strangers": [np.abs(one.colors(one.strangers) - mine).mean() for one, mine in zip(contexts, own, strict=True)],
        "another_context": [np.abs(own[number - 1] - mine).mean() for number, mine in enumerate(own)],
    }
    return {name: mean_of(np.array(values)) for name, values in off.items()}


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
    contexts = [context(number) for number in range(CONTEXTS)]
    filled = [one.around.filled(generator) for one in contexts]
    result["color_in_one_context"] = color_in_one_context(contexts, filled)
    for name, held_out in (("recognizer", False), ("held_out_recognizer", True)):
        knower = recognizer.load_recognizer("shipped", held_out=held_out)
        result[name] = identities(knower, generator, unseen, other_view)
        result[name]["64_of_one_context"] = alike_in_one_context(knower, contexts, filled)
    sheet(SHEETS / "base_faces.jpg", unseen.pictures[:SHOWN], made[:SHOWN], columns=16)
    sheet(SHEETS / "base_plates.jpg", plates.pictures[:SHOWN], plates_made[:SHOWN], columns=8)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Fit the classifier of plate styles on rendered plates of the configured styles."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from anony_pipeline.datasets.streetscape import vehicles
from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.loop import Plan, Progress, fit
from anony_pipeline.models.plate_style import INPUT_HW, PlateStyleNet, StyleClassifier
from anony_pipeline.ops import images
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import NEUTRAL, PlateStyle
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.progress import track


@dataclass(frozen=True)
class StyledPlates:
    """Rendered plates.

    Attributes:
        images: ``(N, 56, 168, 3)`` uint8 RGB.
        aspects: ``(N,)`` float32 width over height of the crops before they were resized.
        labels: ``(N,)`` int64 places in ``styles``.
        styles: Keys.
    """

    images: np.ndarray
    aspects: np.ndarray
    labels: np.ndarray
    styles: tuple[str, ...]


STORED_HW = (56, 168)
"""A little more than the network sees, so that a shift shows no repeated edge."""


def render_styled(
    styles: Mapping[str, PlateStyle], each: int, *, seed: int, progress: Progress = track
) -> StyledPlates:
    """Photograph ``each`` plates of every style, in all of its shapes, finished as plates in the street are.

    The neutral style is left out: it looks like no country's, and a guess of low confidence leads to it.
    """
    keys = tuple(key for key in styles if key != NEUTRAL)
    crops, aspects, labels = [], [], []
    for number in progress(range(len(keys) * each), "plates of each style"):
        label = number % len(keys)
        rng = seeding.numpy_generator(seed, "styled plate", number)
        shapes = list(styles[keys[label]].shapes.values())
        # The standard shape is on most cars.
        shape = shapes[0] if rng.random() < 0.6 else shapes[int(rng.integers(len(shapes)))]
        image = vehicles.render_plate_crop(rng, "base", shape, Finish.sample(rng)).image
        crops.append(images.resize(image, STORED_HW))
        aspects.append(image.shape[1] / image.shape[0])
        labels.append(label)
    return StyledPlates(np.stack(crops), np.array(aspects, np.float32), np.array(labels), keys)


def fit_plate_style(plates: StyledPlates, plan: Plan, *, batch: int = 128) -> StyleClassifier:
    """Fit a classifier.

    Args:
        plates: What it learns from.
        plan: How long and where.
        batch: Crops a step.

    Returns:
        The classifier, on the CPU.
    """
    torch.manual_seed(seeding.seed_for(plan.seed, "plate style start"))
    network = PlateStyleNet(len(plates.styles)).to(plan.device)
    pixels, aspects, labels = (
        torch.from_numpy(array).to(plan.device) for array in (plates.images, plates.aspects, plates.labels)
    )

    def step(_number: int, randomness: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(pixels), (batch,), generator=randomness, device=plan.device)
        # Boxes are off by a tenth: so is their aspect.
        noise = augmentation.uniform(batch, -0.1, 0.1, randomness)
        logits = network(_disturbed(pixels[chosen], randomness), aspects[chosen] * torch.exp(noise))
        return F.cross_entropy(logits, labels[chosen], label_smoothing=0.05)

    fit("plate_style", {"network": network}, step, plan)
    return StyleClassifier(network.cpu(), plates.styles)


def accuracy(classifier: StyleClassifier, plates: StyledPlates) -> float:
    """Share of plates whose style is the likeliest one by far, undisturbed; a neutral answer counts as wrong."""
    height = 48
    shown = [
        images.resize(image, (height, max(height, round(height * float(aspect)))))
        for image, aspect in zip(plates.images, plates.aspects, strict=True)
    ]
    guesses = classifier.choose(shown)
    return float(
        np.mean([guess.style == plates.styles[label] for guess, label in zip(guesses, plates.labels, strict=True)])
    )


def _disturbed(images_u8: torch.Tensor, randomness: torch.Generator) -> torch.Tensor:
    height, width = images_u8.shape[1:3]
    to_input = torch.tensor(
        [[INPUT_HW[1] / width, 0, 0], [0, INPUT_HW[0] / height, 0]], device=images_u8.device
    ).expand(len(images_u8), -1, -1)
    matrices = augmentation.jitter(to_input, INPUT_HW, randomness, scale=0.08, turn=0.04, shift=0.05)
    crops = augmentation.warp(augmentation.to_pixels(images_u8), matrices, INPUT_HW)
    crops, _ = augmentation.coarsen(augmentation.light(crops, randomness), randomness, lowest=0.5)
    return augmentation.add_noise(crops, randomness)[0]

"""Plates of one style, drawn at random: what a person looks at before anything is trained on them."""

import numpy as np

from anony_pipeline.plates import render, serials
from anony_pipeline.plates.styles import PlateStyle
from anony_pipeline.runtime import seeding

HEIGHT_PX = 96


def draw(style: PlateStyle, count: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Render plates with serials of the style's grammar, no two alike.

    Args:
        style: The plate style.
        count: How many.
        seed: Same seed, same plates.

    Returns:
        Images ``(H, W, 3)`` uint8 RGB, all of one size, and their serials.
    """
    rng = seeding.numpy_generator(seed, f"plate samples {style.key}")
    width_mm, height_mm = style.size_mm
    size_hw = (HEIGHT_PX, round(HEIGHT_PX * width_mm / height_mm))
    texts: list[str] = []
    for _ in range(count):
        texts.append(serials.draw(style, rng, avoid=texts))
    return [render.render(style, text, size_hw, rng=rng) for text in texts], texts

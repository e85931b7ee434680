"""From regions to generated crops: the window, the mask of every region in it, the new plate's text, the noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from anony_pipeline.config.schema import Config
from anony_pipeline.models.generator import Generator
from anony_pipeline.models.plate_style import StyleClassifier
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.ops import redact as redactions
from anony_pipeline.plates import serials
from anony_pipeline.plates.styles import NEUTRAL, PlateStyle
from anony_pipeline.runtime import seeding
from anony_pipeline.runtime.device import torch_generator
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import faces as face_targets
from anony_pipeline.targets import plates as plate_targets

LEAST_FREE = 0.25
"""Share of a neighborhood that must be no mask, so that there is something to continue."""
GRAY_LEVELS, COLORED_SHARE = 3, 1e-3
"""Pixels whose red, green and blue differ by no more are gray; a gray picture has fewer others than this share."""
GRAIN_KEPT = 1.146
"""White noise over what is left of it when a blur of one pixel is taken away: 1 / sqrt(1 - 1 / pi + 1 / (4 pi))."""


@dataclass(frozen=True)
class Task:
    """One region that is to be generated.

    Attributes:
        image_rgb: The original image.
        region: Which region.
        neighbors: The boxes ``(N, 4)``, in whole pixels, that are replaced in this image, this region's too: none is
            seen.
        seed: Of the noise and of a plate's looks.
        serial: The new serial of a plate.
        style: The new plate's style.
        gray: Whether the image has no color (`is_gray`), so that the crop must have none.
    """

    image_rgb: np.ndarray
    region: Region
    neighbors: np.ndarray
    seed: int
    serial: str | None = None
    style: str | None = None
    gray: bool = False


class Filler:
    """Fills regions by a generator; the crop's sizes and context are those that it was trained with."""

    def __init__(
        self,
        generator: Generator,
        config: Config,
        styles: Mapping[str, PlateStyle],
        secret: bytes,
        classifier: StyleClassifier | None = None,
    ) -> None:
        """Keep what a crop is made of.

        Args:
            generator: With or without adapters.
            config: For the sizes and context of crops and the font ratios.
            styles: Plate styles by key, ``unspecified`` among them.
            secret: Serials follow from it and the plate's track; without it nobody can link the two.
            classifier: Guesses the styles of plates that nothing else names.
        """
        self.generator = generator
        self.classifier = classifier
        self.styles, self.secret, self.blocked = styles, secret, config.plate_text_blocked
        self.sizes_hw = {Kind.FACE: face_targets.face_size_hw(config), Kind.PLATE: plate_targets.plate_size_hw(config)}
        shown = config.model.generator
        self.contexts = {Kind.FACE: shown.face_context, Kind.PLATE: shown.plate_context}
        self.font_ratios = (config.plate_text_font_ratio_min, config.plate_text_font_ratio_max)

    def window(self, region: Region) -> crops.Window:
        """The window of the image that a region's crop shows."""
        return crops.window_around(region.box_xyxy, self.sizes_hw[region.kind], self.contexts[region.kind])

    def style_of(self, region: Region, fallback: str | None, image_rgb: np.ndarray) -> str:
        """The style that a region's new plate gets: its own, its image's, a confident guess, or the neutral one."""
        for key in (region.style, fallback):
            if key is not None and key in self.styles:
                return key
        if self.classifier is None:
            return NEUTRAL
        height, width = image_rgb.shape[:2]
        x_min, y_min, x_max, y_max = boxes.round_outward([region.box_xyxy], width, height)[0]
        return self.classifier.choose([image_rgb[y_min:y_max, x_min:x_max]], self.styles)[0].style

    def serial(self, style: str, track: str, avoid: Sequence[str]) -> str:
        """The new serial of a plate: the same for the same track."""
        return serials.keyed_serial(self.styles[style], self.secret, track, avoid=avoid, blocked=self.blocked)

    def fill(self, tasks: Sequence[Task]) -> list[np.ndarray]:
        """Generate the crops of regions of one kind, in one batch.

        Returns:
            One ``(h, w, 3)`` uint8 crop a task, which shows its `window`.
        """
        kind = tasks[0].region.kind
        size_hw = self.sizes_hw[kind]
        windows = [self.window(task.region) for task in tasks]
        originals = [crops.cut(task.image_rgb, w, size_hw) for task, w in zip(tasks, windows, strict=True)]
        holes = [_mask(task.neighbors, w, size_hw, kind) for task, w in zip(tasks, windows, strict=True)]
        anchors, device = None, self.generator.device
        if kind is Kind.PLATE:
            drawn = [self._anchor(task, w) for task, w in zip(tasks, windows, strict=True)]
            anchors = images.to_tensor(drawn, device=device)
        shape = self.generator.noise_shape(1, size_hw)
        # Each region has noise of its own: what is in a batch beside it changes nothing.
        noise = torch.cat([torch.randn(shape, generator=torch_generator(task.seed)) for task in tasks])
        with torch.inference_mode():
            filled = self.generator.fill(
                images.to_tensor(originals, device=device),
                torch.from_numpy(np.stack(holes))[:, None].to(device),
                kind,
                noise=noise,
                anchors=anchors,
                styles=[task.style for task in tasks],
                small=[self.generator.is_small(window, size_hw) for window in windows],
            )
        made = images.to_images(filled)
        return [_without_color(crop) if task.gray else crop for crop, task in zip(made, tasks, strict=True)]

    def _anchor(self, task: Task, window: crops.Window) -> np.ndarray:
        """The crop with the rendered plate fitted into the scene, made as in training."""
        rng = seeding.numpy_generator(task.seed, "plate looks")
        drawn = plate_targets.Drawn(
            self.styles[task.style or NEUTRAL],
            task.serial or "",
            float(rng.uniform(*self.font_ratios)),
            int(rng.integers(2**31)),
        )
        part, region, (left, top) = part_around(task.image_rgb, task.region, window)
        replaced, _ = plate_targets.replace(part, region, drawn)
        moved = (window[0] - left, window[1] - top, window[2] - left, window[3] - top)
        return crops.cut(replaced, moved, self.sizes_hw[Kind.PLATE])


def is_gray(image_rgb: np.ndarray) -> bool:
    """Whether an image ``(H, W, 3)`` has no color, as that of an infrared camera.

    A generator that has seen people in color alone would paint their skin into it.
    """
    red, green, blue = cv2.split(image_rgb)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return float(np.mean(spread > GRAY_LEVELS)) < COLORED_SHARE


def _without_color(image_rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def part_around(
    image_rgb: np.ndarray, region: Region, window: crops.Window
) -> tuple[np.ndarray, Region, tuple[int, int]]:
    """Cut a window's whole pixels out, so that work on one plate doesn't touch a whole photograph.

    Returns:
        The part (a view), the region in its pixels, and the part's left and top in the image.
    """
    height, width = image_rgb.shape[:2]
    x_min, y_min, x_max, y_max = boxes.round_outward([window], width, height)[0]
    part = image_rgb[y_min:y_max, x_min:x_max]
    return part, region.moved(lambda points: points - (x_min, y_min)), (int(x_min), int(y_min))


def _mask(neighbors: np.ndarray, window: crops.Window, size_hw: tuple[int, int], kind: Kind) -> np.ndarray:
    seen = neighbors[boxes.intersection([window], neighbors)[0] > 0]
    return masks.crop_mask([Region(kind, tuple(box)) for box in seen.tolist()], window, size_hw, growth=1.0)


def paste(image_rgb: np.ndarray, crop: np.ndarray, window: crops.Window, mask_xyxy: Sequence[int]) -> None:
    """Put a generated crop into an image in place, on the mask's whole pixels and nowhere else.

    It computes what `ops.crops.paste` does, in time of the mask's size instead of the image's.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, changed.
        crop: ``(h, w, 3)`` uint8 that shows ``window``.
        window: In pixels of the image.
        mask_xyxy: Whole pixels.
    """
    x_min, y_min, x_max, y_max = (int(value) for value in mask_xyxy)
    image_rgb[y_min:y_max, x_min:x_max] = crops.on_image(crop, window, (x_min, y_min, x_max, y_max))


def continue_surroundings(
    image_rgb: np.ndarray, mask_xyxy: Sequence[int], holes: np.ndarray, seed: int, *, gray: bool = False
) -> bool:
    """Fill the mask's whole pixels from what surrounds them, in place: inpainted from the rim, with the same grain.

    For regions of a few pixels, of which a generator knows nothing: a gray box there would be the image's most visible
    spot. What is under any mask has no influence.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, changed.
        mask_xyxy: Whole pixels.
        holes: ``(N, 4)`` whole pixels of all masks in the image, this one's too.
        seed: Of the grain.
        gray: Whether the grain has no color.

    Returns:
        False if less than a quarter of the neighborhood is free to look at; then nothing was changed.
    """
    part, free, inside = _neighborhood(image_rgb, mask_xyxy, holes)
    if not part.size or free.mean() < LEAST_FREE:
        return False
    smooth = redactions.inpaint(part, (~free).astype(np.float32))
    noise = _normal(seed, part.shape, gray=gray) * grain(part, free)
    filled = np.clip(np.rint(smooth + noise), 0, 255).astype(np.uint8)
    part[inside] = filled[inside]
    return True


def match_grain(
    image_rgb: np.ndarray, mask_xyxy: Sequence[int], holes: np.ndarray, seed: int, *, gray: bool = False
) -> None:
    """Add to the mask's whole pixels, in place, the noise that their surroundings have more of than they.

    A crop that was generated and shrunk has lost its noise, and what has no grain is seen to be pasted in. Nothing is
    added where less than a quarter of the neighborhood is free to look at. What is under other masks has no influence.

    Args:
        image_rgb: ``(H, W, 3)`` uint8 with the crop in it, changed.
        mask_xyxy: Whole pixels.
        holes: ``(N, 4)`` whole pixels of all masks in the image, this one's too.
        seed: Of the noise.
        gray: Whether the noise has no color.
    """
    part, free, inside = _neighborhood(image_rgb, mask_xyxy, holes)
    pasted = np.zeros_like(free)
    pasted[inside] = True
    if not pasted.any() or free.mean() < LEAST_FREE:
        return
    missing = np.sqrt(np.maximum(0, grain(part, free) ** 2 - grain(part, pasted) ** 2))
    noise = _normal(seed, part[inside].shape, gray=gray) * missing
    part[inside] = np.clip(np.rint(part[inside] + noise), 0, 255).astype(np.uint8)


def _normal(seed: int, shape: tuple[int, ...], *, gray: bool) -> np.ndarray:
    """Standard normal numbers ``(H, W, 3)``, or ``(H, W, 1)`` for all channels of a gray image."""
    return np.random.default_rng(seed).normal(size=(*shape[:2], 1) if gray else shape)


def _neighborhood(
    image_rgb: np.ndarray, mask_xyxy: Sequence[int], holes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
    """The image about a mask (a view), which of its pixels no mask hides, and where in it the mask is."""
    x_min, y_min, x_max, y_max = (int(value) for value in mask_xyxy)
    margin = max(8, x_max - x_min, y_max - y_min)
    left, top = max(0, x_min - margin), max(0, y_min - margin)
    part = image_rgb[top : y_max + margin, left : x_max + margin]
    free = np.ones(part.shape[:2], bool)
    for a, b, c, d in holes.astype(int).tolist():
        free[max(0, b - top) : max(0, d - top), max(0, a - left) : max(0, c - left)] = False
    return part, free, (slice(y_min - top, y_max - top), slice(x_min - left, x_max - left))


def grain(image_rgb: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Estimate the noise of some pixels: the size of what a slight blur takes away, by a median that edges hardly move.

    Args:
        image_rgb: ``(H, W, 3)``.
        counted: ``(H, W)`` bool, some of it true; other pixels have no influence.

    Returns:
        ``(3,)`` standard deviations of white noise, in the image's values.
    """
    pixels, weights = image_rgb.astype(np.float32), counted.astype(np.float32)
    nearby = cv2.GaussianBlur(weights, (0, 0), 1.0)[..., None]
    smooth = cv2.GaussianBlur(pixels * weights[..., None], (0, 0), 1.0) / np.maximum(nearby, 1e-6)
    return 1.4826 * np.median(np.abs(pixels - smooth)[counted], axis=0) * GRAIN_KEPT


def redact(image_rgb: np.ndarray, mask_xyxy: Sequence[int], how: str, color: tuple[int, int, int]) -> None:
    """Blur, pixelate or fill the mask's whole pixels in place.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, changed.
        mask_xyxy: Whole pixels.
        how: ``solid``, ``pixelate`` or ``blur``.
        color: RGB of ``solid``.
    """
    x_min, y_min, x_max, y_max = (int(value) for value in mask_xyxy)
    part = image_rgb[y_min:y_max, x_min:x_max]
    if how == "solid" or not part.size:
        part[:] = color
        return
    shorter = max(1, min(part.shape[:2]))
    if how == "blur":
        # Only pixels of the mask itself are mixed, so the rim is darker in nothing and tells nothing of its
        # surroundings.
        part[:] = cv2.GaussianBlur(part, (0, 0), max(2.0, 0.3 * shorter), borderType=cv2.BORDER_REFLECT_101)
        return
    edge = max(4.0, shorter / 4)
    small = (max(1, round(part.shape[1] / edge)), max(1, round(part.shape[0] / edge)))
    mosaic = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(mosaic, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_NEAREST)

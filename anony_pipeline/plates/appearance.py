"""How a plate looks in a photograph: levels, cast, light, sharpness, noise; measured on the old, put on the new one."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)
DARK, LIGHT = 10, 90
"""Percentiles that stand for a plate's dark and light level, whichever of them is its ground."""
SIGMAS = (0.0, 0.35, 0.5, 0.7, 0.9, 1.2, 1.6, 2.1, 2.8, 3.7)
MAX_CAST = 2.2
"""How much a light can strengthen a channel against the others; more is another paint, not another light."""
PAINTS = np.array(((242, 243, 240), (240, 184, 30)), dtype=np.float32)
"""White and yellow: what the ground of an old plate may be where it is not that of the new one."""
MAX_GAIN = 1.6
"""Of the contrast: where blur leaves little of a new plate, that is not torn up to the old one's, unless by light."""
MAX_TILT = 0.5
MIN_PIXELS = 12
MAX_BLUR = 0.1
"""Of a plate's height: a measured blur above it (low contrast, glare) would wipe out the new serial."""
MAX_BLUR_PX = 0.9
"""But a camera's own blur is allowed: on a plate so small that it matters, no serial is to be read anyway."""
MOVED = 1.7
"""A blur so much stronger along one axis than along the other is a motion's; less is chance of the characters."""
MOVED_WITH_IT = 0.6
"""The sharpest edge about a plate that moved is blurred along the motion too, by this share of it at least."""
CLIPPED, CLIPPED_SHARE = 250.0, 0.3
"""A plate of which so large a share has this luma or more was brighter than the camera could tell; of a white plate in
good light a smaller share does."""
EXPOSURES = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)
"""By how much, over white."""
VEILED_PX = 0.5
"""Blur that noise and a coarse grid of pixels hide."""
EDGE, REACH, WIDEST = 24.0, 9, 3.0
"""What counts as an edge: gray levels between its sides, over so many px; a wider blur is not told from this one."""
GRAY = 3.0
"""Gray levels that the colors of a photograph taken in black and white differ from its luma at most."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """What the camera and the light made of a plate.

    Attributes:
        dark: Luma of the plate's dark level, in ``[0, 255]``.
        light: Luma of its light level, above 255 where that was overexposed.
        dim: ``(3,)`` RGB of its dark parts, in ``[0, 255]``.
        ground: ``(3,)`` RGB of its ground; its characters have no part in it.
        tilt: Change of the light from the plate's middle to its right and to its lower edge, over the middle's.
        blur_sigmas: Along x and along y, in px of the image; they differ where something moved.
        noise_sigma: In gray levels.
        gray: Whether the photograph has no color.
    """

    dark: float
    light: float
    dim: np.ndarray
    ground: np.ndarray
    tilt: tuple[float, float]
    blur_sigmas: tuple[float, float]
    noise_sigma: float
    gray: bool = False


@dataclass(frozen=True, slots=True)
class Levels:
    """Dark and light luma of a plate, and the colors ``(3,)`` of its dark parts and of its ground."""

    dark: float
    light: float
    dim: np.ndarray
    ground: np.ndarray


NEW_PLATE = Levels(20.0, 235.0, np.full(3, 20.0, np.float32), PAINTS[0])


def luma(image: np.ndarray) -> np.ndarray:
    """``(H, W)`` float32 luma (ITU-R BT.601) of ``(H, W, 3)`` RGB."""
    return image.astype(np.float32) @ LUMA


def levels(image: np.ndarray, inside: np.ndarray) -> Levels:
    """Measure levels over the pixels ``inside``, ``(H, W)`` bool.

    The ground is the larger of the two classes that Otsu's threshold (1979) makes of the luma. Its color is that of the
    half which lies farther from the other class: blur mixes the rest with the characters.
    """
    pixels = image[inside].astype(np.float32)
    values = pixels @ LUMA
    dark, light = (float(value) for value in np.percentile(values, (DARK, LIGHT)))
    whole = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    _, bright = cv2.threshold(whole[None], 0, 1, cv2.THRESH_OTSU)
    is_bright = bright.mean() >= 0.5
    is_ground = bright[0] == is_bright
    middle = np.median(values[is_ground])
    is_ground &= (values >= middle) if is_bright else (values <= middle)
    dim = pixels[values <= np.percentile(values, 15)].mean(axis=0)
    return Levels(dark, light, dim, np.median(pixels[is_ground], axis=0))


def sharpness(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The steepest slopes of a luma over its contrast, per px: what blur lowers whatever the contrast.

    Returns:
        ``(3,)``: of the slope in any direction, along x and along y.
    """
    slope_x = cv2.Sobel(values, cv2.CV_32F, 1, 0, ksize=3) / 8
    slope_y = cv2.Sobel(values, cv2.CV_32F, 0, 1, ksize=3) / 8
    along_x, along_y = slope_x[inside], slope_y[inside]
    slopes = np.abs(np.stack([np.hypot(along_x, along_y), along_x, along_y]))
    dark, light = np.percentile(values[inside], (DARK, LIGHT))
    steep: np.ndarray = np.percentile(slopes, 95, axis=1) / max(float(light - dark), 4.0)
    return steep


def blurs_that_match(
    drawn: np.ndarray, values: np.ndarray, inside: np.ndarray, around: np.ndarray
) -> tuple[float, float]:
    """The Gaussian sigmas in px along x and y after which a drawn plate is as sharp as the one in the photograph.

    Args:
        drawn: ``(H, W)`` float32 luma of the new plate at its place, without blur.
        values: ``(H, W)`` float32 luma of the photograph.
        inside: ``(H, W)`` bool, the plate's pixels.
        around: ``(H, W)`` bool, what the plate is fixed to, and moves with.
    """
    wanted = sharpness(values, inside)
    reached = np.array([sharpness(gaussian(drawn, (sigma, sigma)), inside) for sigma in SIGMAS])
    even, along_x, along_y = (_sigma(list(column), goal) for column, goal in zip(reached.T, wanted, strict=True))
    axis, stronger, weaker = (0, along_x, along_y) if along_x > along_y else (1, along_y, along_x)
    moved = stronger > MOVED * max(weaker, 0.7)
    if moved and sharpest_edge(values, around, axis) >= MOVED_WITH_IT * min(stronger, WIDEST):
        return along_x, along_y
    return even, even


def unclipped(
    drawn: np.ndarray, values: np.ndarray, inside: np.ndarray, *, seen: float, most: float
) -> tuple[float, float, float]:
    """Levels and blur of an overexposed plate, before the camera cut them off at 255.

    What is too bright eats into the characters. Each of `EXPOSURES` is tried with each blur: the drawn plate's
    distribution of luma comes nearest to the old one's where both are right. It alone would take thin or gray
    characters for blurred ones; but cutting off makes edges seem steeper at most as many times as the light is over.

    Args:
        drawn: As in `blurs_that_match`.
        values: Likewise.
        inside: Likewise.
        seen: The blur's sigma in px as `blurs_that_match` has it.
        most: The greatest blur.

    Returns:
        The luma of the dark and of the light level, above 255 where it was cut off, and the blur's sigma in px.
    """
    shares = np.linspace(1, 99, 50)
    wanted = np.percentile(values[inside], shares)
    tries = []
    for sigma in (sigma for sigma in SIGMAS if sigma <= most):
        blurred = gaussian(drawn, (sigma, sigma))[inside]
        dark, light = np.percentile(blurred, (DARK, LIGHT))
        reached = np.percentile(blurred, shares)
        for exposure in (times for times in EXPOSURES if sigma <= times * (seen + VEILED_PX)):
            gain = 255 * exposure / max(light, 1.0)
            # Haze lifts all of it: as much as the darkest parts show.
            haze = max(0.0, wanted[0] - gain * reached[0])
            off = np.abs(np.minimum(gain * reached + haze, 255) - wanted).mean()
            tries.append((float(off), float(gain * dark + haze), float(gain * light + haze), sigma))
    return min(tries)[1:]


def sharpest_edge(values: np.ndarray, where: np.ndarray, axis: int) -> float:
    """The Gaussian sigma in px of the sharpest edges of a luma, across x (0) or y (1); infinite if there are none.

    A step of contrast C that is blurred by sigma has the slope 0.4 C / sigma at its steepest.
    """
    slope = np.abs(cv2.Sobel(values, cv2.CV_32F, 1 - axis, axis, ksize=3)) / 8
    beside = np.ones((1, REACH) if axis == 0 else (REACH, 1), np.uint8)
    contrast = cv2.dilate(values, beside) - cv2.erode(values, beside)
    edges = where & (contrast > EDGE)
    if edges.sum() < MIN_PIXELS:
        return float("inf")
    return 0.4 / max(float(np.percentile(slope[edges] / contrast[edges], 95)), 1e-3)


def _sigma(reached: list[float], wanted: float) -> float:
    """Where the sharpness reached with each of `SIGMAS` falls to what is wanted."""
    if wanted >= reached[0]:
        return 0.0
    for i in range(1, len(SIGMAS)):
        if reached[i] <= wanted:
            share = (reached[i - 1] - wanted) / max(reached[i - 1] - reached[i], 1e-6)
            return SIGMAS[i - 1] + share * (SIGMAS[i] - SIGMAS[i - 1])
    return SIGMAS[-1]


def gaussian(image: np.ndarray, sigmas: tuple[float, float]) -> np.ndarray:
    """Gaussian blur with a sigma along x and one along y; none below 0.2 px."""
    if max(sigmas) < 0.2:
        return image
    return cv2.GaussianBlur(image, (0, 0), max(sigmas[0], 0.05), sigmaY=max(sigmas[1], 0.05))


def is_gray(image: np.ndarray) -> bool:
    """Whether a photograph ``(H, W, 3)`` uint8 was taken in black and white."""
    return bool(np.percentile(np.ptp(image.astype(np.int16), axis=2), 98) <= GRAY)


def noise(values: np.ndarray, where: np.ndarray) -> float:
    """Standard deviation of the noise in gray levels, measured where it is no structure.

    Immerkaer, Fast noise variance estimation (1996), with the median of the quieter half in place of the mean, so
    that edges don't count.
    """
    kernel = np.array(((1, -2, 1), (-2, 4, -2), (1, -2, 1)), dtype=np.float32)
    residual = np.abs(cv2.filter2D(values, cv2.CV_32F, kernel))[where]
    if residual.size < MIN_PIXELS:
        return 0.0
    # The 30th percentile of |x| is 0.385 sigma for Gaussian x; the kernel's gain is 6.
    return float(np.percentile(residual, 30) / 0.385 / 6)


def tilt(values: np.ndarray, inside: np.ndarray, position: np.ndarray) -> tuple[float, float]:
    """Fit a plane to the luma of the plate's ground.

    Args:
        values: ``(H, W)`` luma.
        inside: ``(H, W)`` bool.
        position: ``(H, W, 2)``, each pixel's place on the plate, -1 to 1 from left to right and from top to bottom.

    Returns:
        Change from the middle to the right and to the lower edge, over the middle's; bounded.
    """
    chosen = values[inside]
    where = position[inside]
    design = np.column_stack([np.ones(len(chosen)), where])
    # The ground is the larger part of a plate; characters are dropped as what lies far from the plane.
    keep = np.abs(chosen - np.median(chosen)) < max(6.0, 1.2 * float(np.std(chosen)))
    plane = np.array((float(np.median(chosen)), 0.0, 0.0))
    for _ in range(3):
        if keep.sum() < MIN_PIXELS:
            return 0.0, 0.0
        plane = np.linalg.lstsq(design[keep], chosen[keep], rcond=None)[0]
        rest = chosen - design @ plane
        keep = np.abs(rest) < max(4.0, 1.5 * float(np.median(np.abs(rest))))
    middle = max(float(plane[0]), 8.0)
    right, down = np.clip(plane[1:] / middle, -MAX_TILT, MAX_TILT)
    return float(right), float(down)


def estimate(
    image: np.ndarray,
    drawn: np.ndarray,
    *,
    inside: np.ndarray,
    around: np.ndarray,
    position: np.ndarray,
    height_px: float,
) -> Appearance:
    """Measure a plate in a photograph.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, the photograph about the plate.
        drawn: ``(H, W, 3)`` float32, the new plate at the same place, without blur: sharpness is told by comparison.
        inside: ``(H, W)`` bool, the plate's inner pixels.
        around: ``(H, W)`` bool, its surroundings, for the noise.
        position: See `tilt`.
        height_px: The plate's height.
    """
    values = luma(image)
    if inside.sum() < MIN_PIXELS:
        mean = float(values[inside].mean()) if inside.any() else float(values.mean())
        gray = np.full(3, mean, np.float32)
        return Appearance(0.5 * mean, mean, gray, gray, (0.0, 0.0), (0.5, 0.5), noise(values, around), is_gray(image))
    measured = levels(image, inside)
    most = max(MAX_BLUR * height_px, MAX_BLUR_PX)
    sigmas = blurs_that_match(luma(drawn), values, inside, around)
    blur_x, blur_y = (min(sigma, most) for sigma in sigmas)
    if (values[inside] >= CLIPPED).mean() >= CLIPPED_SHARE:
        dark, light, blur_x = unclipped(luma(drawn), values, inside, seen=max(sigmas), most=most)
        measured, blur_y = replace(measured, dark=dark, light=light), blur_x
    slant = tilt(values, inside, position)
    grain = noise(values, around)
    return Appearance(
        measured.dark,
        measured.light,
        measured.dim,
        measured.ground,
        slant,
        (blur_x, blur_y),
        grain,
        is_gray(image),
    )


def apply_light(drawn: np.ndarray, look: Appearance, inside: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Give a drawn and blurred plate the levels, cast and light of the photograph.

    The color of the new plate stays its own (a yellow plate stays yellow) but for the light's cast.

    Args:
        drawn: ``(H, W, 3)`` float32 in ``[0, 255]``.
        look: What was measured.
        inside: ``(H, W)`` bool, the plate's inner pixels.
        position: See `tilt`.

    Returns:
        ``(H, W, 3)`` float32.
    """
    if look.gray:
        drawn = np.repeat(luma(drawn)[..., None], 3, axis=2)
    own = levels(drawn, inside) if inside.sum() >= MIN_PIXELS else NEW_PLATE
    cast, light = light_on(look, own)
    gain = max(light - look.dark, 6.0) / max(own.light - own.dark, 6.0)
    if look.light < 255:
        gain = min(gain, MAX_GAIN)
    haze = _haze(look, own, gain, cast)
    plane = 1 + look.tilt[0] * position[..., :1] + look.tilt[1] * position[..., 1:]
    return (haze + (drawn - own.dark) * gain * cast) * np.clip(plane, 0.3, 1.8)


def light_on(look: Appearance, own: Levels) -> tuple[np.ndarray, float]:
    """The light on a plate, told by its ground alone.

    The old plate mostly is of the new one's style, and then the light's color is what the two grounds differ by. Where
    no light could make the one of the other, the old plate was of another style, white or yellow; and if it was
    neither, nothing is known of the light's color.

    Args:
        look: Of the old plate.
        own: Of the new one, in even white light.

    Returns:
        ``(3,)`` factors of the channels, whose luma is 1, and the luma that the new plate's light parts have in it.
    """
    gain = (look.light - look.dark) / max(own.light - own.dark, 6.0)
    same_style = _haze(look, own, gain, np.ones(3, np.float32)) + (own.ground - own.dark) * gain
    for paint, light in (
        (same_style, look.light),
        *((paint, look.light * own.light / (paint @ LUMA)) for paint in PAINTS),
    ):
        cast = _relative(look.ground) / _relative(paint)
        if max(cast.max(), 1 / cast.min()) <= MAX_CAST:
            return cast / float(cast @ LUMA), float(light)
    return np.ones(3, np.float32), look.light


def _haze(look: Appearance, own: Levels, gain: float, cast: np.ndarray) -> np.ndarray:
    """The color of the dark parts, ``(3,)``, which haze and blur lighten.

    As far as the new plate's are as light, it lies between white and the light's; beyond that it may be the ground's,
    which blur mixes in. What goes farther is the old characters' own color.
    """
    dim, white, ground = _relative(look.dim), np.ones(3, np.float32), cast * _relative(own.ground)
    as_light = min(look.dark, own.dark * gain)
    haze = np.clip(dim, np.minimum(white, cast), np.maximum(white, cast))
    mixed = np.clip(dim, np.minimum(haze, ground), np.maximum(haze, ground))
    return as_light * haze + (look.dark - as_light) * mixed


def _relative(color: np.ndarray) -> np.ndarray:
    # Near black the ratio of channels is noise: a pedestal draws it to gray.
    return (np.maximum(color, 0) + 4) / (max(float(color @ LUMA), 0) + 4)

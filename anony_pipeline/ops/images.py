"""Images as ``(H, W, 3)`` uint8 RGB arrays: read, write, resize, and to and from tensors."""

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from upath import UPath

from anony_pipeline.errors import MediaError
from anony_pipeline.ops import jpegs, xmp
from anony_pipeline.storage import atomic

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read(path: Path | UPath) -> np.ndarray:
    """Read an image as ``(H, W, 3)`` uint8 RGB, turned upright by its EXIF orientation.

    What is transparent lies on white, for its hidden color may be what somebody erased; 16 bits become 8.

    Args:
        path: JPEG, PNG, WebP, BMP or TIFF.

    Raises:
        MediaError: If the file is missing, empty, truncated, no image, or several. A truncated JPEG is not filled with
            gray.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(
            "the image can't be read", where=path, got=type(error).__name__, do="check the path"
        ) from error
    return decode(data, where=path)


def decode(data: bytes, where: object = "bytes") -> np.ndarray:
    """Decode an image file's bytes to ``(H, W, 3)`` uint8 RGB (see `read`)."""
    if not data:
        raise MediaError("the image file is empty", where=where, got="0 bytes", do="copy the file again")
    if data[:2] == jpegs.BEGIN and not jpegs.is_whole(data):
        raise MediaError(
            "the JPEG file is truncated",
            where=where,
            got=f"{len(data)} bytes without an end marker",
            do="copy the file again",
        )
    if data[:2] != jpegs.BEGIN and (seen := _on_white(data, where)) is not None:
        return seen
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise MediaError(
            "the file is no image that can be decoded",
            where=where,
            allowed=" ".join(SUFFIXES),
            do="convert or remove it",
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _on_white(data: bytes, where: object) -> np.ndarray | None:
    """A picture that has transparent places; None if it has none, or is left to the decoder to refuse."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if (count := getattr(image, "n_frames", 1)) > 1:
                raise MediaError(
                    "the file holds several pictures, and only one could be kept",
                    where=where,
                    got=f"{count} pages or frames",
                    allowed="1",
                    do="split it into files of one picture each",
                )
            if not image.has_transparency_data:
                return None
            # A TIFF is turned by whoever opens it.
            upright = (image if image.format == "TIFF" else ImageOps.exif_transpose(image)).convert("RGBA")
            if upright.getchannel("A").getextrema()[0] == 255:
                return None
            white = Image.new("RGBA", upright.size, "white")
            return np.array(Image.alpha_composite(white, upright).convert("RGB"))
    except (Image.DecompressionBombError, SyntaxError, ValueError, EOFError, OSError, struct.error):
        return None
    except (TypeError, LookupError):  # of a TIFF whose further directory lacks a tag
        return None


def write(
    path: Path | UPath,
    image_rgb: np.ndarray,
    *,
    quality: int = 95,
    mode: int | None = None,
    packet: bytes | None = None,
) -> None:
    """Write an ``(H, W, 3)`` uint8 RGB image under its name when it is complete; no other metadata is written.

    Args:
        path: The suffix chooses the format; ``.png`` is lossless.
        image_rgb: The image.
        quality: JPEG and WebP quality in ``[1, 100]``.
        mode: Permission bits, ``0o600`` for private images.
        packet: XMP; it is left out where the format has no place for it (see `xmp.SUFFIXES`).

    Raises:
        MediaError: If the format is unknown or has no place for so many pixels, or the disk refuses the file.
    """
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MediaError("unknown image format", where=path, got=suffix or "no suffix", allowed=" ".join(SUFFIXES))
    try:
        done, encoded = cv2.imencode(suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), options.get(suffix, []))
    except cv2.error:
        done = False
    if not done:
        raise MediaError(
            "the image can't be encoded in the format that its name says",
            where=path,
            got=f"{image_rgb.shape[1]} x {image_rgb.shape[0]} px as {suffix}",
            allowed="sides of up to 65,500 px in JPEG, 16,383 px in WebP",
            do="make it smaller, or name it .png",
        )
    data = encoded.tobytes()
    try:
        atomic.write_bytes(path, xmp.insert(data, packet) if packet and suffix in xmp.SUFFIXES else data, mode)
    except OSError as error:
        raise MediaError(
            "the image can't be written", where=path, got=error.strerror, do="check free space and permissions"
        ) from error


def resize(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize ``(H, W)`` or ``(H, W, C)``, by area when it shrinks (no aliasing) and bicubic when it grows."""
    height, width = size_hw
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def sheet(images_rgb: Sequence[np.ndarray], cell_hw: tuple[int, int], columns: int) -> np.ndarray:
    """A contact sheet: images resized to one cell size, row by row, on white.

    Args:
        images_rgb: ``(H, W, 3)`` uint8 each; at least one.
        cell_hw: Height and width of a cell in pixels.
        columns: Cells in a row.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    height, width = cell_hw
    rows = math.ceil(len(images_rgb) / columns)
    page = np.full((rows * (height + 2), min(columns, len(images_rgb)) * (width + 2), 3), 255, np.uint8)
    for i, image in enumerate(images_rgb):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        page[top : top + height, left : left + width] = resize(image, cell_hw)
    return page


def to_tensor(
    images_rgb: Sequence[np.ndarray] | np.ndarray,
    value_range: Literal["-1..1", "0..1"] = "-1..1",
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Stack uint8 ``(H, W, 3)`` images to an ``(N, 3, H, W)`` float32 tensor in ``[-1, 1]`` or ``[0, 1]``.

    They go to the device as bytes, a quarter of what floats are, and become floats there.

    >>> to_tensor([np.full((2, 2, 3), 255, np.uint8)]).max().item()
    1.0
    """
    pixels = torch.from_numpy(np.ascontiguousarray(np.stack(list(images_rgb)))).to(device)
    batch = pixels.permute(0, 3, 1, 2).float().div_(255)
    return batch.mul_(2).sub_(1) if value_range == "-1..1" else batch


def to_images(tensor: torch.Tensor, value_range: Literal["-1..1", "0..1"] = "-1..1") -> list[np.ndarray]:
    """Undo `to_tensor`: round an ``(N, 3, H, W)`` tensor to uint8 ``(H, W, 3)`` images; values outside are clipped."""
    batch = tensor.detach().float().cpu()
    batch = (batch + 1) / 2 if value_range == "-1..1" else batch
    return list((batch.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())

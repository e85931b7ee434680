"""The size of an image, and whether its file is whole, without decoding a pixel.

A header costs a small part of a decoding (`benchmarks/read_images.py`), so that every file of a data set can be
looked at each time. What is found: a file that is missing, empty, no image, several, of 32 bits, or cut off before its
format's end (JPEG, PNG, WebP, BMP). What is not: damage in the middle of a file, which only decoding shows.
"""

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin
from upath import UPath

from anony_pipeline.errors import AnonyPipelineError, MediaError
from anony_pipeline.ops import jpegs
from anony_pipeline.storage import locations

# The orientations that swap width and height (Exif 2.32, tag 0x0112).
TURNED = frozenset({5, 6, 7, 8})
TAIL_BYTES = 4096
MOST_BITS = 16
UNREADABLE = (
    Image.DecompressionBombError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OSError,
    struct.error,
)
"""What Pillow raises of damaged files; TypeError and KeyError of a TIFF whose further directory lacks a tag."""
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}


def upright_size(path: Path | UPath, cache: Path | None = None) -> tuple[int, int]:
    """Read an image's ``(width, height)`` in pixels, as it stands upright by its EXIF orientation.

    Args:
        path: A local file, or one of any fsspec file system.
        cache: The folder where a copy of a file that is not local is kept; None reads it without keeping it.

    Raises:
        MediaError: If the file is missing, empty, truncated, no image, or several, or of more bits than decoding takes.
    """
    try:
        if locations.is_local(path) or cache is not None:
            with locations.local_copy(path, cache or Path()).open("rb") as file:
                return _upright_size(file, path)
        return _upright_size(io.BytesIO(path.read_bytes()), path)
    except AnonyPipelineError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(
            "the image is not there", where=path, do="copy it, or remove it from the annotation"
        ) from error
    except FileNotFoundError as error:
        raise MediaError(
            "the image is not there", where=path, do="copy it, or remove it from the annotation"
        ) from error
    except OSError as error:
        raise MediaError("the image can't be read", where=path, got=error.strerror or str(error)) from error


def _upright_size(file: BinaryIO, where: object) -> tuple[int, int]:
    length = file.seek(0, os.SEEK_END)
    if length == 0:
        raise MediaError("the image file is empty", where=where, got="0 bytes", do="copy the file again")
    file.seek(max(0, length - TAIL_BYTES))
    tail = file.read()
    file.seek(0)
    try:
        with Image.open(file) as image:
            (width, height), name = _stored_size(image), image.format or ""
            turned, bits = _orientation(image) in TURNED, _bits_a_value(image)
            # Telephones keep further views in a JPEG behind the first, which is what every decoder shows.
            pictures = 1 if name in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
            is_whole = _is_whole(name, file, tail, length)
    except UNREADABLE as error:
        raise MediaError(
            "the file is no image that can be read", where=where, got=type(error).__name__, do="convert or remove it"
        ) from error
    if not is_whole:
        raise MediaError(
            "the image file is truncated",
            where=where,
            got=f"{length} bytes without the end of a {name}",
            do="copy it again",
        )
    if bits > MOST_BITS:
        raise MediaError(
            "the image has more bits a value than decoding takes",
            where=where,
            got=f"{bits} bits",
            allowed=f"{MOST_BITS} at most",
            do="convert it to 8 or 16 bits",
        )
    if pictures > 1:
        raise MediaError(
            "the file holds several pictures",
            where=where,
            got=f"{pictures} pages or frames",
            allowed="1",
            do="split it into files of one picture each",
        )
    return (height, width) if turned else (width, height)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """As the pixels lie in the file, not yet turned."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # `size` is turned upright by newer versions of Pillow, for this format alone.
        return int(image.tag_v2[ExifTags.Base.ImageWidth]), int(image.tag_v2[ExifTags.Base.ImageLength])
    return image.size


def _bits_a_value(image: Image.Image) -> int:
    """Only TIFFs have more than 16."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return MOST_BITS
    return max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))


def _orientation(image: Image.Image) -> int | None:
    try:
        # PngImageFile.getexif would decode the whole image; the base class reads what stands before the pixels.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, LookupError, EOFError, OSError, struct.error):
        return None  # damaged metadata: decoders leave such an image as it stands


def _is_whole(name: str, file: BinaryIO, tail: bytes, length: int) -> bool:
    file.seek(0)
    if name in END_MARKERS and END_MARKERS[name] in tail:
        return True
    # Telephones put a short video behind the picture, which is longer than the tail.
    if name in ("JPEG", "MPO"):
        return jpegs.is_whole(file.read())
    if name in END_MARKERS:
        return END_MARKERS[name] in file.read()
    head = file.read(8)
    if name == "WEBP":  # RIFF: the bytes that follow the first eight
        return int.from_bytes(head[4:8], "little") + 8 <= length
    if name == "BMP":
        return int.from_bytes(head[2:6], "little") <= length
    return True

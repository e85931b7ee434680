"""Put an XMP packet into the bytes of an image file, where the format's own standard has its place. Pixels stay."""

import struct
import zlib

from anony_pipeline.errors import MediaError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Formats that can carry a packet here; BMP has no place for one, and TIFF's is not written."""

JPEG_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
PNG_HEAD = b"XML:com.adobe.xmp\0\0\0\0\0"
"""The keyword, then: not compressed, and neither language nor translation."""
MAX_BYTES = 60_000
WEBP_XMP = 0x04


def insert(data: bytes, packet: bytes) -> bytes:
    """An image file with a packet in it.

    Args:
        data: A JPEG, PNG or WebP file without XMP.
        packet: XMP, at most `MAX_BYTES`: one segment of a JPEG holds no more.

    Raises:
        MediaError: If the format has no place for it.
        ValueError: If the packet is too long.
    """
    if len(packet) > MAX_BYTES:
        raise ValueError(f"a packet of {len(packet)} bytes does not fit")
    if data[:2] == b"\xff\xd8":
        return _into_jpeg(data, JPEG_HEAD + packet)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _into_png(data, PNG_HEAD + packet)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _into_webp(data, packet)
    raise MediaError("no place for XMP in this format", got=data[:12], allowed=" ".join(SUFFIXES))


def _into_jpeg(data: bytes, content: bytes) -> bytes:
    """As segment APP1 behind JFIF's APP0, which must come first."""
    start = 2
    if data[2:4] == b"\xff\xe0":
        start += 2 + int.from_bytes(data[4:6], "big")
    return data[:start] + b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content + data[start:]


def _into_png(data: bytes, content: bytes) -> bytes:
    """As chunk iTXt behind IHDR, whose length is always 13."""
    start = 8 + 12 + 13
    chunk = b"iTXt" + content
    return data[:start] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[start:]


def _into_webp(data: bytes, packet: bytes) -> bytes:
    """As last chunk, announced in VP8X, which a simple file gets now."""
    chunks = data[12:]
    if chunks[:4] == b"VP8X":
        chunks = chunks[:8] + bytes([chunks[8] | WEBP_XMP]) + chunks[9:]
    else:
        width, height = _webp_size(chunks)
        size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        chunks = b"VP8X" + struct.pack("<I", 10) + bytes([WEBP_XMP, 0, 0, 0]) + size + chunks
    chunks += b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _webp_size(chunks: bytes) -> tuple[int, int]:
    if chunks[:4] == b"VP8L":
        bits = int.from_bytes(chunks[9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", chunks[14:18])
    return width & 0x3FFF, height & 0x3FFF

"""A packet is where other programs look for it, and no pixel changes."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from anony_pipeline.errors import MediaError
from anony_pipeline.ops import xmp

PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">what it is</x:xmpmeta>!'
FORMATS = {"jpg": [], "png": [], "webp": [cv2.IMWRITE_WEBP_QUALITY, 90], "webp, lossless": []}


def encoded(name, size_hw=(23, 41)):
    picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    return cv2.imencode(f".{name.split(',')[0]}", picture, FORMATS[name])[1].tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packet", [PACKET, PACKET + b" "], ids=["even", "odd"])
def test_pillow_finds_the_packet_and_the_pixels_stay(name, packet):
    before, after = encoded(name), xmp.insert(encoded(name), packet)
    opened = Image.open(io.BytesIO(after))
    found = opened.info.get("xmp") or opened.info["XML:com.adobe.xmp"].encode()
    assert found == packet
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(Image.open(io.BytesIO(before))))
    opencv = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (before, after)]
    np.testing.assert_array_equal(*opencv)


def test_an_extended_webp_keeps_what_it_announces():
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 6), (1, 2, 3, 128)).save(buffer, "WEBP", lossless=True, exact=True, icc_profile=b"profile")
    opened = Image.open(io.BytesIO(xmp.insert(buffer.getvalue(), PACKET)))
    assert (opened.mode, opened.info["icc_profile"], opened.info["xmp"]) == ("RGBA", b"profile", PACKET)


def test_other_formats_and_long_packets_are_refused():
    with pytest.raises(MediaError, match="no place for XMP"):
        xmp.insert(b"BM" + bytes(60), PACKET)
    with pytest.raises(ValueError, match="does not fit"):
        xmp.insert(encoded("jpg"), bytes(70_000))

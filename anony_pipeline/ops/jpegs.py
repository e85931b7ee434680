"""Whether the bytes of a JPEG are all there, without decoding a pixel."""

import re

BEGIN, END, SCAN, FILLING = b"\xff\xd8", 0xD9, 0xDA, 0xFF
ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9), FILLING})
"""Markers without a length."""
# Within a scan 0xFF is followed by 0, by the number of a restart, or by more of itself.
AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def is_whole(data: bytes) -> bool:
    """Whether a JPEG's end marker comes after its scans (ITU-T T.81, B.1): not a thumbnail's, and whatever follows it.

    Args:
        data: The whole file. Telephones put a short video behind the picture.
    """
    place = len(BEGIN)
    # Decoders skip what lies between segments without being one.
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 1:
        marker = data[place + 1]
        if marker == END:
            return True
        if marker in ALONE:
            place += 1 if marker == FILLING else 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == SCAN:
            found = AFTER_SCAN.search(data, place)
            place = found.start() if found else len(data)
    return False

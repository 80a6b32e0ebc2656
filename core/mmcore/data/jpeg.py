"""JPEG files whose header claims more than their data has: the decoder fills what is missing and says nothing.

Only a picture whose lower right corner is of one colour is looked at. With restart markers the groups of blocks are
counted. Without, a filled end shows in one way only: with more data before the end of the first scan such a picture
goes on, and a whole one does not; that takes a second decoding.
"""

import io
import re
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

_CORNER_PX = (4, 32)
"""Rows and columns of one colour in the lower right corner that are worth a second look; the rows above them may be
mixed with what is not filled, where colours are stored coarser."""
_BLOCK_PX = 16
"""Side of the largest group of blocks that is usual."""
_JUNK = bytes(range(0x20, 0xA0)) * 512
"""Entropy-coded data that means something, whatever the tables."""
_SCAN_ENDS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTARTS = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive, all that Pillow's decoder knows of Huffman coding."""


class _FirstScan(NamedTuple):
    """What the headers say until the picture's data begins."""

    begin: int
    """Of its data, in bytes."""
    end: int
    groups: int
    """Of blocks that it must have (minimum coded units)."""
    interval: int
    """Groups between restart markers; 0 without."""


def lacks_data(image: Image.Image, content: bytes) -> bool:
    """Whether a decoded JPEG with a plain corner is filled at its end.

    Args:
        image: decoded by Pillow.
        content: of its file.
    """
    scan = _first_scan(content)
    if scan is None:
        return False
    if scan.interval:
        there = len(_RESTARTS.findall(content, scan.begin, scan.end)) + 1
        if there < _parts(scan.groups, scan.interval):
            return True
    return _goes_on(image, content, scan.end)


def plain_corner(image: Image.Image) -> bool:
    """Whether the lower right corner is of one colour, as where data is missing."""
    rows, columns = (min(most, side) for most, side in zip(_CORNER_PX, (image.height, image.width), strict=True))
    corner = image.crop((image.width - columns, image.height - rows, image.width, image.height))
    return len(corner.getcolors(rows * columns) or ()) == 1


def _goes_on(image: Image.Image, content: bytes, end: int) -> bool:
    """Whether more data in the first scan changes the picture near where its plain corner begins."""
    strip = np.asarray(image)[:, -_CORNER_PX[1] :]
    plain = (strip == strip[-1, -1]).reshape(image.height, -1).all(axis=1)
    first, last = 0, image.height
    if not plain.all():
        begins = image.height - int(np.argmin(plain[::-1]))
        first, last = max(0, begins - 2 * _BLOCK_PX), min(image.height, begins + 2 * _BLOCK_PX)
    edge = (0, first, image.width, last)
    with Image.open(io.BytesIO(content[:end] + _JUNK + content[end:]), formats=("JPEG",)) as again:
        return again.convert(image.mode).crop(edge).tobytes() != image.crop(edge).tobytes()


def _first_scan(content: bytes) -> _FirstScan | None:
    """Where the first scan lies and what it must hold; None where the headers are not those of such a file."""
    at, interval, frame = 2, 0, None
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        body = content[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            frame = body
        elif marker == 0xDD:
            interval = int.from_bytes(body[:2])
        elif marker == 0xDA:
            begin = at + 2 + length
            found = _SCAN_ENDS.search(content, begin)
            groups = _groups(frame, body) if frame else None
            return _FirstScan(begin, found.start(), groups, interval) if found and groups else None
        at += 2 + length
    return None


def _groups(frame: bytes, scan: bytes) -> int | None:
    """Groups of blocks of a scan: over the whole picture where it has several components, else over its one plane."""
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5] or not scan:
        return None
    _, height, width, count = struct.unpack(">BHHB", frame[:6])
    factors = {frame[6 + 3 * i]: (frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(count)}
    across, down = (max(factor[axis] for factor in factors.values()) for axis in (0, 1))
    if not across or not down:
        return None
    if scan[0] > 1:
        return _parts(width, 8 * across) * _parts(height, 8 * down)
    own = factors.get(scan[1]) if len(scan) > 1 else None
    if own is None:
        return None
    return _parts(_parts(width * own[0], across), 8) * _parts(_parts(height * own[1], down), 8)


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)

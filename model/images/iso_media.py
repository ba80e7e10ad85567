"""HEIF and AVIF, boxes within boxes (ISO base media): which of them a file is, and the size that it announces."""

from __future__ import annotations

import re
import struct
from typing import Literal

IsoFormat = Literal["HEIF", "AVIF"]

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MOST_BRANDS = 64
MOST_HEADER = 1 << 18
"""Bytes at the beginning of a file in which its header is looked for; phones need a few thousand."""

_SIZE_PROPERTY = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)


def iso_format(data: bytes) -> IsoFormat | None:
    """Which of the two a file is by its brands; None for everything else."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MOST_BRANDS, len(data))
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def announced_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the largest image that the header of a HEIF or AVIF names; None where it names none.

    The image that is shown has no more pixels than that, unless its file contradicts itself.
    """
    found = [struct.unpack(">II", size) for size in _SIZE_PROPERTY.findall(data[:MOST_HEADER])]
    return max(found, key=lambda size: int(size[0]) * int(size[1]), default=None)

"""Files without the parts that carry no pixels: what is damaged there must not cost the picture.

Kept beside the pixels is what turns an image upright, where it is whole itself.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Literal

from model.images.iso_media import MOST_HEADER, iso_format

_PNG, _RIFF, _WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_METADATA = frozenset(
    b"acTL bKGD caBX cHRM cICP cLLI dSIG eXIf fcTL fdAT gAMA hIST iCCP iTXt mDCV oFFs pCAL pHYs sBIT sCAL sPLT sRGB "
    b"sTER tEXt tIME zTXt".split()
)
_XMP = b"XML:com.adobe.xmp\0\0"
_MOST_XMP = 65_536  # bytes
_WEBP_METADATA = frozenset({b"ICCP", b"EXIF", b"XMP "})
_WEBP_FLAGS = 0b0010_1100  # of these three
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_BYTE_ORDERS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
# Words, dates, XMP, IPTC, Photoshop's blocks, EXIF, ICC profile, GPS.
_TIFF_METADATA = frozenset(
    {*range(269, 273), 285, 305, 306, 315, 316, 333, 337, 700, 32781, 32997, 33432, 33723, 34377, 34665, 34675, 34853}
    | {*range(36864, 43000)}
)
# What an item of a HEIF or AVIF is: in its entry the version, flags, number and protection stand before.
_ISO_METADATA = re.compile(rb"(infe[\2\3]...(?:..|....)\0\0)(?:Exif|mime|uri )", re.DOTALL)
_JPEG_START = b"\xff\xd8"
_JPEG_METADATA = frozenset({*range(0xE1, 0xF0), 0xFE} - {0xEE})  # APP0 and APP14 say how colours are meant


def without_metadata(data: bytes) -> bytes | None:
    """A file with its pixels only; None for formats without metadata here, and where nothing would be left out."""
    if data.startswith(_PNG):
        bare = b"".join([_PNG, *_png_chunks(data)])
    elif data.startswith(_RIFF) and data[8:12] == _WEBP:
        bare = _webp(data) or data
    elif data.startswith(_JPEG_START):
        bare = b"".join([_JPEG_START, *_jpeg_segments(data)])
    elif data[:4] in _TIFF_ORDERS:
        bare = _tiff(data, _TIFF_ORDERS[data[:4]])
    elif iso_format(data) is not None:
        bare = _ISO_METADATA.sub(rb"\1skip", data[:MOST_HEADER]) + data[MOST_HEADER:]  # a type that nobody reads
    else:
        return None
    return bare if bare != data else None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        whole = struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]
        # What has another name and a wrong sum may be a chunk of pixels whose name is damaged.
        unknown = kind not in _PNG_METADATA and not (whole and kind[:1].islower())
        turns = whole and (kind == b"eXIf" or (chunk[8:].startswith(_XMP) and len(chunk) <= _MOST_XMP))
        if kind in _PNG_PIXELS or unknown or turns:
            yield chunk
        place += 12 + length


def _webp(data: bytes) -> bytes | None:
    """None where the pixels themselves are cut short."""
    kept, place = [], 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        chunk = data[place : place + 8 + length + length % 2]
        if kind == b"VP8X" and len(chunk) > 8:
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_FLAGS]) + chunk[9:]
        if kind not in _WEBP_METADATA:
            if len(chunk) < 8 + length:
                return None
            kept.append(chunk)
        place += 8 + length + length % 2
    body = _WEBP + b"".join(kept)
    return _RIFF + struct.pack("<I", len(body)) + body


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    place = len(_JPEG_START)
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker not in _JPEG_METADATA:
            yield data[place : place + 2 + length]
        place += 2 + length
    yield data[place:]


def _tiff(data: bytes, order: str) -> bytes:
    """With a shorter first directory; nothing is moved, since offsets count from the beginning."""
    (start,) = struct.unpack_from(order + "I", data, 4) if len(data) >= 8 else (0,)
    if not 8 <= start <= len(data) - 2:
        return data
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = [data[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if int.from_bytes(entry[:2], _BYTE_ORDERS[order]) not in _TIFF_METADATA]
    if len(kept) == len(entries) or len(entries[-1]) < 12:
        return data
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]

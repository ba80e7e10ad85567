"""What decoding a file would cost, from a look at its header: before any pixel is touched.

The figures are peaks of Pillow and libjpeg-turbo as measured, in bytes of memory for each pixel.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from PIL import Image

from model.images.iso_media import IsoFormat, announced_size, iso_format
from model.images.raster import MOST_WHOLE_PIXELS

MOST_SCANS = 100
"""Most scans of a JPEG that is read. Each is a walk over the whole image; ordinary files have up to about a dozen."""

_MOST_QUICK_PIXELS = MOST_WHOLE_PIXELS  # of a JPEG; about a tenth of a second
_MOST_QUICK_SCANNED = 40_000_000  # pixels times scans
_MOST_QUICK_OTHER_PIXELS = 4_000_000
_MOST_QUICK_OTHER_BYTES = 1_000_000  # Pillow walks over chunks and tiles in Python
_MOST_QUICK_SEGMENTS = 1000
_MOST_QUICK_PYTHON_PIXELS = 100_000
_PYTHON_DECODERS = frozenset({"bmp_rle", "ppm", "ppm_plain"})  # a step of the interpreter for each pixel
_BASE = 32_000_000  # bytes, whatever the size: the bands that are converted at a time
_WHOLE = 7  # an array and an image of Pillow's beside what was decoded
_ROWS_PER_STRIP = 278
_OF_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 3, "I;16B": 3, "I;16L": 3, "I": 5, "F": 5}
_WEBP = 16  # two canvases, a copy, and the image, four bytes each
_ISO = {"AVIF": (9, 4 + _WHOLE), "HEIF": (4.4, _WHOLE)}  # while it is decoded, and while it is resized in one piece
_PNG, _PNG_SINGLE = b"\x89PNG\r\n\x1a\n", (0, 3)  # grey and palette have one number for each pixel
_MOST_HEAD = 4096
# Pillow reads the head of these a byte at a time, and blanks and comments may fill the file.
_NETPBM = re.compile(rb"P[0-6Ffy]")
_NETPBM_HEAD = re.compile(
    rb"P[14](?:\s{1,4}\d{1,10}){2}\s|P[2356](?:\s{1,4}\d{1,10}){3}\s|P[fF](?:\s{1,4}\d{1,10}){2}\s{1,4}[-+.\d]{1,20}\s"
)
_SOI, _SOS = b"\xff\xd8", b"\xff\xda"
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC = range(0xC9, 0xD0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one image takes.

    Attributes:
        pixels: width times height; 0 where only a look into the file would tell.
        memory: bytes at the peak; None where only a look into the file would tell.
        quick: it is decoded in a fraction of a second, in a library that lets other threads work meanwhile.
    """

    pixels: int = 0
    memory: int | None = None
    quick: bool = True


@dataclass(frozen=True, kw_only=True)
class JpegFrame:
    """What the header of a JPEG says.

    Attributes:
        scans: walks over the image that decoding takes, at least 1.
        coefficients: bytes for each pixel in which the decoder gathers several scans; 0 where it has one.
        arithmetic: coded arithmetically, which takes several times as long.
    """

    scans: int
    coefficients: float
    arithmetic: bool


def first_look(data: bytes) -> Cost:
    """Whether a file may be opened at all where others wait: by its first bytes and its length."""
    if (kind := iso_format(data)) is not None:
        size = announced_size(data)
        return Cost(quick=False) if size is None else iso_cost(kind, size[0] * size[1])
    if _NETPBM.match(data) and len(data) > _MOST_HEAD and not _NETPBM_HEAD.match(data):
        return Cost(quick=False)
    if not data.startswith(_SOI):
        if len(data) <= _MOST_QUICK_OTHER_BYTES:
            return Cost()
        return _large_png(data) if data.startswith(_PNG) else Cost(quick=False)
    place, segments = 2, 0
    while segments <= _MOST_QUICK_SEGMENTS and data[place : place + 2] != _SOS and place + 4 <= len(data):
        if data[place] != 0xFF:
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segments += 1
    return Cost(quick=segments <= _MOST_QUICK_SEGMENTS)


def iso_cost(kind: IsoFormat, pixels: int) -> Cost:
    """What a HEIF or an AVIF takes: always in a process, since what is coded may be larger than what is announced."""
    decoding, whole = _ISO[kind]
    each = max(decoding, whole) if pixels <= MOST_WHOLE_PIXELS else decoding
    return Cost(pixels=pixels, memory=_BASE + round(pixels * each), quick=False)


def _large_png(data: bytes) -> Cost:
    """A PNG whose many bytes may be many chunks; its size stands at a fixed place."""
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    depth = 4 if colour not in _PNG_SINGLE else 3 if bits == 16 else 1
    return Cost(pixels=width * height, memory=_memory(width * height, depth), quick=False)


def _memory(pixels: int, depth: float) -> int:
    """Bytes for an image and for what is made of it."""
    return _BASE + round(pixels * (depth + (_WHOLE if pixels <= MOST_WHOLE_PIXELS else 0)))


def cost_of(image: Image.Image, data: bytes, frame: JpegFrame | None) -> Cost:
    """What decoding an image that has been opened costs.

    Args:
        image: as Pillow opened it, without its pixels.
        data: the file.
        frame: of a JPEG; see :func:`jpeg_frame`.
    """
    pixels = image.size[0] * image.size[1]
    if frame is not None:
        depth = 1 if image.mode == "L" else 3 if image.mode == "RGB" and image.format == "JPEG" else 4
        effort = pixels * frame.scans
        return Cost(
            pixels=pixels,
            memory=max(_memory(pixels, depth), _BASE + round(pixels * (depth + frame.coefficients))),
            quick=pixels <= _MOST_QUICK_PIXELS
            and not frame.arithmetic
            and (frame.scans == 1 or effort <= _MOST_QUICK_SCANNED),
        )
    if image.format == "AVIF":
        return iso_cost("AVIF", pixels)
    most = _MOST_QUICK_PYTHON_PIXELS if codec_of(image) in _PYTHON_DECODERS else _MOST_QUICK_OTHER_PIXELS
    webp = image.format == "WEBP"
    memory = _BASE + _WEBP * pixels if webp else _memory(pixels, _OF_MODE.get(image.mode, 4))
    if image.format == "TIFF":  # a strip is decoded beside the image
        memory += 4 * image.width * min(image.height, getattr(image, "tag_v2", {}).get(_ROWS_PER_STRIP, image.height))
    return Cost(pixels=pixels, memory=memory, quick=pixels <= most and len(data) <= _MOST_QUICK_OTHER_BYTES)


def codec_of(image: Image.Image) -> str:
    """Pillow's name of what decodes an image that has been opened; empty for WebP."""
    tiles = getattr(image, "tile", [])
    return tiles[0].codec_name if tiles else ""


def jpeg_frame(data: bytes) -> JpegFrame:
    """The frame of a JPEG; where its header cannot be followed, decoding it fails as well, and it counts as simple."""
    place, kind, sampling = 2, 0, b""
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker in _FRAMES:
            kind, sampling = marker, data[place + 4 + 7 : place + 2 + length : 3]
        if marker == _SOS[1]:
            break
        place += 2 + length
    in_first = data[place + 4] if place + 4 < len(data) else 0
    if kind not in _PROGRESSIVE and in_first == len(sampling):
        return JpegFrame(scans=1, coefficients=0, arithmetic=kind in _ARITHMETIC)
    # A thumbnail in the metadata may have another few; in coded pixels these two bytes never stand.
    scans = max(1, data.count(_SOS))
    each = [(byte >> 4) * (byte & 15) for byte in sampling]
    largest = max((byte >> 4 for byte in sampling), default=0) * max((byte & 15 for byte in sampling), default=0)
    blocks = sum(each) / largest if largest else len(sampling)
    return JpegFrame(scans=scans, coefficients=2 * blocks, arithmetic=kind in _ARITHMETIC)

"""The files that tests/fault_inputs.py sends: forms, and images with odd pixels or odd other parts."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def part(data: bytes, parameters: str = '; filename="a.jpg"') -> bytes:
    """A file of a form."""
    return f'--XBX\r\nContent-Disposition: form-data; name="images"{parameters}\r\n\r\n'.encode() + data + b"\r\n"


def chunk(name: bytes, data: bytes, *, crc: int = 0) -> bytes:
    """A chunk of a PNG, with a checksum that is wrong by `crc`."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ crc)


def png(pixels: np.ndarray, *before: bytes, depth: int = 8) -> bytes:
    """A grey PNG of uint8 or big-endian uint16 pixels [H, W], with chunks before them."""
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    """An image file by Pillow."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def scan_bomb(scans: int = 20_000) -> bytes:
    """A progressive JPEG whose last scan is repeated, each a refinement of nothing."""
    data = saved(np.zeros((512, 512), dtype=np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


GREY = (np.add.outer(np.arange(128), np.arange(128)) % 256).astype(np.uint8)
DIM = (GREY.astype(np.uint16) * 255 // 254).clip(0, 255)


def float_tiff(value: float | None = None) -> bytes:
    """Grey from 0 to 1 in float32, maybe with one odd value in it."""
    pixels = (GREY / 255).astype(np.float32)
    if value is not None:
        pixels[5, 5] = value
    return saved(pixels, "TIFF")

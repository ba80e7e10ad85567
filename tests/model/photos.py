"""Small synthetic images, encoded in memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image


def picture(height: int = 37, width: int = 53, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with some noise, uint8 [H, W, 3]: no symmetry, so that every turn and flip shows."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    noise = np.random.default_rng(seed).uniform(-20, 20, (height, width, 3))
    channels = [
        255 * x / max(width - 1, 1),
        255 * y / max(height - 1, 1),
        127 + 120 * np.sin(0.3 * x + 0.17 * y),
    ]
    return np.clip(np.stack(channels, axis=-1) + noise, 0, 255).astype(np.uint8)


def encode(image: Image.Image | NDArray[Any], form: str, **options: Any) -> bytes:
    if form == "HEIF":
        pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, form, **options)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()


def png_announcing(width: int, height: int) -> bytes:
    """A PNG whose header announces a size and whose pixels are garbage: decoding it would fail."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"garbage") + chunk(b"IEND", b"")


def jpeg_announcing(width: int, height: int) -> bytes:
    """A JPEG whose frame header announces a size and which ends before its pixels: decoding it would fail."""
    data = bytearray(encode(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data[: data.index(b"\xff\xda") + 20])

"""Inputs that are as they should be, small, from which fuzzing begins."""

from __future__ import annotations

import base64
import io
import random
from functools import cache

import numpy as np
from PIL import Image


@cache
def images() -> list[bytes]:
    """A small image in each format and mode that is read in a way of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    colour, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels[..., 0])
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    fine = Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    palette = colour.quantize(8)
    made = [
        _file(colour, "JPEG"),
        _file(colour, "JPEG", progressive=True),
        _file(grey, "JPEG"),
        _file(colour.convert("CMYK"), "JPEG"),
        _file(colour, "PNG"),
        _file(Image.fromarray(pixels), "PNG"),
        _file(wide, "PNG"),
        _file(palette, "PNG", transparency=1),
        _file(grey.convert("1"), "PNG"),
        _file(colour, "WEBP", lossless=True),
        _file(colour, "WEBP"),
        _file(palette, "GIF"),
        _file(palette, "GIF", save_all=True, append_images=[palette]),
        _file(colour, "BMP"),
        _file(colour, "TIFF"),
        _file(wide, "TIFF", compression="tiff_lzw"),
        _file(fine, "TIFF", compression="tiff_adobe_deflate"),
        _file(colour, "PPM"),
        _file(grey, "PPM"),
    ]
    exif = Image.Exif()
    exif[274] = 6
    return [*made, _file(colour, "JPEG", exif=exif), _file(colour, "PNG", exif=exif)]


def _file(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def image_in_base64(chance: random.Random) -> str:
    """One of the images, as JSON has it."""
    return base64.b64encode(chance.choice(images())).decode()


def files_of(chance: random.Random, number: int) -> list[str]:
    """Several of them."""
    return [image_in_base64(chance) for _ in range(number)]

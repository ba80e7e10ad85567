"""What stands beside the pixels of a file may be damaged: the pixels count."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.errors import UnreadableImageError
from model.images.reading import NO_END, read_image
from model.preprocess import decode_image
from tests.model.photos import encode, exif, picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
END = b"\xff\xd9"


def chunk(kind: bytes, body: bytes, *, wrong_sum: bool = False) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong_sum)


def with_chunk(data: bytes, extra: bytes, *, at_the_end: bool) -> bytes:
    place = len(data) - 12 if at_the_end else 33  # before IEND, or behind IHDR
    return data[:place] + extra + data[place:]


LARGE = zlib.compress(bytes(2_000_000))
DAMAGED = [
    chunk(b"tEXt", b"a\0b", wrong_sum=True),
    chunk(b"eXIf", b"MM\0*", wrong_sum=True),
    chunk(b"zTXt", b"a\0\0" + LARGE),
    chunk(b"zTXt", b"a\0\0garbage"),
    chunk(b"iTXt", b"a\0\1\0\0\0" + LARGE),
    chunk(b"iCCP", b"a\0\0" + LARGE),
    chunk(b"iCCP", b"a\0\7" + zlib.compress(SRGB)),
    chunk(b"pHYs", b"\0"),
    chunk(b"gAMA", b"\0"),
    chunk(b"cHRM", b"\0\0\0"),
    chunk(b"sRGB", b""),
    chunk(b"tIME", b"", wrong_sum=True),
    chunk(b"acTL", b"\0"),
]


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("extra", DAMAGED, ids=lambda extra: extra[4:12].decode("latin-1"))
def test_a_png_keeps_its_pixels(extra: bytes, at_the_end: bool) -> None:
    image = Image.fromarray(picture()).convert("P")
    data = encode(image, "PNG", transparency=3)
    np.testing.assert_array_equal(decode_image(with_chunk(data, extra, at_the_end=at_the_end)), decode_image(data))


def test_a_png_stands_upright_though_another_chunk_is_damaged() -> None:
    data = with_chunk(encode(picture(), "PNG", exif=exif(6)), DAMAGED[0], at_the_end=True)
    np.testing.assert_array_equal(decode_image(data), np.rot90(picture(), -1))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS"])
def test_a_wrong_sum_over_what_makes_the_pixels_is_damage(kind: bytes) -> None:
    data = bytearray(encode(Image.fromarray(picture()).convert("P"), "PNG", transparency=3))
    place = data.index(kind)
    (length,) = struct.unpack_from(">I", data, place - 4)
    data[place + 4 + length] ^= 1
    with pytest.raises(UnreadableImageError):
        decode_image(bytes(data))


def jpeg_spans(data: bytes) -> Iterator[tuple[int, int]]:
    place = 2
    while data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xE1 <= data[place + 1] <= 0xED:
            yield place + 4, end
        place = end


def webp_spans(data: bytes) -> Iterator[tuple[int, int]]:
    place = 12
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind in (b"ICCP", b"EXIF", b"XMP "):
            yield place + 8, place + 8 + length
        place += 8 + length + length % 2


@pytest.mark.parametrize(("form", "spans"), [("JPEG", jpeg_spans), ("WEBP", webp_spans)])
def test_any_garbage_in_the_metadata_leaves_the_pixels(
    form: str, spans: Callable[[bytes], Iterator[tuple[int, int]]]
) -> None:
    data = encode(picture(), form, exif=exif(1), icc_profile=SRGB, xmp=b"<x:xmpmeta/>")
    places, expected, picked = list(spans(data)), decode_image(data), np.random.default_rng(3)
    assert len(places) == 3
    for _ in range(300):
        damaged = bytearray(data)
        start, end = places[picked.integers(len(places))]
        for place in picked.integers(start, end, size=picked.choice([1, 5, 40])):
            damaged[place] = picked.choice([0, 255, picked.integers(256)])
        pixels = decode_image(bytes(damaged))
        np.testing.assert_array_equal(pixels if pixels.shape == expected.shape else expected, expected)


def test_a_webp_that_ends_within_its_metadata_is_read() -> None:
    data = encode(picture(), "WEBP", lossless=True, exif=exif(1))
    np.testing.assert_array_equal(decode_image(data[:-10]), picture())


@pytest.mark.parametrize("tag", [270, 271, 305, 34675])
@pytest.mark.parametrize("field", ["type", "count", "offset"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_keeps_its_pixels(compression: str | None, field: str, tag: int) -> None:
    tags = Image.Exif()
    tags[271] = "a camera with a long name"
    data = bytearray(
        encode(
            picture(),
            "TIFF",
            exif=tags,
            icc_profile=SRGB,
            description="words " * 9,
            software="of someone",
            compression=compression,
        )
    )
    (start,) = struct.unpack_from("<I", data, 4)
    entry = data.index(struct.pack("<H", tag), start + 2)
    place, value = {"type": (2, b"\x63\0"), "count": (4, b"\xff\xff\xff\x7f"), "offset": (8, b"\xff\xff\xff\xff")}[
        field
    ]
    data[entry + place : entry + place + len(value)] = value
    np.testing.assert_array_equal(decode_image(bytes(data)), picture())


# --- the end marker of a JPEG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("rest", [b"", b"\xff"], ids=["none", "half"])
def test_a_jpeg_without_its_end_marker_is_read_with_a_warning(mode: str, options: dict[str, bool], rest: bytes) -> None:
    data = encode(Image.fromarray(picture()).convert(mode), "JPEG", **options)
    whole, cut = read_image(data), read_image(data.removesuffix(END) + rest)
    assert (whole.warnings, cut.warnings) == ((), (NO_END,))
    np.testing.assert_array_equal(rows(cut), rows(whole))


def rows(raster: object) -> NDArray[np.uint8]:
    return raster.rows(0, raster.size[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_pixels_too_is_damaged(mode: str) -> None:
    data = encode(Image.fromarray(picture()).convert(mode), "JPEG")
    for missing in (1, 2, 5, 50):
        with pytest.raises(UnreadableImageError):
            decode_image(data.removesuffix(END)[:-missing])

"""Grey of more than 8 bits: its brightness follows from the type it is stored in, whatever numbers the image holds."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.errors import UnreadableImageError
from model.preprocess import PreprocessSpec, decode_image, preprocess
from tests.model.photos import encode, picture

GREY = picture()[:, :, 1]


def tiff(stored: NDArray[np.generic], *, order: str = "<", white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF."""
    height, width = stored.shape
    pixels = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[stored.dtype.kind]
    bits, start = 8 * stored.dtype.itemsize, 8 + 2 + 9 * 12 + 4
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 0 if white_is_zero else 1)]
    tags += [(273, 4, start), (277, 3, 1), (279, 4, len(pixels)), (339, 3, kind)]
    directory = b"".join(
        struct.pack(order + "HHI", tag, form, 1) + struct.pack(order + ("HH" if form == 3 else "I"), *values)
        for tag, form, value in tags
        for values in [(value, 0) if form == 3 else (value,)]
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(tags)) + directory + bytes(4) + pixels


def pgm(stored: NDArray[np.uint16], most: int) -> bytes:
    return b"P5 %d %d %d\n" % (stored.shape[1], stored.shape[0], most) + stored.astype(">u2").tobytes()


def pfm(stored: NDArray[np.float32]) -> bytes:
    return b"Pf\n%d %d\n-1.0\n" % (stored.shape[1], stored.shape[0]) + stored[::-1].astype("<f4").tobytes()


def assert_grey(data: bytes, expected: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(decode_image(data), np.repeat(expected[:, :, None], 3, axis=2))


SIXTEEN = GREY.astype(np.uint16) * 257
FLOATS = (GREY / 255).astype(np.float32)


@pytest.mark.parametrize(
    "data",
    [
        encode(SIXTEEN, "PNG"),
        tiff(SIXTEEN),
        tiff(SIXTEEN, order=">"),
        encode(SIXTEEN, "TIFF", compression="tiff_adobe_deflate"),
        tiff(GREY.astype(np.uint32) * 16843009),
        tiff(FLOATS),
        tiff(FLOATS, order=">"),
        encode(FLOATS, "TIFF", compression="tiff_lzw"),
        pgm(SIXTEEN, 65535),
        pgm(GREY.astype(np.uint16) * 4, 1020),
        pfm(FLOATS),
    ],
    ids=["png", "tiff", "big-endian", "deflate", "32 bits", "float", "big-endian float", "lzw", "pgm", "pgm10", "pfm"],
)
def test_the_same_picture_in_every_type(data: bytes) -> None:
    assert_grey(data, GREY)


@pytest.mark.parametrize("most", [1, 255, 256, 40_000])
def test_a_dark_image_stays_dark(most: int) -> None:
    stored = np.linspace(0, most, 37 * 53).reshape(37, 53)
    sixteen = np.rint(stored).astype(np.uint16)
    for data in (encode(sixteen, "PNG"), tiff(sixteen), pgm(sixteen, 65535)):
        assert_grey(data, np.rint(sixteen / 257).astype(np.uint8))
    floats = (stored / 65535).astype(np.float32)
    assert_grey(tiff(floats), np.rint(floats * 255).astype(np.uint8))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stored", [SIXTEEN, FLOATS], ids=["16 bits", "float"])
def test_white_may_be_zero(stored: NDArray[np.generic], order: str) -> None:
    assert_grey(tiff(stored, order=order, white_is_zero=True), 255 - GREY)


def test_transparent_grey_becomes_white_as_with_8_bits() -> None:
    value = int(GREY[5, 7])
    eight = decode_image(encode(Image.fromarray(GREY), "PNG", transparency=value))
    sixteen = decode_image(encode(SIXTEEN, "PNG", transparency=257 * value))
    assert eight[5, 7].tolist() == [255] * 3
    np.testing.assert_array_equal(sixteen, eight)


def test_a_transparent_colour_of_16_bits_becomes_white() -> None:
    """Pillow compares the upper bytes of the pixels with the lower ones of this colour."""
    rgb = np.array([[[0x1234, 0x5678, 0x9ABC], [0xFF00, 0, 0]]], dtype=">u2")

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + rgb.tobytes()))
    colour = chunk(b"tRNS", rgb[0, 0].tobytes())
    data = b"\x89PNG\r\n\x1a\n" + header + colour + pixels + chunk(b"IEND", b"")
    assert decode_image(data).tolist() == [[[255] * 3, [255, 0, 0]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float_that_is_not_finite_is_refused_wherever_it_stands(bad: float) -> None:
    stored = FLOATS.copy()
    stored[0, 0] = bad
    for data in (tiff(stored), pfm(stored)):
        with pytest.raises(UnreadableImageError, match="not finite; expected floats from 0 to 1"):
            decode_image(data)
        with pytest.raises(UnreadableImageError, match="not finite"):  # the crop leaves the corner out
            preprocess(data, PreprocessSpec(size=8, resize=16))


@pytest.mark.parametrize("stored", [FLOATS * 255, FLOATS - 0.5, FLOATS * 1.01], ids=["0..255", "negative", "beyond"])
def test_floats_without_a_known_range_are_refused_with_what_came(stored: NDArray[np.float32]) -> None:
    with pytest.raises(UnreadableImageError, match=r"floats from \S+ to \S+, whose black and white are not known"):
        decode_image(tiff(stored))


def test_floats_that_round_to_black_and_white_are_taken() -> None:
    stored = np.array([[-0.001, 1.001]], dtype=np.float32)
    assert_grey(tiff(stored), np.array([[0, 255]], dtype=np.uint8))


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_signed_integers_have_no_known_range(kind: type[np.signedinteger]) -> None:
    with pytest.raises(UnreadableImageError, match=f"signed integers of {8 * kind().itemsize} bits"):
        decode_image(tiff(GREY.astype(np.int16).clip(0, 100).astype(kind)))


def test_a_large_image_is_converted_in_bands() -> None:
    stored = np.arange(1100 * 1000, dtype=np.uint32).reshape(1100, 1000).astype(np.uint16)
    assert_grey(tiff(stored), np.rint(stored / 257).astype(np.uint8))

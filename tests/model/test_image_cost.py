"""What an image would cost is known before its pixels are touched, and large ones lie in memory once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from model import preprocess as preprocessing
from model.errors import ImageTooLargeError
from model.images import raster
from model.images.cost import Cost, jpeg_frame
from model.images.failures import damage_named
from model.images.reading import read_image
from model.preprocess import PreprocessSpec, preprocess
from tests.model.photos import encode, exif, jpeg_announcing, picture, png_announcing


class _StopError(Exception):
    pass


def cost(data: bytes) -> Cost:
    """By the header alone: nothing behind it is read."""
    seen: list[Cost] = []

    def check(found: Cost) -> None:
        seen.append(found)
        if found.pixels:
            raise _StopError

    with pytest.raises(_StopError):
        read_image(data, check=check)
    assert all(one.quick for one in seen[:-1])
    return seen[-1]


def scans(number: int, *, side: int = 64, mode: str = "L") -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encode(Image.new(mode, (side, side), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * (number - data.count(b"\xff\xda")) + data[-2:]


def test_ordinary_images_are_quick() -> None:
    for data in (encode(picture(), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")):
        assert cost(data).quick
    assert cost(jpeg_announcing(4000, 3000)).quick
    assert cost(scans(12, side=300)).quick


@pytest.mark.parametrize(
    "data",
    [
        png_announcing(3000, 2000),
        jpeg_announcing(6000, 4000),
        encode(Image.new("RGB", (2500, 2000)), "WEBP"),
        b"P5 500 500 100\n" + bytes(250_000),  # a step of the interpreter for each pixel
        scans(90, side=800),
    ],
    ids=["png", "jpeg", "webp", "pgm", "scans"],
)
def test_what_takes_long_is_not(data: bytes) -> None:
    assert not cost(data).quick


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(1_000_001),
        b"\xff\xd8" + b"\xff\xfe\0\2" * 2000,
        b"P6 #" + b"x" * 900_000 + b"\n2 2 255\n" + bytes(12),
        b"P5" + b" " * 900_000 + b"2 2 255\n" + bytes(4),
        b"P4 2 " + b"\n" * 9000 + b"2 " + bytes(2),
        b"Pf 2 2 #" + b"x" * 9000 + b"\n-1.0\n" + bytes(16),
    ],
)
def test_what_takes_long_to_open_is_known_by_its_first_bytes(data: bytes) -> None:
    def check(found: Cost) -> None:
        assert (found.quick, found.memory) == (False, None)
        raise _StopError

    with pytest.raises(_StopError):
        read_image(data, check=check)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "RGBA"])
def test_the_first_bytes_of_a_large_png_tell_as_much_as_its_header(mode: str) -> None:
    data = encode(Image.new(mode, (640, 480)), "PNG")
    expected = cost(data)
    with pytest.raises(_StopError):
        read_image(data + bytes(1_000_001), check=lambda found: _stop_at(found, expected))


def _stop_at(found: Cost, expected: Cost) -> None:
    assert (found.pixels, found.memory, found.quick) == (expected.pixels, expected.memory, False)
    raise _StopError


def test_the_scans_of_a_jpeg_have_a_limit() -> None:
    read_image(scans(100))
    with pytest.raises(ImageTooLargeError, match="the JPEG has 101 scans; at most 100 are read"):
        read_image(scans(101))
    with pytest.raises(ImageTooLargeError, match="20000 scans"):
        read_image(scans(20_000))


def test_scans_of_single_colours_count_too() -> None:
    """A JPEG that is not progressive may come in several scans as well."""
    data = bytearray(encode(picture(), "JPEG"))
    assert jpeg_frame(bytes(data)).scans == 1
    data[data.index(b"\xff\xda") + 4] = 1  # the first scan has one colour
    assert jpeg_frame(bytes(data) + b"\xff\xda" * 500).scans == 501


def test_memory_grows_with_what_the_decoder_keeps() -> None:
    side = 4500
    grey, sixteen, rgb = (
        cost(encode(Image.new(mode, (side, side)), "PNG")).memory or 0 for mode in ("L", "I;16", "RGB")
    )
    webp = cost(encode(Image.new("RGB", (side, side)), "WEBP", method=0)).memory or 0
    assert grey < sixteen < rgb < 150_000_000 < 300_000_000 < webp


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("orientation", [None, 3, 6])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_in_bands_an_image_is_what_it_is_in_one_piece(
    form: str, orientation: int | None, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PreprocessSpec(size=32, resize=37, interpolation=interpolation)  # type: ignore[arg-type]
    upright = (301, 403) if orientation != 6 else (403, 301)
    data = encode(picture(*upright), form, **({"exif": exif(orientation)} if orientation else {}))
    whole = preprocess(data, spec)
    for module in (preprocessing, raster):
        monkeypatch.setattr(module, "BAND", 10_000)
    monkeypatch.setattr(preprocessing, "MOST_WHOLE_PIXELS", 0)
    np.testing.assert_array_equal(preprocess(data, spec), whole)


def test_memory_that_runs_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(), "PNG")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "resize", fail)
        with pytest.raises(ImageTooLargeError, match="not enough memory"):
            preprocess(data, PreprocessSpec(size=8, resize=8))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageTooLargeError, match="not enough memory"):
        read_image(data)


@pytest.mark.parametrize("words", ["Pixel allocation failed: Out of memory", "Memory allocation error: Unspecified"])
def test_memory_that_runs_out_is_named_where_a_library_says_it_in_words(words: str) -> None:
    with pytest.raises(ImageTooLargeError, match="not enough memory to decode"), damage_named():
        raise RuntimeError(words)

"""HEIF (HEIC) and AVIF: the pixels that other readers give, upright, in 8 bits, and refusals by name."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.errors import ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from model.images import heif
from model.images.cost import Cost
from model.images.iso_media import announced_size, iso_format
from model.images.reading import read_image, readable_formats, readable_types
from model.preprocess import PreprocessSpec, decode_image, preprocess, raster_input
from tests.model.photos import encode, exif, picture

FORMS = ("AVIF", "HEIF")
TURNED = [
    lambda pixels: pixels,
    lambda pixels: pixels[:, ::-1],
    lambda pixels: pixels[::-1, ::-1],
    lambda pixels: pixels[::-1],
    lambda pixels: pixels.transpose(1, 0, 2),
    lambda pixels: np.rot90(pixels, -1),
    lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    lambda pixels: np.rot90(pixels),
]


def smooth(height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """A picture that a lossy format keeps, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 127 + 0 * x], axis=-1).astype(np.uint8)


def heic(pixels: NDArray[Any], mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    height, width = pixels.shape[:2]
    pillow_heif.encode(mode, (width, height), np.ascontiguousarray(pixels).tobytes(), stream, quality=95, **options)
    return stream.getvalue()


def assert_near(data: bytes, expected: NDArray[Any], most: float = 3.0) -> None:
    pixels = decode_image(data)
    assert pixels.flags.c_contiguous
    assert (pixels.dtype, pixels.shape) == (np.uint8, expected.shape)
    assert np.abs(pixels.astype(float) - expected).mean() < most


def resized(data: bytes, new: tuple[int, int]) -> bytes:
    """A file whose header names another size, and whose coded pixels are the same."""
    old = announced_size(data)
    assert old is not None
    return data.replace(b"ispe\0\0\0\0" + struct.pack(">II", *old), b"ispe\0\0\0\0" + struct.pack(">II", *new))


@pytest.mark.parametrize("form", FORMS)
def test_the_pixels_are_those_of_the_reader_itself(form: str) -> None:
    data = encode(picture(), form)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_image(data), np.asarray(image.convert("RGB")))
    assert_near(encode(smooth(), form, quality=95), smooth())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", FORMS)
def test_an_image_stands_upright_whatever_its_orientation(form: str, orientation: int) -> None:
    assert_near(encode(smooth(), form, quality=95, exif=exif(orientation)), TURNED[orientation - 1](smooth()))


def test_how_it_is_turned_says_the_file_and_not_its_metadata() -> None:
    """By the standard of both; EXIF or XMP that say something else are left over from before."""
    data = encode(smooth(), "HEIF", quality=95, exif=exif(1))
    entry = b"\x01\x12\0\x03\0\0\0\1\0"
    assert_near(data.replace(entry + b"\1", entry + b"\6"), smooth())
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert_near(encode(smooth(), "AVIF", quality=95, xmp=xmp), smooth())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("garbage", [b"garbage!", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"], ids=repr)
def test_damaged_exif_does_not_cost_the_photo(form: str, garbage: bytes) -> None:
    tags = Image.Exif()
    tags[271] = "somebody"
    data = encode(smooth(), form, quality=95, exif=tags.tobytes())
    place = data.index(b"MM\0*")
    assert_near(data[:place] + garbage + data[place + len(garbage) :], smooth())


@pytest.mark.parametrize("form", FORMS)
def test_exif_that_begins_nowhere_does_not_cost_the_photo(form: str) -> None:
    tags = Image.Exif()
    tags[271] = "somebody"
    data = encode(smooth(), form, quality=95, exif=tags.tobytes())
    place = data.index(b"Exif\0\0MM\0*") - 4
    assert_near(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :], smooth())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(form: str, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    alpha = np.repeat(np.linspace(0, 255, 96)[None, :], 64, axis=0).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    share = alpha[:, :, None] / 255
    expected = np.asarray(image.convert("RGBA")).astype(float)[:, :, :3] * share + 255 * (1 - share)
    assert_near(encode(image, form, quality=95), expected)


@pytest.mark.parametrize("form", FORMS)
def test_grey(form: str) -> None:
    grey = Image.fromarray(smooth()).convert("L")
    assert_near(encode(grey, form, quality=95), np.asarray(grey.convert("RGB")))


def test_ten_and_twelve_bits_become_eight() -> None:
    for depth in (10, 12):
        assert_near(heic(smooth().astype(np.uint16) * 257, "RGB;16", bit_depth=depth), smooth())


def test_an_image_in_tiles_is_one_image() -> None:
    """As phones write it."""
    data = heic(smooth(300, 500), tile_size=128)
    assert data.count(b"hvc1") > 4
    assert announced_size(data) == (500, 300)
    assert_near(data, smooth(300, 500))


def test_the_first_frame_of_a_sequence_and_the_primary_image_of_several_count() -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    assert_near(encode(frames[0], "AVIF", save_all=True, append_images=frames[1:]), np.asarray(frames[0]))
    data = encode(frames[0], "HEIF", save_all=True, append_images=frames[1:], primary_index=1)
    assert_near(data, np.asarray(frames[1]))


@pytest.mark.parametrize("form", FORMS)
def test_training_and_serving_read_the_same(form: str) -> None:
    spec = PreprocessSpec(size=32, resize=37)
    data = encode(picture(301, 403), form, exif=exif(6))
    raster = read_image(data)
    assert raster.size == (403, 301)
    np.testing.assert_array_equal(preprocess(data, spec), raster_input(raster, spec))


@pytest.mark.parametrize("form", FORMS)
def test_what_it_costs_is_known_before_its_reader_sees_it(form: str) -> None:
    costs: list[Cost] = []
    read_image(encode(picture(320, 448), form), check=costs.append)
    assert [(cost.pixels, cost.quick) for cost in costs] == [(320 * 448, False)] * 2
    assert costs[0] == costs[1]
    read_image(encode(picture(), form), check=costs.append)  # HEIF codes whole blocks and crops them
    assert costs[2].pixels >= costs[3].pixels == 37 * 53


@pytest.mark.parametrize("form", FORMS)
def test_a_bomb_is_refused_by_its_header(form: str) -> None:
    data = encode(picture(), form)
    with pytest.raises(ImageTooLargeError, match="30000 x 30000 pixels; at most 50000000"):
        decode_image(resized(data, (30_000, 30_000)))
    for side in (20, 600):  # what is coded has another size than that
        if form == "HEIF":
            with pytest.raises(UnreadableImageError, match="damaged"):
                decode_image(resized(data, (side, side)))
        else:  # the reader brings it to the size that was announced
            assert decode_image(resized(data, (side, side))).shape == (side, side, 3)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_is_larger_than_the_budgets_were_told_is_refused(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.images import reading

    data = encode(picture(), form)
    monkeypatch.setattr(reading, "announced_size", lambda _: (10, 10))
    with pytest.raises(UnreadableImageError, match="names several sizes"):
        decode_image(data)


def test_what_a_file_is_stands_in_its_brands() -> None:
    def file(*brands: bytes) -> bytes:
        body = brands[0] + bytes(4) + b"".join(brands[1:])
        return struct.pack(">I4s", 8 + len(body), b"ftyp") + body + b"rest"

    assert iso_format(file(b"mif1", b"mif1", b"avif")) == iso_format(file(b"avis", b"msf1")) == "AVIF"
    assert iso_format(file(b"heic", b"mif1")) == iso_format(file(b"mif1", b"heic")) == "HEIF"
    assert [iso_format(data) for data in (file(b"isom", b"mp42"), b"", b"ftyp", encode(picture(), "PNG"))] == [None] * 4
    with pytest.raises(UnsupportedImageError, match="AVIF, HEIF"):
        decode_image(file(b"isom", b"mp42"))
    for brand in (b"heic", b"avif"):
        with pytest.raises(UnreadableImageError, match="damaged"):
            decode_image(file(brand))


def test_without_the_extra_heif_is_refused_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(), "HEIF")
    assert (readable_formats()[-1], readable_types()[-2:]) == ("HEIF", ("image/heic", "image/heif"))
    heif.heif_is_read.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(heif, "find_spec", lambda _: None)
        with pytest.raises(UnsupportedImageError, match=r"extra `heic` \(pip install 'd3gzsl\[heic\]'\)"):
            decode_image(data)
        assert (readable_formats()[-1], readable_types()[-1]) == ("AVIF", "image/avif")
        with pytest.raises(UnsupportedImageError, match=r"TIFF, PPM, AVIF\)"):
            decode_image(b"no image")
    heif.heif_is_read.cache_clear()
    assert decode_image(data).shape == (37, 53, 3)

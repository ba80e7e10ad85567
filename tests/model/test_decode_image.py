"""Image bytes to pixels: the same bytes as Pillow's own decoding, and one honest error for everything else."""

from __future__ import annotations

import io
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model.errors import ImageError, ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from model.preprocess import FORMATS, decode_image
from tests.model.photos import encode, exif, jpeg_announcing, picture, png_announcing


def pillow(data: bytes) -> NDArray[np.uint8]:
    """The reference: Pillow alone."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def assert_same(data: bytes, expected: NDArray[np.uint8]) -> None:
    pixels = decode_image(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 30},
        {"quality": 95},
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"progressive": True, "subsampling": 0, "quality": 90},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(37, 53), (64, 48), (1, 1), (8, 200)], ids=str)
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(size: tuple[int, int], mode: str, options: dict[str, int]) -> None:
    if "keep_rgb" in options and mode != "RGB":
        options = {}
    data = encode(Image.fromarray(picture(*size)).convert(mode), "JPEG", **options)
    assert_same(data, pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("WEBP", "RGB")]
)
def test_an_image_stands_upright_whatever_its_orientation(orientation: int, form: str, mode: str) -> None:
    data = encode(Image.fromarray(picture()).convert(mode), form, exif=exif(orientation))
    assert_same(data, pillow(data))


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int, form: str) -> None:
    plain, odd = (encode(picture(), form, exif=exif(value)) for value in (1, orientation))
    assert_same(odd, decode_image(plain))


def test_the_orientation_in_xmp_counts_where_exif_has_none() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(picture(), "JPEG", xmp=xmp)
    assert decode_image(data).shape == (53, 37, 3)
    assert_same(data, pillow(data))


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_damaged_exif_does_not_cost_the_photo(form: str) -> None:
    tags = Image.Exif()
    tags[274] = 6
    tags.get_ifd(0x8769)[0x9286] = b"x" * 10
    # A comment that announces another type: Pillow reads the orientation but cannot write this block again.
    block = tags.tobytes().replace(b"\x92\x86\x00\x07", b"\x92\x86\x00\x01")
    data = encode(picture(), form, exif=block)
    assert_same(data, decode_image(encode(picture(), form, exif=exif(6))))


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"], ids=repr)
def test_unreadable_exif_leaves_the_photo_as_it_is(block: bytes) -> None:
    data = encode(picture(), "JPEG", exif=block)
    assert_same(data, decode_image(encode(picture(), "JPEG")))


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_give_the_very_pixels(form: str) -> None:
    assert_same(encode(picture(), form), picture())


def test_every_format_that_is_announced_is_read() -> None:
    for form in FORMATS:
        assert decode_image(encode(picture(), form)).shape == (37, 53, 3)


def test_sixteen_bit_grey_is_scaled_to_eight() -> None:
    grey = picture()[:, :, 1]
    assert_same(encode(grey.astype(np.uint16) * 257, "PNG"), np.repeat(grey[:, :, None], 3, axis=2))


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    assert_same(encode(image, "PNG"), np.asarray(image.convert("RGB")))


def test_black_and_white() -> None:
    image = Image.fromarray(picture()).convert("1")
    assert_same(encode(image, "PNG"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    alpha = np.arange(37 * 53, dtype=np.uint32).reshape(37, 53) % 256
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    colour = np.asarray(image.convert("RGBA")).astype(np.float64)[:, :, :3]
    share = alpha[:, :, None] / 255
    expected = colour * share + 255 * (1 - share)
    np.testing.assert_allclose(decode_image(encode(image, "PNG")), expected, atol=1.0)


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode=None).convert("L").convert("P")
    image.putpalette([200, 10, 10, 10, 200, 10])
    data = encode(image, "PNG", transparency=1)
    red, white = [200, 10, 10], [255, 255, 255]
    assert_same(data, np.array([[red, white], [white, red]], dtype=np.uint8))


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_same(data, np.full((10, 20, 3), (255, 0, 0), dtype=np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_file_that_was_cut_short_is_unreadable(form: str, kept: float) -> None:
    data = encode(picture(), form)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: int(len(data) * kept)])
    assert isinstance(caught.value, UnreadableImageError) or form == "TIFF"  # a TIFF's directory lies at its end


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\0" * 500, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"\xff\xd8"]
)
def test_what_is_no_image_is_named_so_with_the_formats(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM"):
        decode_image(data)


def test_a_format_outside_the_list_is_refused() -> None:
    with pytest.raises(UnsupportedImageError):
        decode_image(encode(picture(), "ICO"))


@pytest.mark.parametrize("header", [png_announcing, jpeg_announcing])
def test_a_bomb_is_refused_by_its_header(header) -> None:
    # Neither could be decoded, so the kind of error shows that its pixels were not touched.
    with pytest.raises(UnreadableImageError):
        decode_image(header(60, 70))
    with pytest.raises(ImageTooLargeError, match="9000 x 8000 pixels; at most 50000000"):
        decode_image(header(9000, 8000))


def test_a_bomb_beyond_pillows_own_limit_is_too_large_as_well() -> None:
    with pytest.raises(ImageTooLargeError, match="more than the 50000000 pixels"):
        decode_image(png_announcing(60_000, 60_000))
    own = 2 * Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageTooLargeError, match=f"more than the {own} pixels"):
        decode_image(png_announcing(60_000, 60_000), max_pixels=10**12)


def test_the_pixel_limit_is_inclusive() -> None:
    data = encode(picture(), "PNG")
    assert decode_image(data, max_pixels=37 * 53).shape == (37, 53, 3)
    with pytest.raises(ImageTooLargeError):
        decode_image(data, max_pixels=37 * 53 - 1)


def test_any_damage_ends_in_an_image_or_an_image_error() -> None:
    picked = random.Random(5)
    image = Image.fromarray(picture(24, 32))
    seeds = [
        *(encode(image, form, exif=exif(6)) for form in ("JPEG", "PNG", "WEBP", "TIFF")),
        *(encode(image, form) for form in ("BMP", "PPM", "GIF")),
        encode(image, "JPEG", progressive=True),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image.convert("RGBA"), "PNG"),
    ]
    decoded = refused = 0
    for _ in range(3000):
        data = bytearray(picked.choice(seeds))
        for _ in range(picked.choice([1, 2, 8])):
            place = picked.randrange(min(len(data), picked.choice([60, 10**9])))
            if picked.random() < 0.8:
                data[place] = picked.randrange(256)
            else:
                del data[place : place + picked.randrange(1, 20)]
        try:
            pixels = decode_image(bytes(data), max_pixels=1_000_000)
        except ImageError:
            refused += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            decoded += 1
    assert decoded > 100
    assert refused > 100


def test_pillows_warnings_are_silent_in_every_thread_and_those_of_others_are_heard() -> None:
    bomb = png_announcing(9500, 9500)  # above the size at which Pillow warns, below that at which it refuses

    def refuse(_: int) -> None:
        with pytest.raises(ImageTooLargeError):
            decode_image(bomb)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(refuse, range(200)))
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["of somebody else"]

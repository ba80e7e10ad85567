"""Image files to pixels: the one function that training and serving share.

JPEGs go through libjpeg-turbo directly where that gives the reference pixels (RGB and grey); everything else, and any
JPEG it complains about, goes through Pillow.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, ExifTags, Image, UnidentifiedImageError

from model.errors import ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from model.images.cost import MOST_SCANS, Cost, JpegFrame, cost_of, first_look, iso_cost, jpeg_frame
from model.images.failures import DAMAGE, damage_named, memory_named
from model.images.grey import check_sample_type, eight_bits, grey_scale, is_deep_grey
from model.images.heif import HeifImage, heif_is_read
from model.images.iso_media import announced_size, iso_format
from model.images.metadata import without_metadata
from model.images.raster import Pixels, Raster

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is read everywhere. HEIF is read beside them where pillow-heif is installed; see :func:`readable_formats`."""

_MEDIA_TYPES = {name: (f"image/{name.lower()}",) for name in FORMATS} | {
    "PPM": ("image/x-portable-anymap",),
    "HEIF": ("image/heic", "image/heif"),
}
DEFAULT_MAX_PIXELS = 50_000_000
NO_END = "the JPEG ends without its end marker; all of its pixels are there"

_COLOUR_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_TURBOJPEG_PIXELS = ("RGB", "L")  # those that are the very pixels of Pillow
_JPEGS = ("JPEG", "MPO")
_PNG, _WEBP = b"\x89PNG\r\n\x1a\n", b"WEBP"
_SOS, _EOI = b"\xff\xda", b"\xff\xd9"
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # for one image: others are decoded beside it
_PILLOW = r"PIL\."
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(_PILLOW), 0)


def read_image(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, check: Callable[[Cost], object] = lambda _: None
) -> Raster:
    """Decode an image file: its first frame, upright.

    Args:
        data: the file's bytes.
        max_pixels: width times height above which the image is refused before any pixel is decoded.
        check: told what decoding costs, twice: by the first bytes alone, and by the header. What it raises ends the
            reading.

    Raises:
        UnsupportedImageError: not one of :func:`readable_formats`.
        ImageTooLargeError: the header announces more than `max_pixels`, a JPEG has more scans than are read, or there
            is not enough memory.
        UnreadableImageError: the file is damaged, has no pixels, or numbers whose black and white are not known.
    """
    _silence_pillow()
    announced = announced_size(data) if iso_format(data) else None
    if announced is not None:
        _check_pixels(*announced, max_pixels)
    check(first_look(data))
    try:
        return _read(data, max_pixels, check)
    except (UnreadableImageError, UnsupportedImageError) as error:
        bare = without_metadata(data)
        if bare is None:
            raise
        refusal: Exception = error
    try:
        return _read(bare, max_pixels, check)
    except UnreadableImageError as error:
        raise (error if isinstance(refusal, UnsupportedImageError) else refusal) from None
    except UnsupportedImageError:
        raise refusal from None


def readable_formats() -> tuple[str, ...]:
    """The formats that are read here, by their names in Pillow."""
    return (*FORMATS, "HEIF") if heif_is_read() else FORMATS


def readable_types() -> tuple[str, ...]:
    """Their media types."""
    return tuple(kind for name in readable_formats() for kind in _MEDIA_TYPES[name])


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode an image file to RGB, upright, first frame, alpha laid over white.

    Args:
        data: the file's bytes.
        max_pixels: see :func:`read_image`, which also says what is raised.

    Returns:
        uint8 [H, W, 3], C-contiguous.
    """
    raster = read_image(data, max_pixels=max_pixels)
    with memory_named():
        return raster.rows(0, raster.size[0])


def _read(data: bytes, max_pixels: int, check: Callable[[Cost], object]) -> Raster:
    with damage_named():
        if iso_format(data) == "HEIF":
            return _read_heif(data, max_pixels, check)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                frame = jpeg_frame(data) if image.format in _JPEGS else None
                if image.format == "AVIF":
                    _check_announced(image.size, data)
                _check_size(image, frame, max_pixels)
                check(cost_of(image, data, frame))
                return _decoded(image, data)
        except UnidentifiedImageError:
            if (data.startswith(_PNG) or data[8:12] == _WEBP) and without_metadata(data) is None:
                raise UnreadableImageError("the image is damaged: its header cannot be read") from None
            if iso_format(data) == "AVIF":
                raise UnreadableImageError("the image is damaged: its header cannot be read") from None
            known = ", ".join(readable_formats())
            raise UnsupportedImageError(f"not an image in a format that is read here ({known})") from None
        except Image.DecompressionBombError:
            limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))  # Pillow has a limit of its own
            raise ImageTooLargeError(f"the image has more than the {limit} pixels allowed") from None


def _read_heif(data: bytes, max_pixels: int, check: Callable[[Cost], object]) -> Raster:
    image = HeifImage(data)
    _check_announced(image.size, data)
    width, height = image.size
    _check_pixels(width, height, max_pixels)
    check(iso_cost("HEIF", width * height))
    raster = Raster(stored=image.decoded())
    if raster.size != (height, width):
        raise UnreadableImageError("the image is damaged: what is coded has another size than the header says")
    return raster


def _check_announced(size: tuple[int, int], data: bytes) -> None:
    """Raise UnreadableImageError where an image is larger than its budgets took it for."""
    announced = announced_size(data)
    if announced is not None and size[0] * size[1] > announced[0] * announced[1]:
        raise UnreadableImageError("the image is damaged: its header names several sizes for it")


def _silence_pillow() -> None:
    """Ignore Pillow's warnings about sizes and metadata from now on; the limits here are our own.

    `warnings.catch_warnings` would change the filters of every thread and put them back while others still decode.
    """
    if warnings.filters[0] != _PILLOW_FILTER:
        warnings.filterwarnings("ignore", module=_PILLOW)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width} x {height} pixels; at most {max_pixels} in all are allowed")


def _check_size(image: Image.Image, frame: JpegFrame | None, max_pixels: int) -> None:
    _check_pixels(*image.size, max_pixels)
    if frame is not None and frame.scans > MOST_SCANS:
        raise ImageTooLargeError(f"the JPEG has {frame.scans} scans; at most {MOST_SCANS} are read")


def _decoded(image: Image.Image, data: bytes) -> Raster:
    check_sample_type(image)
    stored: Pixels | Image.Image | None = None
    notes: tuple[str, ...] = ()
    if image.format == "JPEG" and image.mode in _TURBOJPEG_PIXELS:
        stored = _by_turbojpeg(image.mode, data)
    if image.format in _JPEGS and stored is None and _EOI not in data[data.rfind(_SOS) :]:
        ended = data.rstrip(b"\xff") + _EOI
        if (whole := _by_turbojpeg(image.mode, ended)) is not None:
            stored, notes = (whole if image.mode in _TURBOJPEG_PIXELS else _jpeg_by_pillow(ended)), (NO_END,)
    if stored is None:
        stored = _by_pillow(image)
    return Raster(stored=stored, orientation=_orientation(image), warnings=notes)


def _by_turbojpeg(mode: str, data: bytes) -> Pixels | None:
    """The pixels of a JPEG that has nothing to complain about, uint8 [rows, columns, channels]; None for others."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace=_COLOUR_SPACES[mode], strict=True)
    except (ValueError, KeyError):  # Pillow decides whether it is only a harmless oddity
        return None
    return pixels


def _jpeg_by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        return image


def _by_pillow(image: Image.Image) -> Pixels | Image.Image:
    tiles = getattr(image, "tile", [])
    if image.format == "PNG" and tiles and tiles[0].args == "RGB;16B" and "transparency" in image.info:
        # Pillow keeps the upper byte of each channel, and of this colour the lower one.
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    image.load()
    if is_deep_grey(image):
        return eight_bits(image, grey_scale(image))[:, :, np.newaxis]
    return image.copy() if image.format in ("WEBP", "AVIF") else image  # whose decoders keep more in memory


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or metadata that are damaged: the pixels still count."""
    if image.format == "AVIF":
        image.info.pop("xmp", None)  # how it is turned says the file itself, which Pillow tells as EXIF
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1
    return int(value) if value in range(1, 9) else 1

"""Image bytes to network input: the one function that training and serving share, byte for byte.

H, W: height and width in pixels; S: the network's input side.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from model.errors import DataError, ImageTooLargeError, UnreadableImageError, UnsupportedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
DEFAULT_MAX_PIXELS = 50_000_000

Pixels = NDArray[np.uint8]
# What Pillow's parsers have been seen to raise, or say in their source that they raise, on damaged bytes.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zlib.error,
)
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_PILLOW = r"PIL\."
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(_PILLOW), 0)
_RESIZE_SENTENCE = re.compile(r"shorter side to (\d+), centre crop, (bilinear|bicubic)")


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How pixels become a network input: shorter side to `resize`, centre crop of `size`, scale to 0..1, normalise.

    Attributes:
        size: side S of the square input, in pixels.
        resize: length the shorter side is scaled to before the crop; at least `size`.
        interpolation: antialiased resampling filter.
        mean: subtracted per RGB channel, on the 0..1 scale.
        std: divisor per RGB channel, above 0.
    """

    size: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize <= 4096:
            raise DataError(
                f"preprocessing needs 1 <= size <= resize <= 4096, got size {self.size}, resize {self.resize}"
            )
        if self.interpolation not in _RESAMPLING:
            raise DataError(f"interpolation must be one of {sorted(_RESAMPLING)}, got {self.interpolation!r}")
        if (
            len(self.mean) != 3
            or len(self.std) != 3
            or not np.isfinite((*self.mean, *self.std)).all()
            or min(self.std) <= 0
        ):
            raise DataError(
                f"mean and std must be three finite numbers each, std above 0, got mean {self.mean}, std {self.std}"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PreprocessSpec:
        """Read the JSON of :meth:`to_json`, or the JSON beside a backbone, whose ``resize`` may be a sentence.

        The sentence has the form ``shorter side to 256, centre crop, bilinear``.

        Raises:
            DataError: a field is missing or has another form.
        """
        try:
            resize, interpolation = fields["resize"], fields.get("interpolation", "bilinear")
            if isinstance(resize, str):
                sentence = _RESIZE_SENTENCE.fullmatch(resize.strip())
                if sentence is None:
                    raise DataError(
                        f"resize must be a number or 'shorter side to N, centre crop, bilinear|bicubic', got {resize!r}"
                    )
                resize, interpolation = int(sentence[1]), sentence[2]
            mean, std = (tuple(float(v) for v in fields[key]) for key in ("mean", "std"))
            return cls(
                size=int(fields["size"]),
                resize=int(resize),
                interpolation=interpolation,
                mean=mean,  # type: ignore[arg-type]  # the length is checked in __post_init__
                std=std,  # type: ignore[arg-type]
            )
        except KeyError as error:
            raise DataError(
                f"preprocessing lacks the field {error.args[0]!r}; it needs size, resize, mean, std"
            ) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"preprocessing fields are not numbers: {error}") from None


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode an image file to RGB, upright, first frame, alpha laid over white.

    JPEGs go through libjpeg-turbo directly where that gives the reference pixels (RGB and grey); everything else, and
    any JPEG it complains about, goes through Pillow.

    Args:
        data: the file's bytes.
        max_pixels: width times height above which the image is refused before any pixel is decoded.

    Returns:
        uint8 [H, W, 3], C-contiguous.

    Raises:
        UnsupportedImageError: not one of `FORMATS`.
        ImageTooLargeError: the header announces more than `max_pixels`.
        UnreadableImageError: the file is damaged or has no pixels.
    """
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _decode_opened(image, data, max_pixels)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise UnsupportedImageError(f"not an image in a format that is read here ({known})") from None
    except Image.DecompressionBombError:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))  # Pillow has a limit of its own
        raise ImageTooLargeError(f"the image has more than the {limit} pixels allowed") from None
    except _DAMAGE as error:
        raise UnreadableImageError(f"the image is damaged: {error}") from None


def _silence_pillow() -> None:
    """Ignore Pillow's warnings about sizes and metadata from now on; the limits here are our own.

    `warnings.catch_warnings` would change the filters of every thread and put them back while others still decode.
    """
    if warnings.filters[0] != _PILLOW_FILTER:
        warnings.filterwarnings("ignore", module=_PILLOW)


def _decode_opened(image: Image.Image, data: bytes, max_pixels: int) -> Pixels:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width} x {height} pixels; at most {max_pixels} in all are allowed")
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        try:
            pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
        except ValueError:
            pass  # Pillow decides whether it is only a harmless oddity
        else:
            return _upright(pixels, _orientation(image))
    image.load()
    pixels = np.asarray(_to_rgb(image), dtype=np.uint8)
    return _upright(pixels, _orientation(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float: stretch the full 16-bit range to 8 bits
        values = np.asarray(image, dtype=np.float64)
        scale = 1 / 257 if values.max(initial=0) > 255 else 1.0
        grey = np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or metadata that are damaged: the pixels still count."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1
    return int(value) if value in range(1, 9) else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (1 to 8), as `ImageOps.exif_transpose` does."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 7, 6):
        pixels = pixels[:, ::-1]
    if orientation in (4, 3, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@lru_cache(maxsize=8)
def _levels(spec: PreprocessSpec) -> NDArray[np.float32]:
    """The normalised value of each of the 256 levels per channel, float32 [3, 256]."""
    level = np.arange(256, dtype=np.float64) / 255
    mean, std = (np.asarray(values, dtype=np.float64)[:, None] for values in (spec.mean, spec.std))
    return ((level - mean) / std).astype(np.float32)


def to_input(pixels: Pixels, spec: PreprocessSpec) -> NDArray[np.float32]:
    """Resize, crop and normalise decoded pixels.

    Args:
        pixels: uint8 [H, W, 3].
        spec: the backbone's preprocessing.

    Returns:
        float32 [3, S, S].
    """
    height, width = pixels.shape[:2]
    side = min(height, width) * spec.size / spec.resize
    left, top = (width - side) / 2, (height - side) / 2
    square = Image.fromarray(pixels).resize(
        (spec.size, spec.size), _RESAMPLING[spec.interpolation], box=(left, top, left + side, top + side)
    )
    square_SSC = np.asarray(square)
    levels = _levels(spec)
    return np.stack([levels[c][square_SSC[:, :, c]] for c in range(3)])


def preprocess(data: bytes, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.float32]:
    """Image bytes to one network input, float32 [3, S, S]; raises what :func:`decode_image` raises."""
    return to_input(decode_image(data, max_pixels=max_pixels), spec)

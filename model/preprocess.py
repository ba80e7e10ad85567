"""Image bytes to network input: the one function that training and serving share, byte for byte.

H, W: height and width in pixels; S: the network's input side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import DataError
from model.images.failures import memory_named
from model.images.raster import BAND, MOST_WHOLE_PIXELS, Pixels, Raster
from model.images.reading import DEFAULT_MAX_PIXELS, FORMATS, decode_image, read_image

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "Pixels",
    "PreprocessSpec",
    "decode_image",
    "preprocess",
    "raster_input",
    "to_input",
]

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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
    return raster_input(Raster(stored=pixels), spec)


def raster_input(raster: Raster, spec: PreprocessSpec) -> NDArray[np.float32]:
    """As :func:`to_input`, for pixels that are not laid out yet; ImageTooLargeError where memory runs out."""
    with memory_named():
        return _input(raster, spec)


def _input(raster: Raster, spec: PreprocessSpec) -> NDArray[np.float32]:
    height, width = raster.size
    side = min(height, width) * spec.size / spec.resize
    left, top = (width - side) / 2, (height - side) / 2
    box, filter_ = (left, top, left + side, top + side), _RESAMPLING[spec.interpolation]
    if height * width <= MOST_WHOLE_PIXELS:
        square = Image.fromarray(raster.rows(0, height)).resize((spec.size, spec.size), filter_, box=box)
    else:
        square = _narrow(raster, spec, box).resize((spec.size, spec.size), filter_, box=(0, top, spec.size, box[3]))
    square_SSC = np.asarray(square)
    levels = _levels(spec)
    return np.stack([levels[c][square_SSC[:, :, c]] for c in range(3)])


def _narrow(raster: Raster, spec: PreprocessSpec, box: tuple[float, float, float, float]) -> Image.Image:
    """An image resized across only: as many rows as it has, of which those that the crop needs are filled.

    Pillow resizes across and then down in the same way (down first only where an image is about twice as high as
    wide). Done in bands, a large image need not be copied whole.
    """
    height, width = raster.size
    left, top, right, bottom = box
    narrow = Image.new("RGB", (spec.size, height))
    margin = 2 * math.ceil((bottom - top) / spec.size) + 2  # rows beyond the crop that the filters reach
    last = min(height, math.ceil(bottom) + margin)
    step = max(1, BAND // width)
    for first in range(max(0, math.floor(top) - margin), last, step):
        band = Image.fromarray(raster.rows(first, min(first + step, last)))
        size = (spec.size, band.height)
        narrow.paste(band.resize(size, _RESAMPLING[spec.interpolation], box=(left, 0, right, band.height)), (0, first))
    return narrow


def preprocess(data: bytes, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.float32]:
    """Image bytes to one network input, float32 [3, S, S]; raises what `model.images.reading.read_image` raises."""
    return raster_input(read_image(data, max_pixels=max_pixels), spec)

"""Grey pixels of 16 bits, 32 bits and floats as 8 bits: scaled by the type they are stored in, never by what they hold.

H, W: height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from model.errors import UnreadableImageError
from model.images.raster import BAND

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED, _SIGNED = 1, 2
_WHITE_IS_ZERO = 0

# Pillow reads this one of little-endian files only.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


@dataclass(frozen=True, kw_only=True)
class GreyScale:
    """How the numbers of a grey image are stored.

    Attributes:
        white: the number that is white, or black where `inverted`.
        inverted: 0 is white.
        transparent: the number that stands for nothing; None where there is none.
    """

    white: float
    inverted: bool = False
    transparent: int | None = None


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def check_sample_type(image: Image.Image) -> None:
    """Raise UnreadableImageError where the stored type has no known range."""
    tags = _tags(image)
    if tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _SIGNED:
        raise UnreadableImageError(
            f"the image holds signed integers of {_bits(image)} bits, which have no known black and white; "
            "expected unsigned integers, or floats from 0 to 1"
        )


def grey_scale(image: Image.Image) -> GreyScale:
    """How the numbers of a deep grey image are stored, by its header."""
    transparent = image.info.get("transparency")
    if image.format != "TIFF":  # PNG of 16 bits; PPM, whose numbers Pillow brings to 16 bits; PFM
        white = 1.0 if image.mode == "F" else 65535.0
        return GreyScale(white=white, transparent=transparent if isinstance(transparent, int) else None)
    inverted = _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return GreyScale(white=1.0 if image.mode == "F" else float(2 ** _bits(image) - 1), inverted=inverted)


def eight_bits(image: Image.Image, scale: GreyScale) -> NDArray[np.uint8]:
    """The pixels of a loaded deep grey image on the scale 0 to 255, transparent ones white.

    Args:
        image: with one channel.
        scale: see :func:`grey_scale`.

    Returns:
        uint8 [H, W].

    Raises:
        UnreadableImageError: a float is not finite or not from 0 to 1.
    """
    width, height = image.size
    grey = np.empty((height, width), dtype=np.uint8)
    table = _levels(np.arange(1 << 16, dtype=np.uint16), scale) if 1 < scale.white < 1 << 16 else None
    for top, bottom in _bands(width, height):
        stored = np.asarray(image.crop((0, top, width, bottom)))
        if image.mode == "F":
            _check_floats(stored)
        elif table is None:
            stored = stored.view(np.uint32)  # Pillow keeps them as signed
        grey[top:bottom] = _levels(stored, scale) if table is None else table[stored]
    return grey


def _levels(stored: NDArray[Any], scale: GreyScale) -> NDArray[np.uint8]:
    """The level of each number, uint8 of the same shape."""
    levels = np.rint(stored * (255 / scale.white)).clip(0, 255)
    if scale.inverted:
        levels = 255 - levels
    if scale.transparent is not None:
        levels[stored == scale.transparent] = 255
    return levels.astype(np.uint8)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return getattr(image, "tag_v2", {})


def _bits(image: Image.Image) -> int:
    return int(_tags(image).get(_BITS, (16,))[0])


def _check_floats(stored: NDArray[np.float32]) -> None:
    if not np.isfinite(stored).all():
        raise UnreadableImageError("the image holds floats that are not finite; expected floats from 0 to 1")
    least, most = float(stored.min(initial=0)), float(stored.max(initial=0))
    if round(255 * least) < 0 or round(255 * most) > 255:
        raise UnreadableImageError(
            f"the image holds floats from {least:.6g} to {most:.6g}, whose black and white are not known; "
            "expected floats from 0 to 1"
        )


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BAND // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))

"""One image file to a network input."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from model.errors import ImageTooLargeError
from model.head import Float32
from model.images.cost import Cost
from model.images.reading import read_image
from model.preprocess import PreprocessSpec, raster_input


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An image ready for the model: float32 [3, S, S], with the size it was sent in (upright).

    `warnings` are sentences about what was wrong with the file and did no harm.
    """

    image: Float32
    width: int
    height: int
    warnings: tuple[str, ...] = ()


class PixelBudget:
    """Pixels that the images of one request may have in all; threads may share it.

    Args:
        pixels: how many.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = self._left = pixels
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Pixels that are not spent."""
        return self._left

    def spend(self, pixels: int) -> None:
        """Count the pixels of an image; ImageTooLargeError where not so many are left."""
        with self._lock:
            if pixels > self._left:
                raise ImageTooLargeError(
                    f"the image has {pixels} pixels, and those before it in the request left {self._left} of the "
                    f"{self._pixels} that its images may have in all"
                )
            self._left -= pixels


def decode(
    data: bytes,
    spec: PreprocessSpec,
    *,
    max_bytes: int,
    max_pixels: int,
    check: Callable[[Cost], object] = lambda _: None,
) -> Decoded:
    """Decode, resize and normalise one image file.

    Args:
        data: the file.
        spec: the bundle's preprocessing.
        max_bytes: largest file.
        max_pixels: largest width times height.
        check: told what it costs; see `model.images.reading.read_image`.

    Raises:
        ImageError: see `model.images.reading.read_image`; also for more than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise ImageTooLargeError(f"the image has {len(data)} bytes; at most {max_bytes} are allowed")
    raster = read_image(data, max_pixels=max_pixels, check=check)
    height, width = raster.size
    return Decoded(image=raster_input(raster, spec), width=width, height=height, warnings=raster.warnings)

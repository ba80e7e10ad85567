"""HEIF, which phones call HEIC: read by pillow-heif, where the extra `heic` has brought it.

It is no dependency of everybody: its wheels hold an encoder under the GPL, and its decoders have had holes in their
handling of memory. Everything here runs where it can be ended; see `first_look` in `model/images/cost.py`.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
from PIL import Image

from model.errors import UnreadableImageError, UnsupportedImageError
from model.images.raster import Pixels

_NEEDED = "the image is HEIF (HEIC), which is read here only with the extra `heic` (pip install 'd3gzsl[heic]')"


@cache
def heif_is_read() -> bool:
    """Whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


def load_heif_reader() -> None:
    """Import pillow-heif, where it is installed, and let one image use one thread: others are decoded beside it."""
    if heif_is_read():
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        for unused in ("THUMBNAILS", "DEPTH_IMAGES", "AUX_IMAGES"):
            setattr(pillow_heif.options, unused, False)


class HeifImage:
    """The primary image of a file, of which no pixel is decoded yet.

    Args:
        data: the file.

    Raises:
        UnsupportedImageError: pillow-heif is not installed.
        ValueError, RuntimeError and others of `model.images.failures.DAMAGE`: the file is damaged.
    """

    def __init__(self, data: bytes) -> None:
        if not heif_is_read():
            raise UnsupportedImageError(f"{_NEEDED}; as a JPEG it is always read")
        load_heif_reader()
        import pillow_heif

        file = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
        if not len(file):
            raise UnreadableImageError("the image is damaged: the file holds no image")
        self._primary = file[file.primary_index]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        width, height = self._primary.size
        return int(width), int(height)

    def decoded(self) -> Pixels | Image.Image:
        """The pixels, upright as the file says (not as its EXIF says): uint8 [H, W, 3 or 1], or with alpha an image."""
        if self._primary.mode not in ("RGB", "L"):
            return self._primary.to_pillow()
        data, (width, height) = self._primary.data, self.size
        channels = len(self._primary.mode)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(height, -1)[:, : width * channels]
        return rows.reshape(height, width, channels)

"""Decoded pixels as upright RGB, given out some rows at a time: a large image never lies in memory twice.

H, W: height and width in pixels, upright.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.failures import damage_named

BAND = 1 << 20
"""Pixels that are converted at a time."""

MOST_WHOLE_PIXELS = 16_000_000
"""Of an image that is resized in one piece; a larger one is so in bands."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Raster:
    """An image whose pixels are decoded.

    Attributes:
        stored: uint8 [rows, columns, 3 or 1], or an image of Pillow's; as the file has it, not yet upright.
        orientation: 1 to 8, as EXIF counts.
        warnings: what was wrong with the file and did no harm.
    """

    stored: Pixels | Image.Image
    orientation: int = 1
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        rows, columns = self._stored_size()
        return (columns, rows) if self.orientation >= 5 else (rows, columns)

    def _stored_size(self) -> tuple[int, int]:
        if isinstance(self.stored, Image.Image):
            columns, rows = self.stored.size
            return rows, columns
        return self.stored.shape[0], self.stored.shape[1]

    def rows(self, first: int, last: int) -> Pixels:
        """Rows `first` to before `last` of the upright image, uint8 [last - first, W, 3], C-contiguous."""
        rows, columns = self._stored_size()
        if self.orientation in (3, 4, 7, 8):  # stored from the last one to the first
            height = self.size[0]
            first, last = height - last, height - first
        if self.orientation >= 5:
            pixels = self._block(0, rows, first, last).transpose(1, 0, 2)
        else:
            pixels = self._block(first, last, 0, columns)
        if self.orientation in (2, 3, 6, 7):
            pixels = pixels[:, ::-1]
        if self.orientation in (3, 4, 7, 8):
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)

    def _block(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """A part of the stored image as RGB, uint8 [bottom - top, right - left, 3]."""
        if isinstance(self.stored, Image.Image):
            block = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
            step = max(1, BAND // (right - left))
            for first in range(top, bottom, step):
                last = min(first + step, bottom)
                with damage_named():  # a palette that is not there shows only now
                    block[first - top : last - top] = np.asarray(_to_rgb(self.stored.crop((left, first, right, last))))
            return block
        block = self.stored[top:bottom, left:right]
        return block if block.shape[2] == 3 else np.broadcast_to(block, (*block.shape[:2], 3))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image.convert("RGB")

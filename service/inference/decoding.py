"""Image files to network inputs, in as many threads as there are CPUs to use, before anything is queued."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from model.errors import ImageTooLargeError
from model.head import Float32
from model.preprocess import PreprocessSpec, decode_image, to_input


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An image ready for the model: float32 [3, S, S], with the size it was sent in (upright)."""

    image: Float32
    width: int
    height: int


def decode(data: bytes, spec: PreprocessSpec, *, max_bytes: int, max_pixels: int) -> Decoded:
    """Decode, resize and normalise one image file.

    Raises:
        ImageError: see `model.preprocess.decode_image`; also for more than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise ImageTooLargeError(f"the image has {len(data)} bytes; at most {max_bytes} are allowed")
    pixels = decode_image(data, max_pixels=max_pixels)
    return Decoded(image=to_input(pixels, spec), width=pixels.shape[1], height=pixels.shape[0])


class Decoder:
    """Decodes in a bounded pool of threads; what a request waits for is dropped when the request is.

    Args:
        spec: the bundle's preprocessing.
        max_bytes: largest file.
        max_pixels: largest width times height.
        threads: size of the pool.
    """

    def __init__(self, spec: PreprocessSpec, *, max_bytes: int, max_pixels: int, threads: int) -> None:
        self._spec, self._max_bytes, self._max_pixels = spec, max_bytes, max_pixels
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._warm_up()

    async def __call__(self, data: bytes) -> Decoded:
        """Decode one file; raises what :func:`decode` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data)

    def _warm_up(self) -> None:
        """Decode an image of one pixel: the first one that is sent need not wait for the readers of files."""
        pixel = io.BytesIO()
        Image.new("RGB", (1, 1)).save(pixel, "JPEG")
        decode(pixel.getvalue(), self._spec, max_bytes=pixel.tell(), max_pixels=1)

    def _decode(self, data: bytes) -> Decoded:
        return decode(data, self._spec, max_bytes=self._max_bytes, max_pixels=self._max_pixels)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=True, cancel_futures=True)

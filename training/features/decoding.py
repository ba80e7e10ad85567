"""Images of a data folder, decoded ahead in parallel.

n: images of a batch that could be read, S: input side.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import ImageError
from model.preprocess import PreprocessSpec, preprocess
from training.features.store import ImageFile, ImageRecord, SkippedImage

_AHEAD = 2  # batches decoded ahead of the network: enough to keep it busy, little enough to bound memory


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedBatch:
    """Consecutive images of a list, those that could be read and those that could not.

    Attributes:
        images: the n readable images.
        pixels: their network input, float32 [n, 3, S, S].
        skipped: the others.
    """

    images: tuple[ImageRecord, ...]
    pixels: NDArray[np.float32]
    skipped: tuple[SkippedImage, ...]

    def __len__(self) -> int:
        return len(self.images) + len(self.skipped)


def image_file(root: Path, path: str) -> ImageFile:
    """An image's size and time; -1 each where there is no file behind the name, as with a broken link."""
    try:
        stat = (root / path).stat()
    except OSError:
        return ImageFile(path=path, size=-1, mtime_ns=-1)
    return ImageFile(path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def decoded_batches(
    root: Path, files: Sequence[ImageFile], spec: PreprocessSpec, *, batch_size: int, workers: int
) -> Iterator[DecodedBatch]:
    """Read, decode and preprocess images in parallel, in order.

    Args:
        root: the folder that the paths are relative to.
        files: the images.
        spec: the backbone's preprocessing.
        batch_size: files per batch; the last one may have fewer.
        workers: threads; decoding and resizing release Python's lock.
    """
    batches = (files[start : start + batch_size] for start in range(0, len(files), batch_size))
    waiting: deque[list[Future[_Decoded]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:

        def submit(count: int) -> None:
            for batch in islice(batches, count):
                waiting.append([pool.submit(_decode, root, file, spec) for file in batch])

        try:
            submit(_AHEAD + 1)
            while waiting:
                yield _batch([future.result() for future in waiting.popleft()], spec)
                submit(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_Decoded = tuple[ImageRecord, NDArray[np.float32]] | SkippedImage


def _decode(root: Path, file: ImageFile, spec: PreprocessSpec) -> _Decoded:
    try:
        content = (root / file.path).read_bytes()
        pixels = preprocess(content, spec)
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return SkippedImage(**asdict(file), reason=reason)
    return ImageRecord(**asdict(file), sha256=hashlib.sha256(content).hexdigest()), pixels


def _batch(decoded: Sequence[_Decoded], spec: PreprocessSpec) -> DecodedBatch:
    readable = [item for item in decoded if isinstance(item, tuple)]
    pixels = np.empty((len(readable), 3, spec.size, spec.size), dtype=np.float32)
    for place, (_, image) in enumerate(readable):
        pixels[place] = image
    return DecodedBatch(
        images=tuple(record for record, _ in readable),
        pixels=pixels,
        skipped=tuple(item for item in decoded if isinstance(item, SkippedImage)),
    )

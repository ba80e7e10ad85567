"""Features of earlier work that still belong to the files as they are now.

N: images; D: features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.features.store import ImageFile, ImageRecord, SkippedImage

_CHUNK = 4096  # rows copied together, so that gathering needs little memory


@dataclass(frozen=True)
class _Place:
    image: ImageRecord
    source: int
    row: int


class KnownRows:
    """Where the features of each image lie: in an old store, or in the journal of this extraction.

    Attributes:
        skipped: images known to be unreadable, by path.
    """

    def __init__(self, root: Path, files: Mapping[str, ImageFile]) -> None:
        self.skipped: dict[str, SkippedImage] = {}
        self._root = root
        self._files = files
        self._places: dict[str, _Place] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._places

    def image(self, path: str) -> ImageRecord:
        """The record of a known image, with its present time."""
        return self._places[path].image

    def add(self, source: int, images: Sequence[ImageRecord], skipped: Iterable[SkippedImage], start: int = 0) -> None:
        """Take over what still holds from rows `start` and on of a source; a later source goes before an earlier."""
        for row, image in enumerate(images[start:], start):
            present = self._present(image)
            if present is not None:
                self._places[image.path] = _Place(present, source, row)
        self.skipped |= {s.path: s for s in skipped if _same_stat(s, self._files.get(s.path))}

    def gather(self, paths: Sequence[str], sources: Sequence[NDArray[np.float32]], into: NDArray[np.float32]) -> None:
        """Copy the rows of `paths` from their sources, each [., D], into an array [N, D]."""
        for start in range(0, len(paths), _CHUNK):
            places = [self._places[path] for path in paths[start : start + _CHUNK]]
            for number, source in enumerate(sources):
                here = [i for i, place in enumerate(places) if place.source == number]
                if here:
                    into[[start + i for i in here]] = source[[places[i].row for i in here]]

    def _present(self, image: ImageRecord) -> ImageRecord | None:
        """The record with its file's present time, if the file still has the bytes it had."""
        file = self._files.get(image.path)
        if file is None or file.size != image.size:
            return None
        if _same_stat(image, file):
            return image
        try:
            digest = hashlib.sha256((self._root / image.path).read_bytes()).hexdigest()
        except OSError:
            return None
        return ImageRecord(**asdict(file), sha256=digest) if digest == image.sha256 else None


def _same_stat(image: ImageFile, file: ImageFile | None) -> bool:
    return file is not None and (image.size, image.mtime_ns) == (file.size, file.mtime_ns)

"""Features that are there already: the journal of a killed extraction, and rows of files that have not changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError
from training.features.backbone import Backbone
from training.features.store import SCHEMA, ImageFile, ImageRecord, SkippedImage, refuse_stale
from training.files import exclusive

_LINES = "journal.jsonl"
_ROWS = "rows.f32"
_LOCK = "lock"
_FLOAT = 4  # bytes


class FeatureJournal:
    """An unfinished extraction; a context manager that holds the folder's lock.

    Attributes:
        folder: where it lies.
        images: the images done, in the order of their rows.
        skipped: the unreadable images found.
        finished: set by the owner once the work has gone into a store, so that closing deletes the folder.
    """

    def __init__(self, folder: Path, backbone: Backbone, *, discard_other: bool = False) -> None:
        """Open the journal in `folder`, or begin one.

        Args:
            folder: created where it does not exist.
            backbone: whose features are extracted.
            discard_other: drop the work of another backbone instead of refusing.

        Raises:
            DataError: another process holds the lock, or the work found is of another backbone.
        """
        self.folder = folder
        self.images: list[ImageRecord] = []
        self.skipped: list[SkippedImage] = []
        self.finished = False
        self._dim = backbone.feature_dim
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = exclusive(folder / _LOCK, f"{folder}: another extraction into the same store is running")
        try:
            good = self._read(backbone, discard_other=discard_other)
            self._lines = (folder / _LINES).open("ab")
            self._rows = (folder / _ROWS).open("ab")
            self._lines.truncate(good)
            self._rows.truncate(len(self.images) * self._dim * _FLOAT)
            if good == 0:
                self._write_line(_key(backbone))
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> FeatureJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, images: Sequence[ImageRecord], rows: NDArray[np.float32], skipped: Sequence[SkippedImage]) -> None:
        """Add one batch: its images, their rows float32 [n, D], and what could not be read."""
        self._rows.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self._write_line({"images": [asdict(i) for i in images], "skipped": [asdict(s) for s in skipped]})
        self.images += images
        self.skipped += skipped

    def rows(self) -> NDArray[np.float32]:
        """The rows of `images`, float32 [n, D], read from disk as they are used."""
        shape = (len(self.images), self._dim)
        if not self.images:
            return np.empty(shape, dtype=np.float32)
        return np.memmap(self.folder / _ROWS, dtype="<f4", mode="r", shape=shape)

    def close(self) -> None:
        """Delete the folder if the work is finished or there is none, and release the lock."""
        self._lines.close()
        self._rows.close()
        if self.finished or not self.images:
            shutil.rmtree(self.folder)
        self._lock.release()

    def _write_line(self, fields: dict[str, Any]) -> None:
        self._lines.write(json.dumps(fields).encode() + b"\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())

    def _read(self, backbone: Backbone, *, discard_other: bool) -> int:
        """Read what is there; returns the length in bytes of the lines that count."""
        path = self.folder / _LINES
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # the last piece is no whole line
        key = _decode(lines[0]) if lines else None
        if key is None:
            return 0
        try:
            _refuse_other(self.folder, key, backbone)
        except DataError as error:
            if discard_other:
                return 0
            raise DataError(f"{error}; give another --out, or --overwrite to drop this unfinished work") from None
        on_disk = (self.folder / _ROWS).stat().st_size // (self._dim * _FLOAT) if (self.folder / _ROWS).exists() else 0
        good = len(lines[0]) + 1
        for line in lines[1:]:
            fields = _decode(line)
            if fields is None or len(self.images) + len(fields["images"]) > on_disk:
                break
            self.images += [ImageRecord(**image) for image in fields["images"]]
            self.skipped += [SkippedImage(**image) for image in fields["skipped"]]
            good += len(line) + 1
        return good


def _key(backbone: Backbone) -> dict[str, Any]:
    return {"schema": SCHEMA, "fingerprint": backbone.fingerprint, "preprocessing": backbone.spec.to_json()}


def _refuse_other(folder: Path, key: dict[str, Any], backbone: Backbone) -> None:
    if key.get("schema") != SCHEMA:
        raise DataError(f"{folder}: unfinished work of schema {key.get('schema')!r}, expected {SCHEMA!r}")
    refuse_stale(folder, key["fingerprint"], key["preprocessing"], backbone)


def _decode(line: bytes) -> dict[str, Any] | None:
    """A line's object; None where a power cut left something else."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


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

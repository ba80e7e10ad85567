"""The files of a folder, written down once, so that a run that goes on finds the same ones in the same order."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from model.errors import DataError


def files_under(root: Path, *, leave_out: Collection[Path] = ()) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with forward slashes, folder by folder in the order of names.

    Names that begin with a dot are passed over, as are pipes and devices. Links to files are followed, those to folders
    are not; a link to nothing counts as a file, which cannot be read.

    Args:
        root: the folder, absolute.
        leave_out: absolute paths of files and folders that do not count.

    Raises:
        DataError: a folder cannot be read.
    """
    skipped = {str(path) for path in leave_out}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as found:
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise DataError(f"{printable(str(root / folder))}: cannot be read: {error.strerror}") from None
        entries = [entry for entry in entries if entry.path not in skipped]
        for entry in entries:
            if entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
                yield folder + entry.name
        waiting += [f"{folder}{entry.name}/" for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def write_listing(file: Path, paths: Iterator[str], *, part_size: int) -> tuple[int, list[int]]:
    """Write paths as lines of JSON; returns their number, and the offset in bytes at which each part begins."""
    count, offsets = 0, []
    with file.open("wb") as stream:
        for path in paths:
            if count % part_size == 0:
                offsets.append(stream.tell())
            stream.write(json.dumps(path).encode() + b"\n")
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return count, offsets


def read_part(file: Path, offset: int, part_size: int) -> list[str]:
    """The paths of the part that begins at an offset."""
    with file.open("rb") as stream:
        stream.seek(offset)
        return [json.loads(line) for _, line in zip(range(part_size), stream, strict=False)]


def printable(path: str) -> str:
    """A path as text that every program can hold: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

"""Files that are whole or not there, and on the disk when they are said to be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def renamed(file: Path) -> Iterator[Path]:
    """A place beside a file to write to, synced and renamed to it at the end; removed if anything fails."""
    beside = file.with_name(f"{file.name}.partial")
    try:
        yield beside
        _sync(beside)
        beside.replace(file)
        _sync(file.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files and folders that are whole or not there, on the disk when they are said to be, and written by one process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from model.errors import DataError


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


def write_json(file: Path, fields: Mapping[str, Any]) -> None:
    """Write JSON beside a file, then rename."""
    with renamed(file) as beside:
        beside.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def move_into_place(new: Path, path: Path) -> None:
    """Put a finished folder where it belongs; one that is there is replaced only by a whole one.

    A folder cannot replace another in one step, so the old one is set aside first. :func:`undo_half_move` mends what
    a kill between the two steps leaves.
    """
    aside = _aside(path)
    if aside.exists():
        shutil.rmtree(aside)
    if path.exists():
        path.rename(aside)
    new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def undo_half_move(path: Path) -> None:
    """Bring back a folder that :func:`move_into_place` had set aside when it was killed."""
    aside = _aside(path)
    if aside.exists() and not path.exists():
        aside.rename(path)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.replaced.partial")


def exclusive(file: Path, busy: str) -> FileLock:
    """A lock that this process holds from here on, until it is released or the process ends.

    Raises:
        DataError: another process holds it; says `busy`.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(busy) from None
    return lock

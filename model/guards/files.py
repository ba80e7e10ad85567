"""Files of a stranger: only plain ones, only those that are listed, none larger than it may be."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from model.errors import BundleError

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,7}")


def check_listed(root: Path, name: str, *, limit: int) -> None:
    """Refuse a listed file that is not a plain file of the directory, or has more bytes than `limit`.

    Raises:
        BundleError: says what it is.
    """
    if "\0" in name or not _inside(root, root / name):
        raise BundleError(f"{root}: the manifest lists {name!r}, which lies outside the bundle")
    if not _PLAIN.fullmatch(name):
        raise BundleError(f"{root}: the manifest lists {name!r}; expected a path like examples/zebra-1.jpg")
    try:
        found = (root / name).lstat()
    except OSError:
        raise BundleError(f"{root}: {name} is missing") from None
    if stat.S_ISLNK(found.st_mode):
        raise BundleError(f"{root}: {name} is a symbolic link; expected a plain file")
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{root}: {name} is missing: what has its name is no plain file")
    if found.st_size > limit:
        raise BundleError(f"{root}: {name} has {found.st_size} bytes; at most {limit} are allowed")


def check_nothing_else(root: Path, listed: Collection[str]) -> None:
    """Refuse a directory that holds anything but plain files that are listed and the directories on their way.

    Raises:
        BundleError: names the first that is not listed, and every symbolic link or special file.
    """
    wanted = set(listed)
    ways = {parent for name in wanted for parent in _parents(name)}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}".removeprefix("/")
                if entry.is_symlink():
                    raise BundleError(f"{root}: {name!r} is a symbolic link; a bundle holds plain files only")
                if name in ways and entry.is_dir():
                    waiting.append(name)
                elif name not in wanted or not entry.is_file():
                    raise BundleError(
                        f"{root}: {name!r} is not listed in the manifest; nothing else may lie in a bundle"
                    )


def read_plain(file: Path, *, limit: int) -> bytes:
    """The bytes of a plain file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is a link or something special, or has more bytes than `limit`.
    """
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("expected a plain file, got a link, a directory or something special")
    with file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"expected at most {limit} bytes, got {found.st_size}")
    return data


def _inside(root: Path, file: Path) -> bool:
    real = os.path.realpath(root)  # unlike Path.resolve it takes links that lead in a circle
    return os.path.commonpath([real, os.path.realpath(file)]) == real


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]

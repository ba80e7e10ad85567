"""What file managers, servers and archivers leave in folders of photos, which nobody means."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from model.errors import DataError

_LEFT_BEHIND = {
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "@eadir",  # Synology
    "#recycle",
    "#snapshot",
    "@recycle",  # QNAP
    "@tmp",
    "__macosx",  # unpacked from a zip archive of macOS
    "icon\r",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}


def printable(path: str) -> str:
    """A path as text that every program can hold: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is passed over: its name begins with a dot, or a desktop or server put it there."""
    return name.startswith((".", "~$")) or name.lower() in _LEFT_BEHIND


def files_under(root: Path, *, leave_out: Collection[Path] = ()) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with forward slashes, folder by folder in the order of names.

    Names that begin with a dot are passed over, and so are files and folders that desktops leave behind, pipes and
    devices. Links to files are followed, those to folders are not; a link to nothing counts as a file, which cannot be
    read.

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
                entries = sorted((entry for entry in found if not is_left_behind(entry.name)), key=lambda e: e.name)
        except OSError as error:
            raise DataError(f"{printable(str(root / folder))}: cannot be read: {error.strerror}") from None
        entries = [entry for entry in entries if entry.path not in skipped]
        for entry in entries:
            if entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
                yield folder + entry.name
        waiting += [f"{folder}{entry.name}/" for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]

"""What file managers, servers and archivers leave in folders of photos, which nobody means."""

from __future__ import annotations

import os

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

"""Disks that are small, full, or turn read-only in use; tests that may not mount one are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_FILLER = "filler"


def _run(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """A file system in memory of a size such as `4m`, at a folder that is made."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs to mount a file system: {error.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        _run("umount", "--lazy", folder)


def fill(disk: Path) -> None:
    """Leave no byte on a disk."""
    with (disk / _FILLER).open("ab", buffering=0) as filler:
        for size in (1 << 20, 1 << 16, 4096, 1):
            with suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass


def make_room(disk: Path) -> None:
    """Undo :func:`fill`."""
    (disk / _FILLER).unlink()


class Ext4:
    """A disk with ext4 in a file, which turns read-only at its first error, as disks of servers do.

    Args:
        folder: where it is mounted; made.
        image: the file; made.
    """

    def __init__(self, folder: Path, image: Path) -> None:
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or shutil.which("losetup") is None:
            pytest.skip("needs root, mkfs.ext4 and losetup to make a disk that turns read-only")
        self.folder, self._image = folder, image
        folder.mkdir()
        with image.open("wb") as stream:
            stream.truncate(32 << 20)
        _run("mkfs.ext4", "-q", image)

    def mount(self, *, options: str = "rw") -> None:
        """Mount it; skips the test where that is not allowed."""
        try:
            _run("mount", "-o", f"loop,errors=remount-ro,{options}", self._image, self.folder)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs to mount a file as a disk: {error.stderr.decode().strip()}")

    def fail(self) -> None:
        """Have the kernel find an error on it, so that it turns read-only under whoever uses it."""
        device = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", self.folder], check=True, capture_output=True, text=True
        ).stdout.strip()
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1")

    def repair(self) -> None:
        """Find and mend what is wrong on it, while nobody uses it."""
        self.umount()
        repaired = subprocess.run(["e2fsck", "-fy", self._image], check=False, capture_output=True, text=True)
        assert repaired.returncode in (0, 1), repaired.stdout

    def umount(self) -> None:
        """Take it away; nothing where it is not mounted."""
        subprocess.run(["umount", self.folder], check=False, capture_output=True)

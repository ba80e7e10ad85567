"""Files out of a zip archive that came from elsewhere: only the wanted ones, whole, and never outside their folder."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from model.errors import DataError
from training.datasets.matfile import first

_CHUNK = 1 << 20
_LARGEST = 4 << 30  # bytes of one file; the largest benchmark's features have 611 MB as float64

Progress = Callable[[int, int], None]


def check_zip(archive: Path) -> None:
    """Raise a DataError unless the file begins and ends as a zip archive does."""
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise DataError(f"{archive}: expected a whole zip archive, found something else or a part: {error}") from None


def unpack(archive: Path, folder: str, names: Sequence[str], out: Path, *, progress: Progress) -> None:
    """Copy files of one folder of the archive, wherever in the archive that folder is.

    What the archive calls its files decides what is copied, never where it is written.

    Args:
        archive: a zip file.
        folder: name of the folder in the archive that holds the files.
        names: the files to copy.
        out: existing folder that they are written to.
        progress: called with bytes copied and bytes in all.

    Raises:
        DataError: the archive is damaged, lacks a file or holds one twice, or a file is encrypted or beyond 4 GiB.
    """
    check_zip(archive)
    with zipfile.ZipFile(archive) as opened:
        members = [_member(opened, archive, folder, name) for name in names]
        total, copied = sum(member.file_size for member in members), 0
        for name, member in zip(names, members, strict=True):
            try:
                with opened.open(member) as source, (out / name).open("wb") as target:
                    while chunk := source.read(_CHUNK):  # never more than the size that the archive states
                        target.write(chunk)
                        copied += len(chunk)
                        progress(copied, total)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise DataError(f"{archive}, {member.filename}: damaged or cut short: {error}") from None
            except OSError as error:  # no space left: Python does not say in which file
                raise DataError(f"{out / name}: {error.strerror or error}") from None


def _member(opened: zipfile.ZipFile, archive: Path, folder: str, name: str) -> zipfile.ZipInfo:
    found = [m for m in opened.infolist() if PurePosixPath(m.filename).parts[-2:] == (folder, name)]
    if len(found) != 1:
        there = ", ".join(member.filename for member in found) or first(opened.namelist()) or "an empty archive"
        raise DataError(f"{archive}: expected one file {folder}/{name}, found {there}")
    (member,) = found
    if member.flag_bits & 1:
        raise DataError(f"{archive}, {member.filename}: expected a file without a password, found an encrypted one")
    if member.file_size > _LARGEST:
        raise DataError(f"{archive}, {member.filename}: expected at most 4 GiB, found {member.file_size} bytes")
    return member

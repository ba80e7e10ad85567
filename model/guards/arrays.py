"""Arrays of a stranger: type and shape are known before the first number is read, and nothing is inflated.

A `.npz` is a zip of `.npy` files. Ours are stored, not compressed, so that none is larger in memory than on disk.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from model.errors import BundleError

Shape = tuple[int | None, ...]
"""Sizes of the axes; None for any."""

_MOST_MEMBERS = 64
_UNREADABLE = (
    OSError, ValueError, TypeError, EOFError, NotImplementedError, RuntimeError, MemoryError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def read_arrays(file: Path, expected: Mapping[str, Shape]) -> dict[str, NDArray[np.float32]]:
    """Float32 arrays of a `.npz`, by name.

    Args:
        file: the archive.
        expected: names with shapes; of other members only the headers are read.

    Raises:
        BundleError: one is missing, compressed, of another type or shape, or holds values that are not finite.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive)
            return {name: _read(archive, file.name, name, shape) for name, shape in expected.items()}
    except _UNREADABLE as error:
        raise BundleError(f"{file.name} cannot be read: {error}") from None


def _check_members(archive: zipfile.ZipFile) -> None:
    if len(archive.infolist()) > _MOST_MEMBERS:
        raise ValueError(f"expected at most {_MOST_MEMBERS} arrays, got {len(archive.infolist())}")
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{info.filename!r} is compressed; expected arrays stored as they are")
        with archive.open(info) as member:
            _header(member)


def _read(archive: zipfile.ZipFile, file: str, name: str, shape: Shape) -> NDArray[np.float32]:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise BundleError(f"{file}: the array {name!r} is missing") from None
    with archive.open(info) as member:
        found, fortran, dtype = _header(member)
        fits = len(found) == len(shape) and all(want in (None, got) for want, got in zip(shape, found, strict=True))
        if dtype != np.float32 or not fits:
            wanted = "x".join("?" if size is None else str(size) for size in shape)
            raise BundleError(f"{file}: {name} must be float32 {wanted}, got {dtype} {found}")
        size = math.prod(found) * dtype.itemsize
        data = member.read(size + 1)  # one more shows that there are too many, and has the checksum compared
    if len(data) != size:
        raise BundleError(f"{file}: {name} must have {size} bytes, got {'more' if len(data) > size else len(data)}")
    array: NDArray[np.float32] = np.frombuffer(data, dtype=np.float32).reshape(found, order="F" if fortran else "C")
    if not np.isfinite(array).all():
        raise BundleError(f"{file}: {name} holds values that are not finite")
    return np.array(array, order="C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"arrays in the format {version} are not read")
    if dtype.hasobject:
        raise ValueError("arrays of Python objects are not read")
    return shape, fortran, dtype

"""Download a file, checked by its sha256, whole or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import httpx

from model.errors import DataError

_TIMEOUT = httpx.Timeout(30.0)  # seconds without a byte, not for the whole file
_CHUNK = 1 << 20
_PREFIX_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z0-9]+$")

Progress = Callable[[int, int | None], None]


def download(url: str, path: Path, *, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch a file unless it is there with the right checksum.

    Bytes go into `<path>.partial`, which becomes `path` once the checksum is right.

    Args:
        url: http or https.
        path: where the file goes; folders are created.
        sha256: hexadecimal digits, all 64 or the first 8 or more; by default those at the end of the URL's file name,
            as in `resnet101-63fe2227.pth`.
        progress: called with bytes received and bytes in all, None where the server does not say.

    Returns:
        `path`.

    Raises:
        DataError: no checksum is known, the server cannot be reached or refuses, or the checksum is another one.
    """
    wanted = _wanted(url, sha256)
    if path.is_file() and _digest(path).startswith(wanted):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        digest = _fetch(url, partial, progress)
        if not digest.startswith(wanted):
            raise DataError(
                f"{url}: the file received is not the one expected: its sha256 is {digest}, expected {wanted}"
                f"{'' if len(wanted) == 64 else '...'}"
            )
        partial.replace(path)
    except httpx.HTTPError as error:
        raise DataError(_advice(url, path, wanted, error)) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _wanted(url: str, sha256: str | None) -> str:
    found = _PREFIX_IN_NAME.search(url.rsplit("/", 1)[-1])
    wanted = sha256 or (found[1] if found else "")
    if not re.fullmatch(r"[0-9a-f]{8,64}", wanted):
        raise DataError(f"{url}: no sha256 is known for this file, so it cannot be checked")
    return wanted


def _fetch(url: str, partial: Path, progress: Progress | None) -> str:
    """Stream into `partial`; returns the sha256 of what came."""
    hasher = hashlib.sha256()
    received = 0
    with (
        httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response,
        partial.open("wb") as file,
    ):
        response.raise_for_status()
        length = response.headers.get("content-length")
        total = int(length) if length is not None and "content-encoding" not in response.headers else None
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)
            hasher.update(chunk)
            received += len(chunk)
            if progress is not None:
                progress(received, total)
    return hasher.hexdigest()


def _advice(url: str, path: Path, wanted: str, error: httpx.HTTPError) -> str:
    reason = f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
    return (
        f"cannot download {url}: {reason or type(error).__name__}. Without a network, fetch that file on another "
        f"machine (its sha256 begins with {wanted[:8]}) and put it at {path}"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

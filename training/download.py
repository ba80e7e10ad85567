"""Download a file, checked by its sha256, whole or not at all; what was interrupted goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import httpx

from model.bundle import sha256_of
from model.errors import DataError
from model.outside.proxies import ProxiedTransport
from training.console import OnProgress

_TIMEOUT = httpx.Timeout(30.0)  # seconds without a byte, not for the whole file
_CHUNK = 1 << 20
_PREFIX_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z0-9]+$")
_DIGITS = re.compile(r"[0-9a-f]{8,64}")
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<size>\d+)")
_BEYOND_THE_END = httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE


def download(url: str, path: Path, *, sha256: str | None = None, progress: OnProgress | None = None) -> Path:
    """Fetch a file whose checksum is known, unless it is there already.

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
    found = _PREFIX_IN_NAME.search(url.rsplit("/", 1)[-1])
    wanted = sha256 or (found[1] if found else "")
    if not wanted:
        raise DataError(f"{url}: no sha256 is known for this file, so it cannot be checked")
    transfer(url, path, sha256=wanted, progress=progress)
    return path


def transfer(url: str, path: Path, *, sha256: str | None, because: str = "", progress: OnProgress | None = None) -> str:
    """Fetch a file unless it is there with the right checksum, or, where none is known, at all.

    Bytes go into `<path>.partial`, which becomes `path` once it is complete and its checksum right. An interrupted
    transfer leaves it, and `<path>.partial.json` with the version of the file; the next one asks for the rest of that
    version only, and starts anew where the server has another one or sends no parts.

    Args:
        url: http or https.
        path: where the file goes; folders are created.
        sha256: see :func:`download`; None to accept what comes.
        because: appended where an error names the expected checksum.
        progress: see :func:`download`.

    Returns:
        The sha256 of the file, 64 hexadecimal digits.

    Raises:
        DataError: see :func:`download`; also while another process fetches the same file.
    """
    wanted = sha256 or ""
    if sha256 is not None and not _DIGITS.fullmatch(sha256):
        raise DataError(f"sha256: expected 8 to 64 hexadecimal digits in lower case, got {sha256!r}")
    if path.is_file() and (digest := sha256_of(path)).startswith(wanted):
        return digest
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with _alone(partial) as file:
        try:
            _fetch(url, partial, file, progress)
        except httpx.HTTPError as error:
            raise DataError(_advice(url, path, wanted, error, kept=_kept(partial))) from None
        except httpx.InvalidURL as error:
            raise DataError(f"{url}: not an address to download from: {error}") from None
        except OSError as error:  # no space left: Python does not say in which file
            raise DataError(f"{partial}: {error.strerror}") from None
        digest = sha256_of(partial)
        if not digest.startswith(wanted):
            _discard(partial)
            raise DataError(
                f"{url}: the file received is not the one expected: its sha256 is {digest}, expected {wanted}"
                f"{'' if len(wanted) == 64 else '...'}{because}"
            )
        _version_of(partial).unlink(missing_ok=True)
        partial.replace(path)
    return digest


@contextmanager
def _alone(partial: Path) -> Iterator[IO[bytes]]:
    """The partial file, for this process only; it stays afterwards where a later transfer can go on from it.

    The lock is on the file itself, so that none is left beside it and a file that another process has finished between
    opening and locking is noticed, which a library's lock file would not do.
    """
    busy = DataError(f"{partial}: another process is downloading this file")
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise busy from None
        if not _is_at(partial, file):  # finished by another process between opening and locking
            raise busy
        try:
            yield file
        finally:
            if _is_at(partial, file) and not _kept(partial):
                _discard(partial)


def _is_at(path: Path, file: IO[bytes]) -> bool:
    return path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino


def _kept(partial: Path) -> int:
    """Bytes that a later transfer need not fetch again."""
    return partial.stat().st_size if _version_of(partial).is_file() else 0


def _discard(partial: Path) -> None:
    partial.unlink()
    _version_of(partial).unlink(missing_ok=True)


def _fetch(url: str, partial: Path, file: IO[bytes], progress: OnProgress | None) -> None:
    """Stream what is missing to the end of the partial file."""
    there = partial.stat().st_size
    version = _read_version(partial, url) if there else None
    headers = {"Accept-Encoding": "identity"}  # parts are of the file itself, not of a compressed form
    if version is not None:
        headers |= {"Range": f"bytes={there}-", "If-Range": version.mark}
    with (
        httpx.Client(transport=ProxiedTransport(), timeout=_TIMEOUT, follow_redirects=True) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        answer = _answer(response, there, version)
        if answer == "whole":
            there = 0
            file.truncate(0)
            _write_version(partial, url, response)
        if answer in ("whole", "rest"):
            _copy(response, file, there, progress)
    if answer == "unfit":
        file.truncate(0)
        _version_of(partial).unlink()
        _fetch(url, partial, file, progress)


def _answer(
    response: httpx.Response, there: int, version: _Version | None
) -> Literal["whole", "rest", "nothing", "unfit"]:
    """What the server sends: the file, what was asked for, nothing since all is there, or a part that does not fit."""
    if version is not None and response.status_code in (httpx.codes.PARTIAL_CONTENT, _BEYOND_THE_END):
        part = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if part is None or version.size not in (None, int(part["size"])):
            return "unfit"
        if response.status_code == _BEYOND_THE_END:
            return "nothing" if int(part["size"]) == there else "unfit"
        return "rest" if part["start"] == str(there) else "unfit"
    response.raise_for_status()
    if response.status_code != httpx.codes.OK:
        raise httpx.RemoteProtocolError(f"expected HTTP 200, got {response.status_code}")
    return "whole"


def _copy(response: httpx.Response, file: IO[bytes], there: int, progress: OnProgress | None) -> None:
    length = response.headers.get("content-length")
    total = there + int(length) if length and "content-encoding" not in response.headers else None
    for chunk in response.iter_bytes(_CHUNK):
        file.write(chunk)
        there += len(chunk)
        if progress is not None:
            progress(there, total)
    file.flush()


@dataclass(frozen=True)
class _Version:
    """Which version of a file is being fetched: what the server calls it, and its bytes if they are known."""

    mark: str
    size: int | None


def _version_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _write_version(partial: Path, url: str, response: httpx.Response) -> None:
    """Remember the version, if the server names it in a way that can be asked for."""
    tag, changed = response.headers.get("etag", ""), response.headers.get("last-modified", "")
    mark = tag if tag and not tag.startswith("W/") else changed  # a weak tag does not promise equal bytes
    path = _version_of(partial)
    if mark and "content-encoding" not in response.headers:
        length = response.headers.get("content-length")
        fields = {"url": url, "mark": mark, "size": int(length) if length else None}
        path.write_text(json.dumps(fields), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _read_version(partial: Path, url: str) -> _Version | None:
    """The version of a partial file from this address; None where the transfer must start anew."""
    try:
        fields = json.loads(_version_of(partial).read_bytes())
        return _Version(str(fields["mark"]), fields["size"]) if fields["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _advice(url: str, path: Path, wanted: str, error: httpx.HTTPError, *, kept: int) -> str:
    reason = f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
    begins = f" (its sha256 begins with {wanted[:8]})" if wanted else ""
    resume = f"; the {kept} bytes that came are kept, the same command goes on from there" if kept else ""
    return (
        f"cannot download {url}: {reason or type(error).__name__}{resume}. Without a network, fetch that file on "
        f"another machine{begins} and put it at {path}"
    )

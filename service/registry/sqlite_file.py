"""The SQLite file of a registry: made whole or not at all, private to its owner, and watched while it is open.

SQLite itself goes on with a file that was deleted, replaced or written over by others: what it then commits is gone at
the next start. The file is never opened here but by SQLite, because closing it would let go of SQLite's locks.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from service.errors import RegistryDamagedError, RegistryError, StorageError

PRIVATE = 0o600
_BESIDE = ("", "-wal", "-shm")
_LOG_HEAD, _LOG_MAGIC = struct.Struct(">8I"), 0x377F0682
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED_BY_DISK = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_ADVICE = (
    "stop every service that uses it, move the file away with what lies beside it (-wal, -shm), bring a back-up back "
    "with `d3gzsl registry restore`, and start again"
)


def connect(path: Path, *, timeout: float) -> sqlite3.Connection:
    """A connection to a file that is there; SQLite would make an empty one in the place of one that is gone."""
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=timeout
    )


def damaged(name: object, what: str) -> RegistryDamagedError:
    """What is said of a file that is not what it was, with what to do about it."""
    return RegistryDamagedError(f"the registry {name} is damaged{what}; {_ADVICE}")


def is_corruption(error: BaseException | None) -> bool:
    """Whether SQLite says that a file does not hold together."""
    return isinstance(error, sqlite3.DatabaseError) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT


def is_full(error: BaseException | None) -> bool:
    """Whether SQLite says that there is no room on the disk."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_FULL


def disk_advice(error: BaseException | None) -> str:
    """Where to look when SQLite says that the system did not read or write for it; empty for other errors."""
    refused = (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _REFUSED_BY_DISK
    return "; look whether its disk has room, takes writes and has no errors" if refused else ""


def is_unsynced(error: BaseException | None) -> bool:
    """Whether SQLite wrote a commit and the system did not say that it is on the disk."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC


def prepare(path: Path, make: Callable[[Path], None]) -> None:
    """Have a registry file at a path: the one that is there, made private, or a new one that appears when it is whole.

    Args:
        path: of the file; its directory is there.
        make: fills a new file, of which no connection may stay open.

    Raises:
        RegistryDamagedError: the file was cut to nothing, or is gone and its log is still there.
        RegistryError: it cannot be made.
    """
    try:
        with _alone_in(path.parent):
            if not path.exists():
                _make(path, make)
            if path.stat().st_size == 0:
                raise damaged(path, ": it has 0 bytes, and a registry never has; without a back-up, delete the file")
            for suffix in _BESIDE:
                _make_private(Path(f"{path}{suffix}"))
    except OSError as error:
        raise RegistryError(f"the registry {path} cannot be opened: {error.strerror or error}") from None


def _make(path: Path, make: Callable[[Path], None]) -> None:
    wal = Path(f"{path}-wal")
    if wal.exists() and wal.stat().st_size > 0:
        raise damaged(path, f": it is gone, but its log {wal.name} is still there")
    for left in path.parent.glob(f".{path.name}.*.partial*"):
        left.unlink()  # of a process that was killed here; nobody else is, as the directory is locked
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    make(Path(name))
    Path(name).replace(path)
    _sync(path.parent)


def _make_private(file: Path) -> None:
    """Take the rights of others away from a file of our own."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return
    if found.st_mode & 0o077 and found.st_uid == os.geteuid():
        file.chmod(PRIVATE)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Processes that start together take turns."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_log_head(head: bytes) -> bool:
    """Whether bytes are those with which SQLite begins a log: a magic number first, a checksum of the rest last."""
    if len(head) < _LOG_HEAD.size:
        return False
    magic = int.from_bytes(head[:4], "big")
    order: Literal["little", "big"] = "big" if magic & 1 else "little"
    first = second = 0
    for place in range(0, 24, 8):
        first = (first + int.from_bytes(head[place : place + 4], order) + second) & 0xFFFFFFFF
        second = (second + int.from_bytes(head[place + 4 : place + 8], order) + first) & 0xFFFFFFFF
    return magic & ~1 == _LOG_MAGIC and _LOG_HEAD.unpack(head)[-2:] == (first, second)


def _beginning(log: Path) -> bytes:
    with log.open("rb") as stream:
        return stream.read(_LOG_HEAD.size)


class SqliteFile:
    """A registry file while it is open; every method may be called from any thread.

    Args:
        path: of the file, which is there.
        timeout: seconds to wait for another writer.
        prove: raises a RegistryError where what the file holds is not what it was; called when others wrote to the file
            itself, which a checkpoint of theirs does, and so does whoever overwrites it.
    """

    def __init__(self, path: Path, *, timeout: float, prove: Callable[[], None]) -> None:
        self._path, self._timeout, self._prove = path, timeout, prove
        self._lock = threading.RLock()
        self._fault: RegistryError | None = None
        # Open to the end, so that SQLite never removes the log and the index: they are known by device and inode.
        self._anchor = connect(path, timeout=timeout)
        try:
            (self._page,) = self._anchor.execute("PRAGMA page_size").fetchone()
            self._anchor.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._opened = {suffix: self._identity(suffix) for suffix in _BESIDE}
            self._known, self._log_size = self._state(), 0
        except BaseException:
            self._anchor.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._anchor.close()

    def check_place(self) -> None:
        """Refuse a file that is not the one that was opened, or that was found damaged; looks at no contents.

        Raises:
            RegistryDamagedError: says what is wrong and what to do.
        """
        self._check_identity()
        if self._fault is not None:
            raise self._fault

    def check(self) -> None:
        """As :meth:`check_place`, and refuse a file that others wrote to where it does not hold together any more.

        Raises:
            RegistryDamagedError: says what is wrong and what to do.
            StorageError: the file cannot be read now.
        """
        with self._lock:
            self._check_identity()  # first: SQLite would take the log of the file that is gone for that of a new one
            now, shrunk = self._state(), self._log_has_shrunk()
            if now != self._known or shrunk:
                self._fault = self._fault_of_contents()
                self._known = now
        self.check_place()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around a commit: checked before it, and what it writes to the file is known as ours.

        Raises:
            RegistryDamagedError: as :meth:`check`; also where the file was lost during the commit.
        """
        with self._lock:
            self.check()
            yield
            self._known = self._state()
        self.check_place()

    def _check_identity(self) -> None:
        for suffix, opened in self._opened.items():
            if self._identity(suffix) != opened:
                raise damaged(
                    self._path, f": {self._path.name}{suffix} is not the file that was opened, but deleted or replaced"
                )

    def _identity(self, suffix: str) -> tuple[int, int] | None:
        try:
            found = os.stat(f"{self._path}{suffix}")  # noqa: PTH116  # asked for with every request for readiness
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _state(self) -> tuple[int, ...]:
        """What changes when somebody writes to the file itself; commits go to the log beside it first."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _log_has_shrunk(self) -> bool:
        """Whether the log is shorter than before, or begins as no log does; commits that are only there may be lost.

        Closing the log lets go of no lock, as SQLite has none on it.
        """
        try:
            log = Path(f"{self._path}-wal")
            head, size = _beginning(log), log.stat().st_size
        except OSError:
            return False  # gone: a matter of its place
        shrunk = size < self._log_size or (size > 0 and not _is_log_head(head))
        self._log_size = size
        return shrunk

    def _fault_of_contents(self) -> RegistryError | None:
        state = self._state()
        if not state:
            return None  # gone: a matter of its place
        size = state[2]
        if size == 0 or size % self._page:  # not to be opened: SQLite would delete the log of an empty file
            return damaged(self._path, f": it has {size} bytes, no whole number of its pages of {self._page}")
        try:
            with closing(connect(self._path, timeout=self._timeout)) as fresh:
                found = [str(row[0]) for row in fresh.execute("PRAGMA quick_check(3)")]
            if found != ["ok"]:
                return damaged(self._path, f": {' '.join('; '.join(found).split())[:300]}")
            self._prove()
            log = Path(f"{self._path}-wal")
            if log.stat().st_size > 0 and not _is_log_head(_beginning(log)):
                return damaged(self._path, f": its log {log.name} has lost its beginning")
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StorageError(f"the registry {self._path} cannot be checked: {error}") from None
            return damaged(self._path, f": {error}")
        except StorageError:
            raise
        except RegistryError as error:
            return error
        return None

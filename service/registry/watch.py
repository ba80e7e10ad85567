"""How a process learns that others have committed: cheaply at each request in SQLite, by NOTIFY in PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any, Protocol

from service.errors import StorageError
from service.registry.database import CHANNEL, Database
from service.registry.postgres import limited
from service.registry.sqlite_file import connect


class Watch(Protocol):
    """Says when looking into the log may be worth while; looking now and then is needed all the same."""

    def changed(self) -> bool:
        """Whether something was committed since the last call; False where only :meth:`wait` can tell."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when something was committed, when woken, or when the time is over."""
        ...

    def wake(self) -> None:
        """End a wait early; from any thread."""
        ...

    def close(self) -> None:
        """Let go, after the last wait."""
        ...


def watch(database: Database) -> Watch:
    """The watch for a database.

    Raises:
        StorageError: a SQLite file cannot be opened.
    """
    return SqliteWatch(database) if database.is_sqlite else PostgresWatch(database)


class SqliteWatch:
    """`PRAGMA data_version` on a connection of its own: it reads a counter in shared memory, not the log."""

    _LONGEST = 1.0

    def __init__(self, database: Database) -> None:
        self._woken = threading.Event()
        try:
            self._connection = connect(Path(str(database.url.database)), timeout=0)
            self._seen = self._data_version()
        except sqlite3.Error as error:
            raise StorageError(f"the registry {database.name} cannot be watched: {error}") from None

    def changed(self) -> bool:
        """See :class:`Watch`; one that cannot be read counts as changed."""
        try:
            now = self._data_version()
        except sqlite3.Error:
            return True
        changed, self._seen = now != self._seen, now
        return changed

    def wait(self, seconds: float) -> None:
        """See :class:`Watch`; never long, as nothing tells when somebody writes over the file."""
        self._woken.wait(min(seconds, self._LONGEST))
        self._woken.clear()

    def wake(self) -> None:
        """See :class:`Watch`."""
        self._woken.set()

    def close(self) -> None:
        """See :class:`Watch`."""
        self._connection.close()

    def _data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


class PostgresWatch:
    """LISTEN on a connection of its own, which is made again when it breaks; `wait` runs in one thread only."""

    _LONGEST = 0.5  # seconds without looking whether somebody has woken us

    def __init__(self, database: Database) -> None:
        self._url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._timeout = max(2, round(database.busy_timeout))
        self._connection: Any = None
        self._woken = threading.Event()

    def changed(self) -> bool:
        """See :class:`Watch`."""
        return False

    def wait(self, seconds: float) -> None:
        """See :class:`Watch`; without a connection, the time alone."""
        import psycopg

        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._url, autocommit=True, connect_timeout=self._timeout, client_encoding="utf8"
                )
                with limited(self._connection, self._timeout):
                    self._connection.execute(f"LISTEN {CHANNEL}")
                return  # what was committed before is found by looking
            while seconds > 0 and not self._woken.is_set():
                slice_ = min(seconds, self._LONGEST)
                if list(self._connection.notifies(timeout=slice_, stop_after=1)):
                    break
                seconds -= slice_
        except psycopg.Error:
            self.close()
            self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """See :class:`Watch`."""
        self._woken.set()

    def close(self) -> None:
        """See :class:`Watch`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

"""Opening the database of the registry, a SQLite file or PostgreSQL; only here and in watch.py do they differ."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from service.errors import (
    RegistryDamagedError,
    RegistryError,
    StorageError,
    StorageFullError,
    UnconfirmedChangeError,
)
from service.registry.change import UnreadableValueError, canonical, from_json
from service.registry.postgres import DISK_FULL, HasSocket, limited, open_engine
from service.registry.sqlite_file import (
    SqliteFile,
    connect,
    damaged,
    disk_advice,
    is_corruption,
    is_full,
    is_unsynced,
    prepare,
)
from service.settings import Settings, default_data_dir

FILE = "registry.sqlite3"
CURRENT_REVISION = "0003"
"""The newest migration; a database that has it needs no Alembic at start."""
CHANNEL = "d3gzsl_registry"
"""Where PostgreSQL announces new versions."""

_WRITES = "d3gzsl_writes"
_CACHE_KB = 256
"""Pages of the file that each connection keeps. The system keeps them too, and a full cache of SQLite never shrinks."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x6433677A736C  # any number that others are unlikely to use
_POSTGRESQL = "postgresql+psycopg"
_LONG = 600.0
"""Seconds that reading or writing a whole registry may take."""
_SLOW, _REST = 1.0, 2.0
"""Seconds after which a failure counts as a server that hangs, and for which nobody asks it again."""


def registry_dir(settings: Settings, bundle_id: str) -> Path:
    """The data directory of a bundle: the chosen one, or one of its own among those of all bundles.

    A registry that lies directly in the directory of all bundles, where every bundle once had it, stays that of its
    bundle.

    Raises:
        RegistryError: there is a registry directly in the directory of all bundles, and it cannot be read.
    """
    if settings.data_dir is not None:
        return settings.data_dir
    folder = default_data_dir()
    return folder if _owner(folder / FILE) == bundle_id else folder / bundle_id


def _owner(file: Path) -> str | None:
    """Id of the bundle that a SQLite registry belongs to; None where there is none."""
    if not file.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT bundle_id FROM registry").fetchone()
    except sqlite3.Error as error:
        raise RegistryError(
            f"the registry {file} cannot be read: {error}; name another place with --data-dir"
        ) from None
    return None if found is None else str(found[0])


def database_url(data_dir: Path, given: str | None, password_file: Path | None = None) -> URL:
    """The URL that was given, or a SQLite file in the data directory; a file's directory is created.

    Args:
        data_dir: where a SQLite file lies if no URL is given.
        given: URL of a SQLite file or a PostgreSQL database.
        password_file: file whose only line is the password of a PostgreSQL database.

    Raises:
        RegistryError: the URL or the password file cannot be used, or the directory cannot be created.
    """
    try:
        url = URL.create("sqlite", database=str(data_dir.absolute() / FILE)) if given is None else make_url(given)
    except ArgumentError:
        raise RegistryError(
            "the database URL cannot be read; expected a form like sqlite:////data/registry or "
            "postgresql://user@host/database"
        ) from None
    if url.drivername in ("postgresql", _POSTGRESQL):
        return _with_password(url, password_file).set(drivername=_POSTGRESQL)
    if password_file is not None:
        raise RegistryError(
            "D3GZSL_DATABASE_PASSWORD_FILE is set, but only a PostgreSQL database has a password; expected "
            f"D3GZSL_DATABASE_URL like postgresql://user@host/database, got {'none' if given is None else 'another'}"
        )
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or not url.database or url.database == ":memory:":
        raise RegistryError(
            "the registry needs the URL of a SQLite file or of a PostgreSQL database, got "
            f"{url.render_as_string(hide_password=True)}"
        )
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"the directory of the registry cannot be created: {error}") from None
    return url


def _with_password(url: URL, file: Path | None) -> URL:
    if file is None:
        return url
    if url.password is not None:
        raise RegistryError(
            "D3GZSL_DATABASE_URL has a password and D3GZSL_DATABASE_PASSWORD_FILE names another; give one of them"
        )
    try:
        password = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"the file of the database's password cannot be read: {error}") from None
    if not password or "\n" in password:
        raise RegistryError(
            f"expected one line with the database's password in {file}, got {len(password.splitlines()) or 'no'} lines"
        )
    return url.set(password=password)


class Database:
    """Connections to one database, brought to the newest migration.

    Args:
        url: from :func:`database_url`.
        busy_timeout: seconds to wait for another writer, and for a connection.

    Raises:
        RegistryError: it cannot be opened or migrated.
        MissingDependencyError: the driver for PostgreSQL is not installed.
    """

    def __init__(self, url: URL, *, busy_timeout: float = 5.0) -> None:
        self.url, self.name = url, url.render_as_string(hide_password=True)
        self.busy_timeout = busy_timeout
        self._file: SqliteFile | None = None
        self._resting_until = 0.0
        self._prove: Callable[[sa.Connection], None] = lambda _connection: None
        if self.is_sqlite:
            path = Path(str(url.database))
            prepare(path, self._fill)
            self._engine = _sqlite(path, busy_timeout)
            self._fresh = _sqlite(path, busy_timeout, poolclass=sa.NullPool)  # knows nothing of what was read before
            self._reader: sa.Engine = self._engine
            self._writer: sa.Engine = self._engine.execution_options(**{_WRITES: True})
        else:
            self._engine = open_engine(url, busy_timeout, canonical, from_json)
            # All questions of one reading see the same state; a writer sees what was committed before it got the lock.
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writer = self._engine
        try:
            self._migrate(self._reader, self._writer)
            if self.is_sqlite:
                self._file = self._open_file(path)
        except BaseException:
            self.close()
            raise

    def prove_by(self, prove: Callable[[sa.Connection], None]) -> None:
        """Have a function called, with a connection that has read nothing yet, when others wrote to the file."""
        self._prove = prove

    def check_place(self) -> None:
        """Refuse a file that is not the one that was opened, or that was found damaged; looks at no contents.

        Raises:
            RegistryDamagedError: says what is wrong and what to do.
        """
        if self._file is not None:
            self._file.check_place()

    def damaged(self, what: str) -> RegistryDamagedError:
        """What is said where the contents are not what was written; `what` begins with where, or a colon."""
        if self.is_sqlite:
            return damaged(self.url.database, what)
        return RegistryDamagedError(
            f"the registry {self.name} is damaged{what}; stop every service that uses it, bring a back-up back with "
            "`d3gzsl registry restore --replace`, and start again"
        )

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self, *, whole: bool = False) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database.

        Args:
            whole: the whole registry is read, for which more time is allowed than for a change.

        Raises:
            StorageError: the database refuses, or does not answer in time.
            RegistryDamagedError: the file is lost or damaged.
        """
        with self._transaction(self._reader, whole=whole) as connection:
            yield connection

    @contextmanager
    def writing(self, *, whole: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes; on disk when the block has been left. In SQLite the only one from its start.

        Args:
            whole: the whole registry is written, for which more time is allowed than for a change.

        Raises:
            StorageError: the database refuses, or does not answer in time; nothing was written.
            UnconfirmedChangeError: the database was lost while it committed; everything was written, or nothing.
            RegistryDamagedError: the file is lost or damaged.
        """
        with self._transaction(self._writer, whole=whole) as connection:
            yield connection

    def announce(self, connection: sa.Connection, version: int) -> None:
        """Tell others of a version when the transaction is committed, where the database has a way to."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, str(version))))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _transaction(self, engine: sa.Engine, *, whole: bool) -> Iterator[sa.Connection]:
        with self._errors_in_words():
            if self._file is None:
                with self._on_server(engine, whole=whole) as connection:
                    yield connection
                return
            self._file.check()
            with engine.connect() as connection, connection.begin() as transaction:
                yield connection
                if connection.get_execution_options().get(_WRITES, False):
                    with self._file.committing():
                        try:
                            transaction.commit()
                        except OperationalError as error:
                            if is_unsynced(error.__cause__):
                                raise self._unconfirmed(error) from error
                            raise

    @contextmanager
    def _on_server(self, engine: sa.Engine, *, whole: bool) -> Iterator[sa.Connection]:
        """A transaction on a server that may hang: it ends in time, and what it gave up is not committed later."""
        if (rest := self._resting_until - time.monotonic()) > 0:
            raise StorageError(f"the registry {self.name} did not answer; it is asked again in {rest:.1f} seconds")
        began, committing = time.monotonic(), False
        try:
            with engine.connect() as connection:
                seconds = _LONG if whole else 2 * self.busy_timeout + 1  # the server's own limits come first
                driver = cast(HasSocket, connection.connection.driver_connection)
                with limited(driver, seconds) as limit, connection.begin() as transaction:
                    if whole:
                        connection.execute(sa.text(f"SET LOCAL statement_timeout = {round(1000 * _LONG)}"))
                    yield connection
                    # Given up only when the server has ended the transaction itself, which has been idle for so long.
                    limit.restart(self.busy_timeout + 1)
                    committing = engine is self._writer
                    transaction.commit()
        except OperationalError as error:
            lost = error.connection_invalidated or error.statement is None
            if lost and not whole and time.monotonic() - began > _SLOW:
                self._resting_until = time.monotonic() + _REST
            refused = getattr(error.__cause__, "sqlstate", None) is not None and not error.connection_invalidated
            if committing and not refused:
                raise self._unconfirmed(error) from error
            raise

    def _unconfirmed(self, error: OperationalError) -> UnconfirmedChangeError:
        return UnconfirmedChangeError(
            f"the registry {self.name} did not say whether it stored a change: {_cause(error)}; look "
            "whether it is there"
        )

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except UnreadableValueError as error:
            raise self.damaged(f": {error}") from None
        except SQLAlchemyError as error:
            if is_corruption(error.__cause__):
                raise self.damaged(f": {error.__cause__}") from None
            if is_full(error.__cause__) or getattr(error.__cause__, "sqlstate", None) == DISK_FULL:
                raise StorageFullError(
                    f"the registry {self.name} has no room on its disk: {_cause(error)}; make room there, and changes "
                    "are taken again without a restart"
                ) from error
            advice = disk_advice(error.__cause__)
            raise StorageError(f"the registry {self.name} cannot be used: {_cause(error)}{advice}") from error

    def _open_file(self, path: Path) -> SqliteFile:
        def prove() -> None:
            with self._errors_in_words(), self._fresh.begin() as connection:
                self._prove(connection)

        try:
            return SqliteFile(path, timeout=self.busy_timeout, prove=prove)
        except sqlite3.Error as error:
            raise StorageError(f"the registry {self.name} cannot be used: {error}") from None

    def _fill(self, path: Path) -> None:
        """Make the tables in a new SQLite file."""
        engine = _sqlite(path, self.busy_timeout)
        try:
            self._migrate(engine, engine.execution_options(**{_WRITES: True}))
        finally:
            engine.dispose()

    def _migrate(self, reader: sa.Engine, writer: sa.Engine) -> None:
        with self._errors_in_words(), reader.begin() as connection:
            if _revision(connection) == CURRENT_REVISION:
                return
        from alembic import command  # half a second that a database of the newest form need not spend
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with self._errors_in_words(), writer.begin() as connection:
                if not self.is_sqlite:  # processes that start together take turns, as they do in SQLite anyway
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise RegistryError(f"the registry {self.name} has a form that this version cannot read: {error}") from None


def _sqlite(path: Path, timeout: float, **pool: Any) -> sa.Engine:
    engine = sa.create_engine(
        "sqlite:///registry",  # the address is in the connections, which never make a file
        creator=lambda: connect(path, timeout=timeout),
        json_serializer=canonical,
        json_deserializer=from_json,
        **pool,
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _cause(error: SQLAlchemyError) -> str:
    return str(error.__cause__ or error).strip()


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # A flipped byte in a text must not end the reading of all others; the digests find it.
    connection.text_factory = lambda data: data.decode(errors="replace")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that began as a reader could be refused halfway; IMMEDIATE makes it wait at the door.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

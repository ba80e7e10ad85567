"""Opening the database of the registry, a SQLite file or PostgreSQL; only here and in watch.py do they differ."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic_core import from_json
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from model.errors import MissingDependencyError
from service.errors import RegistryError, StorageError
from service.settings import Settings, default_data_dir

FILE = "registry.sqlite3"
CURRENT_REVISION = "0001"
"""The newest migration; a database that has it needs no Alembic at start."""
CHANNEL = "d3gzsl_registry"
"""Where PostgreSQL announces new versions."""

_WRITES = "d3gzsl_writes"
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x6433677A736C  # any number that others are unlikely to use
_POSTGRESQL = "postgresql+psycopg"
_BROKEN_LINE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""A server that does not answer is noticed within seconds, not after the system's hours."""


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


def database_url(data_dir: Path, given: str | None) -> URL:
    """The URL that was given, or a SQLite file in the data directory; a file's directory is created.

    Raises:
        RegistryError: the URL cannot be used, or the directory cannot be created.
    """
    try:
        url = URL.create("sqlite", database=str(data_dir.absolute() / FILE)) if given is None else make_url(given)
    except ArgumentError:
        raise RegistryError(
            "the database URL cannot be read; expected a form like sqlite:////data/registry or "
            "postgresql://user@host/database"
        ) from None
    if url.drivername in ("postgresql", _POSTGRESQL):
        return url.set(drivername=_POSTGRESQL)
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
        if self.is_sqlite:
            self._engine = sa.create_engine(url, connect_args={"timeout": busy_timeout}, json_deserializer=_from_json)
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
            self._reader: sa.Engine = self._engine
            self._writer: sa.Engine = self._engine.execution_options(**{_WRITES: True})
        else:
            self._engine = _postgresql(url, busy_timeout)
            # All questions of one reading see the same state; a writer sees what was committed before it got the lock.
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writer = self._engine
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database.

        Raises:
            StorageError: the database refuses.
        """
        with self._transaction(self._reader) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; on disk when the block has been left. In SQLite the only one from its start.

        Raises:
            StorageError: the database refuses; nothing was written.
        """
        with self._transaction(self._writer) as connection:
            yield connection

    def announce(self, connection: sa.Connection, version: int) -> None:
        """Tell others of a version when the transaction is committed, where the database has a way to."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, str(version))))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = str(error.__cause__ or error).strip()
            raise StorageError(f"the registry {self.name} cannot be used: {cause}") from error

    def _migrate(self) -> None:
        with self.reading() as connection:
            if _revision(connection) == CURRENT_REVISION:
                return
        from alembic import command  # half a second that a database of the newest form need not spend
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with self.writing() as connection:
                if not self.is_sqlite:  # processes that start together take turns, as they do in SQLite anyway
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise RegistryError(f"the registry {self.name} has a form that this version cannot read: {error}") from None


def _postgresql(url: URL, timeout: float) -> sa.Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "the driver for PostgreSQL is not installed; install d3gzsl with the extra `postgres`"
        ) from None
    # A database without an encoding of its own would answer in bytes.
    arguments = {"connect_timeout": max(2, round(timeout)), "client_encoding": "utf8", **_BROKEN_LINE}
    engine = sa.create_engine(url, connect_args=arguments, pool_pre_ping=True, json_deserializer=_from_json)

    def configure(connection: Any, _record: Any) -> None:
        connection.autocommit = True  # else the setting would end with the transaction
        connection.execute(f"SET lock_timeout = {round(1000 * timeout)}")
        connection.autocommit = False

    event.listen(engine, "connect", configure)
    return engine


def _from_json(text: str) -> Any:
    """JSON as `json` reads it, to the last bit, but four times as fast: a start may have to read 100,000 classes."""
    try:
        return from_json(text)
    except ValueError:  # halves of surrogate pairs, which only `json` takes
        return json.loads(text)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin below, not where the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that began as a reader could be refused halfway; IMMEDIATE makes it wait at the door.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""Opening the database of the registry; the only place with a word of SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from service.errors import RegistryError, StorageError

FILE = "registry.sqlite3"
CURRENT_REVISION = "0002"
"""The newest migration; a database that has it needs no Alembic at start."""

_WRITES = "d3gzsl_writes"
_MIGRATIONS = Path(__file__).parent / "migrations"


def database_url(data_dir: Path, given: str | None) -> URL:
    """The URL that was given, or a SQLite file in the data directory, which is created.

    Raises:
        RegistryError: the URL cannot be used, or the directory cannot be created.
    """
    try:
        url = URL.create("sqlite", database=str(data_dir.absolute() / FILE)) if given is None else make_url(given)
    except ArgumentError:
        raise RegistryError("the database URL cannot be read; expected a form like sqlite:////data/registry") from None
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise RegistryError(
            f"the registry needs the URL of a SQLite file, got {url.render_as_string(hide_password=True)}"
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
        busy_timeout: seconds to wait for another writer.

    Raises:
        RegistryError: it cannot be opened or migrated.
    """

    def __init__(self, url: URL, *, busy_timeout: float = 5.0) -> None:
        self.name = url.render_as_string(hide_password=True)
        self._engine = sa.create_engine(url, connect_args={"timeout": busy_timeout})
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database.

        Raises:
            StorageError: the database refuses.
        """
        with self._transaction(self._engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is the only writer from its start; on disk when the block has been left.

        Raises:
            StorageError: the database refuses; nothing was written.
        """
        with self._transaction(self._writer) as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = error.__cause__ or error
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
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise RegistryError(f"the registry {self.name} has a form that this version cannot read: {error}") from None


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin below, not where the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: sa.Connection) -> None:
    # A writer that began as a reader could be refused halfway; IMMEDIATE makes it wait at the door.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""The log of changes: appended to under one lock, read back bit for bit.

Z: embedding dimension.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from service.errors import RegistryDamagedError, RegistryError, RegistryReplacedError, StorageError
from service.registry.arrays import ExampleEmbeddings, embedding_bytes, stored_row
from service.registry.change import (
    AUTHOR,
    GENESIS,
    Change,
    LoggedVersion,
    Operation,
    canonical,
    digest_change,
    digest_version,
    placed,
)
from service.registry.database import Database
from service.registry.reading.records import AT_ONCE, Record, RecordReader, StoredChanges
from service.registry.tables import changes, example_embeddings, head_rows, registry, versions

Read = TypeVar("Read")


class NextVersion:
    """The next version in the making, in a transaction that has the lock on the registry's one row.

    Args:
        database: announces the version.
        connection: in the transaction.
        version: the last one that is committed.
        position: of its last change.
    """

    def __init__(self, database: Database, connection: sa.Connection, *, version: int, position: int) -> None:
        self._database, self.connection = database, connection
        self.version, self._position = version, position
        self.digest: str | None = None  # of the version that was appended

    def append(self, operation: Operation, made: Sequence[Change], *, source: int | None = None) -> LoggedVersion:
        """Write one version of any number of changes; returns it as it will be read."""
        version = self.version + 1
        written = tuple(placed(change, position) for position, change in enumerate(made, start=self._position + 1))
        photos: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        records: list[dict[str, Any]] = []
        digests: list[bytes] = []
        for position, change in enumerate(written, start=self._position + 1):
            stored = stored_row(change) if change.row_at == position else None
            record: dict[str, Any] = {
                "position": position,
                "operation": change.operation,
                "class_id": change.class_id,
                "document": None if change.entry is None else change.entry.to_json(),
                "row_position": change.row_at,
            }
            words = None if record["document"] is None else canonical(record["document"])
            digests.append(digest_change(**{**record, "document": words}, stored=stored))
            records.append({**record, "version": version})
            if stored is not None:
                rows.append(dict(zip(("weight", "bias"), stored, strict=True), position=position))
            photos += [
                {"position": position, "example_id": example_id, "embedding": embedding_bytes(embedding)}
                for example_id, embedding in change.embeddings.items()
            ]
        connection = self.connection
        before = connection.scalar(sa.select(versions.c.digest).where(versions.c.version == self.version)) or GENESIS
        if rows:
            connection.execute(sa.insert(head_rows), rows)
        if photos:
            connection.execute(sa.insert(example_embeddings), photos)
        if records:
            connection.execute(sa.insert(changes), records)
        self.digest = digest_version(before, version=version, operation=operation, source=source, changes=digests)
        connection.execute(
            sa.insert(versions).values(
                version=version,
                operation=operation,
                source=source,
                changes=len(records),
                digest=self.digest,
                made_at=datetime.now(UTC),
                author=AUTHOR.get(),
            )
        )
        self.version, self._position = version, self._position + len(records)
        connection.execute(sa.update(registry).values(version=self.version, position=self._position))
        self._database.announce(connection, version)
        return LoggedVersion(version=version, changes=written)


class ChangeLog:
    """The registry of one bundle in a database.

    Args:
        database: open database.
        bundle_id: whose registry it must be; an empty one becomes this bundle's.
        dimension: Z, the length of a row.
        vocabulary: names of the bundle's attributes, noted for whoever adopts the registry.

    Raises:
        RegistryError: it belongs to another bundle.
    """

    def __init__(self, database: Database, *, bundle_id: str, dimension: int, vocabulary: Sequence[str]) -> None:
        self.database, self.dimension = database, dimension
        self.embeddings = ExampleEmbeddings(database, dimension)
        self._reader = RecordReader(database, dimension)
        self._bundle_id, self._vocabulary = bundle_id, list(vocabulary)
        self._generation = ""
        self._seen: tuple[int, str] = (0, GENESIS)  # the newest version known, with its digest: none may lack it later
        with database.reading() as connection:
            claimed = connection.execute(sa.select(registry.c.id)).one_or_none() is not None
        if not claimed:
            self._claim()
        with database.reading() as connection:
            self._generation = str(self._head(connection, any_generation=True).generation)
        database.prove_by(self._prove)

    @contextmanager
    def loading(self) -> Iterator[tuple[int, Iterator[StoredChanges]]]:
        """The last version, and of every class that was ever changed its last change, some at a time.

        Ordered by when the change was made. Every version that made one of these changes or rows is held against its
        digest; versions of which others have superseded all are not read.

        Raises:
            RegistryDamagedError: the log is damaged.
            RegistryError: it belongs to another bundle.
            StorageError: the database refuses.
        """
        with self.database.reading(whole=True) as connection:
            head = self._head(connection, any_generation=True)
            last = int(head.version)
            self._check_gapless(connection, last)
            yield last, self._last_changes(connection, int(head.base))
            self._generation, self._seen = str(head.generation), (last, self._digest(connection, last))

    def since(self, version: int, *, within: NextVersion | None = None, whole: bool = False) -> list[LoggedVersion]:
        """Every version after one, oldest first, up to the last one committed.

        Args:
            version: 0 or higher.
            within: a version in the making, before which nobody else can make one.
            whole: as for :meth:`service.registry.database.Database.reading`.

        Raises:
            RegistryReplacedError: a backup has taken the registry's place.
            RegistryDamagedError: the log is damaged, or lacks what was there before.
            RegistryError: it belongs to another bundle.
            StorageError: the database refuses.
        """
        if within is not None:
            return self._since(within.connection, version) if within.version > version else []
        seen = self._seen  # before the reading begins, as others may write while it goes on
        with self.database.reading(whole=True) if whole else self.database.reading() as connection:
            return self._since(connection, version, seen=seen)

    @contextmanager
    def appending(self) -> Iterator[NextVersion]:
        """The right to make the next version; what was appended is on disk when the block has been left.

        Raises:
            RegistryReplacedError: a backup has taken the registry's place.
            RegistryDamagedError: the log lacks what was there before.
            StorageError: the database refuses; nothing was written.
        """
        seen = self._seen
        with self.database.writing() as connection:
            # The lock on this row is kept until the commit: versions are gapless and in the order of commits.
            head = self._head(connection, lock=True)
            self._check_not_behind(connection, int(head.version), seen)
            following = NextVersion(self.database, connection, version=int(head.version), position=int(head.position))
            yield following
        if following.digest is not None:
            self._saw(following.version, following.digest)

    @property
    def base(self) -> int:
        """The last version that was made for another bundle; 0 where there was none.

        Raises:
            StorageError: the database refuses.
        """
        with self.database.reading() as connection:
            return int(self._head(connection, any_generation=True).base)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _claim(self) -> None:
        try:
            with self.database.writing() as connection:
                connection.execute(
                    sa.insert(registry).values(
                        id=1,
                        bundle_id=self._bundle_id,
                        version=0,
                        position=0,
                        base=0,
                        generation=uuid.uuid4().hex,
                        vocabulary=self._vocabulary,
                    )
                )
        except StorageError as error:
            if not isinstance(error.__cause__, IntegrityError):  # else another process was first: see whose it is
                raise

    def _head(self, connection: sa.Connection, *, lock: bool = False, any_generation: bool = False) -> Any:
        query = sa.select(registry)
        head = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if head is None:
            raise self.database.damaged(": it has lost the line that says whose it is")
        if head.bundle_id != self._bundle_id:
            raise RegistryError(
                f"the registry {self.database.name} belongs to the bundle {head.bundle_id}, not to "
                f"{self._bundle_id}: serve that bundle, keep this one's registry in another --data-dir, or take the "
                "registered classes over with `d3gzsl registry adopt`"
            )
        if not any_generation and head.generation != self._generation:
            raise RegistryReplacedError(f"the registry {self.database.name} was restored from a backup")
        return head

    def _check_gapless(self, connection: sa.Connection, last: int) -> None:
        count, first, highest, listed = connection.execute(
            sa.select(
                sa.func.count(),
                sa.func.min(versions.c.version),
                sa.func.max(versions.c.version),
                sa.func.sum(versions.c.changes),
            )
        ).one()
        stored = connection.scalar(sa.select(sa.func.count()).select_from(changes))
        if (count, first or 1, highest or 0) != (last, 1, last) or (listed or 0) != stored:
            raise self.database.damaged(f": it lacks versions or changes up to {last}")

    def _last_changes(self, connection: sa.Connection, base: int) -> Iterator[StoredChanges]:
        last = (
            sa.select(sa.func.max(changes.c.position), sa.func.max(changes.c.version))  # which grow together
            .where(changes.c.version > base)
            .group_by(changes.c.class_id)
        )
        chosen = {row[0]: row[1] for row in connection.execute(last).all()}
        try:
            yield from self._changes_at(connection, chosen, self._reader.stored)
        except RegistryDamagedError:
            deque(self._changes_at(connection, chosen, self._reader.changes), maxlen=0)  # may say more of what is wrong
            raise

    def changes_at(self, connection: sa.Connection, positions: Sequence[int]) -> list[Change]:
        """The changes at at most `AT_ONCE` positions, in order, once their versions fit their digests.

        Raises:
            RegistryDamagedError: the log is damaged.
        """
        query = sa.select(changes.c.position, changes.c.version).where(changes.c.position.in_(positions))
        chosen = {row[0]: row[1] for row in connection.execute(query)}
        return [change for part in self._changes_at(connection, chosen, self._reader.changes) for change in part]

    def _changes_at(
        self, connection: sa.Connection, chosen: Mapping[int, int], read: Callable[[list[Record]], Read]
    ) -> Iterator[Read]:
        """Changes in order, some at a time; `chosen` has the version of each position."""
        wanted = {*chosen.values(), *self._versions_of_rows(connection, chosen)}
        for records in self._reader.verified(connection, sorted(wanted)):
            yield read([record for record in records if record.position in chosen])

    def _versions_of_rows(self, connection: sa.Connection, chosen: Mapping[int, int]) -> Iterator[int]:
        """Versions that brought the rows that some changes name and did not bring themselves."""
        named = sa.select(changes.c.position, changes.c.row_position).where(
            changes.c.row_position != changes.c.position
        )
        rows = sorted({row_at for position, row_at in connection.execute(named) if position in chosen})
        for start in range(0, len(rows), AT_ONCE):
            part = changes.c.position.in_(rows[start : start + AT_ONCE])
            yield from connection.scalars(sa.select(changes.c.version).where(part))

    def _since(
        self, connection: sa.Connection, version: int, *, seen: tuple[int, str] | None = None
    ) -> list[LoggedVersion]:
        last = int(self._head(connection).version)
        if seen is not None:
            self._check_not_behind(connection, last, seen)
        if last <= version:
            return []
        numbers = sa.select(versions.c.version).where(versions.c.version > version)
        found: dict[int, list[Change]] = {number: [] for number in connection.scalars(numbers.order_by("version"))}
        if list(found) != list(range(version + 1, last + 1)):
            raise self.database.damaged(f": it lacks versions or changes between {version} and {last}")
        for records in self._reader.verified(connection, list(found)):
            for record, change in zip(records, self._reader.changes(records), strict=True):
                found[record.version].append(change)
        if seen is not None:
            self._saw(last, self._digest(connection, last))
        return [LoggedVersion(version=number, changes=tuple(made)) for number, made in found.items()]

    def _saw(self, version: int, digest: str) -> None:
        if version > self._seen[0]:
            self._seen = (version, digest)

    def _digest(self, connection: sa.Connection, version: int) -> str:
        return str(connection.scalar(sa.select(versions.c.digest).where(versions.c.version == version)) or GENESIS)

    def _check_not_behind(self, connection: sa.Connection, last: int, seen: tuple[int, str]) -> None:
        """What was read or written before is still there."""
        version, digest = seen
        if last < version:
            raise self.database.damaged(f": it ends at version {last}, and was at version {version} before")
        if self._digest(connection, version) != digest:
            raise self.database.damaged(f": version {version} is another one than before")

    def _prove(self, connection: sa.Connection) -> None:
        """Raise where the next start would not find what this process knows to be stored."""
        head = self._head(connection, any_generation=True)
        if head.generation == self._generation:
            self._check_not_behind(connection, int(head.version), self._seen)
        self._check_gapless(connection, int(head.version))
        deque(self._last_changes(connection, int(head.base)), maxlen=0)


def existing_database(url: URL) -> Database | None:
    """A database in which somebody's registry is already; None where there is none, which is not made either.

    Raises:
        RegistryError: it cannot be opened or migrated.
        MissingDependencyError: the driver for PostgreSQL is not installed.
    """
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return None
    database = Database(url)
    try:
        with database.reading() as connection:
            if connection.scalar(sa.select(sa.func.count()).select_from(registry)):
                return database
    except BaseException:
        database.close()
        raise
    database.close()
    return None

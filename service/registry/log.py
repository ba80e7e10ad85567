"""The log of changes: appended to under one lock, read back bit for bit.

Z: embedding dimension.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from model.classes import ClassEntry
from model.errors import D3GZSLError
from model.head import Row
from service.errors import RegistryError, RegistryReplacedError, StorageError
from service.registry.change import GENESIS, Change, LoggedVersion, Operation, StoredRow, digest_change, digest_version
from service.registry.database import Database
from service.registry.tables import changes, head_rows, registry, versions

AT_ONCE = 500  # positions in one question: below every database's limit of parameters
_COLUMNS = (
    changes.c.position,
    changes.c.version,
    changes.c.operation,
    changes.c.class_id,
    changes.c.document,
    changes.c.row_position,
    head_rows.c.weight,
    head_rows.c.bias,
)
WITH_ROWS = sa.select(*_COLUMNS).select_from(
    changes.outerjoin(head_rows, head_rows.c.position == changes.c.row_position)
)


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

    def append(self, operation: Operation, made: Sequence[Change], *, source: int | None = None) -> LoggedVersion:
        """Write one version of any number of changes; returns it as it will be read."""
        version = self.version + 1
        written = tuple(
            replace(change, row_at=position) if change.row is not None and change.row_at is None else change
            for position, change in enumerate(made, start=self._position + 1)
        )
        rows: list[dict[str, Any]] = []
        records: list[dict[str, Any]] = []
        digests: list[bytes] = []
        for position, change in enumerate(written, start=self._position + 1):
            stored = _stored(change) if change.row_at == position else None
            record: dict[str, Any] = {
                "position": position,
                "operation": change.operation,
                "class_id": change.class_id,
                "document": None if change.entry is None else change.entry.to_json(),
                "row_position": change.row_at,
            }
            digests.append(digest_change(**record, stored=stored))
            records.append({**record, "version": version})
            if stored is not None:
                rows.append(dict(zip(("weight", "bias"), stored, strict=True), position=position))
        connection = self.connection
        before = connection.scalar(sa.select(versions.c.digest).where(versions.c.version == self.version)) or GENESIS
        if rows:
            connection.execute(sa.insert(head_rows), rows)
        if records:
            connection.execute(sa.insert(changes), records)
        connection.execute(
            sa.insert(versions).values(
                version=version,
                operation=operation,
                source=source,
                changes=len(records),
                digest=digest_version(before, version=version, operation=operation, source=source, changes=digests),
                made_at=datetime.now(UTC),
            )
        )
        self.version, self._position = version, self._position + len(records)
        connection.execute(sa.update(registry).values(version=self.version, position=self._position))
        self._database.announce(connection, version)
        return LoggedVersion(version=version, changes=written)


def _stored(change: Change) -> StoredRow:
    assert change.row is not None
    return change.row.weight.astype("<f4").tobytes(), change.row.bias


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
        self._bundle_id, self._vocabulary = bundle_id, list(vocabulary)
        self._generation = ""
        with database.reading() as connection:
            claimed = connection.execute(sa.select(registry.c.id)).one_or_none() is not None
        if not claimed:
            self._claim()
        with database.reading() as connection:
            self._generation = str(self._head(connection, any_generation=True).generation)

    @contextmanager
    def loading(self) -> Iterator[tuple[int, Iterator[tuple[int, Change]]]]:
        """The last version, and of every class that was ever changed its last change with the version that made it.

        Ordered by when the change was made; changes that others have superseded are not read.

        Raises:
            RegistryError: the log is damaged, or belongs to another bundle.
            StorageError: the database refuses.
        """
        with self.database.reading() as connection:
            head = self._head(connection, any_generation=True)
            self._check_gapless(connection, int(head.version))
            yield int(head.version), self._last_changes(connection, int(head.base))
            self._generation = str(head.generation)

    def since(self, version: int, *, within: NextVersion | None = None) -> list[LoggedVersion]:
        """Every version after one, oldest first, up to the last one committed.

        Args:
            version: 0 or higher.
            within: a version in the making, before which nobody else can make one.

        Raises:
            RegistryReplacedError: a backup has taken the registry's place.
            RegistryError: the log is damaged, or belongs to another bundle.
            StorageError: the database refuses.
        """
        if within is not None:
            return self._since(within.connection, version) if within.version > version else []
        with self.database.reading() as connection:
            return self._since(connection, version)

    @contextmanager
    def appending(self) -> Iterator[NextVersion]:
        """The right to make the next version; what was appended is on disk when the block has been left.

        Raises:
            RegistryReplacedError: a backup has taken the registry's place.
            StorageError: the database refuses; nothing was written.
        """
        with self.database.writing() as connection:
            # The lock on this row is kept until the commit: versions are gapless and in the order of commits.
            head = self._head(connection, lock=True)
            yield NextVersion(self.database, connection, version=int(head.version), position=int(head.position))

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
            raise RegistryError(f"the registry {self.database.name} has lost the line that says whose it is")
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
            raise RegistryError(f"the registry {self.database.name} lacks versions or changes up to {last}")

    def _last_changes(self, connection: sa.Connection, base: int) -> Iterator[tuple[int, Change]]:
        last = sa.select(sa.func.max(changes.c.position)).where(changes.c.version > base).group_by(changes.c.class_id)
        query = WITH_ROWS.where(changes.c.position.in_(last)).order_by(changes.c.position)
        for record in connection.execution_options(yield_per=AT_ONCE).execute(query):
            yield record[1], self.read(record)

    def _since(self, connection: sa.Connection, version: int) -> list[LoggedVersion]:
        last = int(self._head(connection).version)
        if last <= version:
            return []
        counts = connection.execute(
            sa.select(versions.c.version, versions.c.changes)
            .where(versions.c.version > version)
            .order_by(versions.c.version)
        ).all()
        found: dict[int, list[Change]] = {row.version: [] for row in counts}
        for record in connection.execute(WITH_ROWS.where(changes.c.version > version).order_by(changes.c.position)):
            found.setdefault(record[1], []).append(self.read(record))
        expected = {row.version: row.changes for row in counts}
        if list(found) != list(range(version + 1, last + 1)) or {v: len(c) for v, c in found.items()} != expected:
            raise RegistryError(
                f"the registry {self.database.name} lacks versions or changes between {version} and {last}"
            )
        return [LoggedVersion(version=number, changes=tuple(made)) for number, made in found.items()]

    def read(self, record: Any) -> Change:
        """A change from a record of the tables; RegistryError where it is damaged."""
        _, version, operation, class_id, document, row_at, weight, bias = record
        try:
            change = Change(
                operation=operation,
                class_id=class_id,
                entry=None if document is None else ClassEntry.from_json(document),
                row=None if weight is None else self._row(weight, bias),
                row_at=row_at,
            )
            if (change.entry is None) != (operation == "remove"):
                raise ValueError("the document does not fit the operation")
            if change.entry is not None and change.entry.id != class_id:
                raise ValueError("the document is that of another class")
            if (change.row is None) != (row_at is None):
                raise ValueError("the row is missing")
        except (D3GZSLError, KeyError, TypeError, ValueError) as error:
            raise RegistryError(f"the registry {self.database.name} is damaged at version {version}: {error}") from None
        return change

    def _row(self, weight: bytes, bias: float) -> Row:
        array = np.frombuffer(weight, dtype="<f4")
        if len(array) != self.dimension:
            raise ValueError(f"expected {self.dimension} weights, got {len(array)}")
        return Row(array.astype(np.float32, copy=False), float(bias))

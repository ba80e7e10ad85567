"""The log of changes: appended to under one lock, read back bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from model.classes import ClassEntry
from model.errors import D3GZSLError
from model.head import Row
from service.errors import RegistryError, StaleVersionError, StorageError
from service.registry.database import Database
from service.registry.tables import changes, registry

Operation = Literal["put", "describe", "remove"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of one class.

    Attributes:
        operation: `put` creates or replaces, `describe` changes the words only, `remove` removes.
        class_id: the class.
        entry: the class after the change; None for `remove`.
        row: its row of the head, as the registering process computed it; `put` only.
    """

    operation: Operation
    class_id: str
    entry: ClassEntry | None = None
    row: Row | None = None


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A change with the version that it made."""

    version: int
    change: Change


class ChangeLog:
    """The registry of one bundle in a database.

    Args:
        database: open database.
        bundle_id: whose registry it must be; an empty one becomes this bundle's.
        dimension: Z, the length of a row.

    Raises:
        RegistryError: it belongs to another bundle.
    """

    def __init__(self, database: Database, *, bundle_id: str, dimension: int) -> None:
        self._database, self._bundle_id, self._dimension = database, bundle_id, dimension
        with database.reading() as connection:
            owner = connection.scalar(sa.select(registry.c.bundle_id))
        if owner is None:
            self._claim()
        with database.reading() as connection:
            self._version(connection)

    def since(self, version: int) -> list[Logged]:
        """Every change after a version, oldest first, up to the last one committed.

        Raises:
            RegistryError: the log is damaged, or belongs to another bundle.
            StorageError: the database refuses.
        """
        with self._database.reading() as connection:
            last = self._version(connection)
            query = sa.select(changes).where(changes.c.version > version).order_by(changes.c.version)
            rows = connection.execute(query).mappings().all()
        if [row["version"] for row in rows] != list(range(version + 1, last + 1)):
            raise RegistryError(f"the registry {self._database.name} lacks versions between {version} and {last}")
        return [self._read(cast(dict[str, Any], row)) for row in rows]

    def append(self, change: Change, *, after: int) -> int:
        """Commit a change that was decided on version `after`; the version it made is on disk when this returns.

        Raises:
            StaleVersionError: the registry is not at `after` any more; nothing was written.
            StorageError: the database refuses; nothing was written.
        """
        version = after + 1
        row = change.row
        with self._database.writing() as connection:
            # The update locks the row until the commit, so versions are gapless and in the order of commits.
            updated = connection.execute(
                sa.update(registry)
                .where(registry.c.version == after, registry.c.bundle_id == self._bundle_id)
                .values(version=version)
            )
            if updated.rowcount != 1:
                raise StaleVersionError(f"the registry has left version {after}")
            connection.execute(
                sa.insert(changes).values(
                    version=version,
                    operation=change.operation,
                    class_id=change.class_id,
                    document=None if change.entry is None else change.entry.to_json(),
                    weight=None if row is None else row.weight.astype("<f4").tobytes(),
                    bias=None if row is None else row.bias,
                    made_at=datetime.now(UTC),
                )
            )
        return version

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _claim(self) -> None:
        try:
            with self._database.writing() as connection:
                connection.execute(sa.insert(registry).values(id=1, bundle_id=self._bundle_id, version=0))
        except StorageError as error:
            if not isinstance(error.__cause__, IntegrityError):  # else another process was first: see whose it is
                raise

    def _version(self, connection: sa.Connection) -> int:
        head = connection.execute(sa.select(registry.c.bundle_id, registry.c.version)).one()
        if head.bundle_id != self._bundle_id:
            raise RegistryError(
                f"the registry {self._database.name} belongs to the bundle {head.bundle_id}, not to "
                f"{self._bundle_id}: serve that bundle, or keep this one's registry in another --data-dir"
            )
        return int(head.version)

    def _read(self, row: dict[str, Any]) -> Logged:
        version = int(row["version"])
        try:
            change = Change(
                operation=row["operation"],
                class_id=row["class_id"],
                entry=None if row["document"] is None else ClassEntry.from_json(row["document"]),
                row=None if row["weight"] is None else self._row(row["weight"], row["bias"]),
            )
            if (change.entry is None) != (change.operation == "remove"):
                raise ValueError("the document does not fit the operation")
            if (change.row is None) != (change.operation != "put"):
                raise ValueError("the weights do not fit the operation")
        except (D3GZSLError, KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                f"the registry {self._database.name} is damaged at version {version}: {error}"
            ) from None
        return Logged(version=version, change=change)

    def _row(self, weight: bytes, bias: float) -> Row:
        array = np.frombuffer(weight, dtype="<f4").astype(np.float32)
        if len(array) != self._dimension:
            raise ValueError(f"expected {self._dimension} weights, got {len(array)}")
        return Row(array, float(bias))

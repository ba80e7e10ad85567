"""Making the next version: its changes, the rows they bring, and the digest over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service.registry.change import Change, Operation, Step
from service.registry.database import Database
from service.registry.digest import GENESIS, Stored, digest_change, digest_version
from service.registry.tables import changes, head_rows, registry, versions


class Appending:
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

    def append(self, operation: Operation, made: Sequence[Change], *, source: int | None = None) -> Step:
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
                rows.append(dict(zip(("weight", "bias", "embeddings"), stored, strict=True), position=position))
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
        return Step(version=version, changes=written)


def _stored(change: Change) -> Stored:
    assert change.row is not None
    embeddings = None if change.embeddings is None else change.embeddings.astype("<f2").tobytes()
    return change.row.weight.astype("<f4").tobytes(), change.row.bias, embeddings

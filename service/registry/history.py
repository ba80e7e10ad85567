"""Looking back into the log: its versions, and what a former one held."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

import sqlalchemy as sa

from service.errors import UnknownVersionError
from service.registry.change import CLASS_IDS_SHOWN, Change, HistoryEntry, Operation, in_utc
from service.registry.log import ChangeLog
from service.registry.reading.records import AT_ONCE
from service.registry.tables import changes, registry, versions


def read_versions(
    log: ChangeLog, *, after: int | None, limit: int, newest_first: bool = False
) -> tuple[HistoryEntry, ...]:
    """At most `limit` versions, those that come after one in their order; version 0 is the bundle and not among them.

    One that cannot be read is among them with what can be read of it, so that it hides no other.

    Args:
        log: of the registry.
        after: the version before the first one; from the beginning where it is None.
        limit: the most versions.
        newest_first: whether the newest version comes first instead of the oldest.

    Raises:
        StorageError: the database refuses.
    """
    number = versions.c.version
    wanted = sa.select(versions).order_by(number.desc() if newest_first else number).limit(limit)
    if after is not None:
        wanted = wanted.where(number < after if newest_first else number > after)
    with log.database.reading() as connection:
        found = connection.execute(wanted).all()
        ids: dict[int, list[str]] = {row.version: [] for row in found}
        if found:
            first, last = min(ids), max(ids)
            # Positions grow with versions: the lowest of each version tells which of its changes come first.
            numbered = (
                sa.select(
                    changes.c.version,
                    changes.c.class_id,
                    sa.func.row_number()
                    .over(partition_by=changes.c.version, order_by=changes.c.position)
                    .label("number"),
                )
                .where(changes.c.version.between(first, last))
                .subquery()
            )
            for version, class_id in connection.execute(
                sa.select(numbered.c.version, numbered.c.class_id)
                .where(numbered.c.number <= CLASS_IDS_SHOWN)
                .order_by(numbered.c.version, numbered.c.number)
            ):
                ids[version].append(class_id)
    return tuple(_entry(row, ids[row.version]) for row in found)


def _entry(row: Any, class_ids: list[str]) -> HistoryEntry:
    """What a row says, without what in it cannot be."""
    known = row.operation in get_args(Operation)
    whole = known and isinstance(row.made_at, datetime) and isinstance(row.changes, int)
    return HistoryEntry(
        version=row.version,
        operation=row.operation if known else None,
        made_at=in_utc(row.made_at) if isinstance(row.made_at, datetime) else None,
        changes=row.changes if isinstance(row.changes, int) else len(class_ids),
        class_ids=tuple(map(str, class_ids)),
        source=row.source if isinstance(row.source, int) else None,
        author=row.author if isinstance(row.author, str) else None,
        damaged=not whole,
    )


def changes_back_to(
    connection: sa.Connection, log: ChangeLog, *, version: int, last: int
) -> tuple[list[Change], list[str]]:
    """What leads from version `last` back to a former one.

    Returns:
        The changes that restore what the log said of a class at that version, with references to the stored rows; and
        the ids of the classes about which it said nothing yet, which are as the bundle has them.

    Raises:
        UnknownVersionError: the version never was, or was made for another bundle.
    """
    base = int(connection.scalar(sa.select(registry.c.base)) or 0)
    if version > last or version < 0:
        raise UnknownVersionError(f"the registry has no version {version}; the last one is {last}")
    if 0 < version <= base:
        raise UnknownVersionError(f"version {version} was made for another bundle; this one's begin with {base + 1}")
    then, now = (_positions(connection, base, at) for at in (version, last))
    stale = [class_id for class_id, position in now.items() if then.get(class_id) != position]
    wanted = sorted(then[class_id] for class_id in stale if class_id in then)
    restored: list[Change] = []
    for start in range(0, len(wanted), AT_ONCE):
        restored += log.changes_at(connection, wanted[start : start + AT_ONCE])
    return restored, [class_id for class_id in stale if class_id not in then]


def _positions(connection: sa.Connection, base: int, version: int) -> Mapping[str, int]:
    """Position of each class's last change, of those made after `base` and up to a version."""
    query = (
        sa.select(changes.c.class_id, sa.func.max(changes.c.position))
        .where(changes.c.version > base, changes.c.version <= version)
        .group_by(changes.c.class_id)
        .order_by(changes.c.class_id)
    )
    return {row.class_id: row[1] for row in connection.execute(query)}

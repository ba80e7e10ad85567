"""Proof that a log is whole: nothing is missing, nothing was changed after it was written, everything can be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from service.errors import RegistryError
from service.registry.change import GENESIS, canonical, digest_change, digest_version
from service.registry.reading.records import AT_ONCE
from service.registry.tables import changes, example_embeddings, head_rows, registry, versions

_MOST = 20
"""Most findings of one kind that are named."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found.

    Attributes:
        version: the last version.
        changes: changes in all versions.
        findings: everything that is wrong; empty for a log that is whole.
    """

    version: int
    changes: int
    findings: tuple[str, ...]


def audit(connection: sa.Connection) -> Audit:
    """Go through the whole log: numbers without gaps, counts, references, and the digest of every version.

    Raises:
        RegistryError: there is no registry at all.
    """
    head = connection.execute(sa.select(registry)).one_or_none()
    if head is None:
        raise RegistryError("there is no registry in this database")
    listed = connection.execute(sa.select(versions).order_by(versions.c.version)).all()
    numbers = [row.version for row in listed]
    findings: list[str] = []
    if numbers != list(range(1, head.version + 1)):
        missing = sorted(set(range(1, head.version + 1)) - set(numbers))
        findings.append(f"versions are missing or too many: {_some(missing or numbers[-3:])}")
    digests, count = _digests_of_changes(connection, head.position, findings)
    before = GENESIS
    for row in listed:
        found = digests.get(row.version, [])
        if len(found) != row.changes:
            findings.append(f"version {row.version} has {len(found)} changes, expected {row.changes}")
        expected = digest_version(
            before, version=row.version, operation=row.operation, source=row.source, changes=found
        )
        if expected != row.digest:
            findings.append(f"version {row.version} is not as it was written: its digest does not fit")
        if row.made_at is None:
            findings.append(f"version {row.version} has a time that cannot be read")
        before = row.digest
    if strangers := sorted(digests.keys() - set(numbers)):
        findings.append(f"changes belong to versions that do not exist: {_some(strangers)}")
    findings += _wrong_references(connection)
    findings += _wrong_examples(connection)
    if len(findings) > _MOST:
        findings = [*findings[:_MOST], f"and {len(findings) - _MOST} more"]
    return Audit(version=int(head.version), changes=count, findings=tuple(findings))


def _digests_of_changes(
    connection: sa.Connection, last: int, findings: list[str]
) -> tuple[dict[int, list[bytes]], int]:
    """Digests of the changes of each version, and how many changes there are."""
    own = head_rows.c.position == changes.c.position
    query = (
        sa.select(changes, head_rows.c.weight, head_rows.c.bias)
        .select_from(changes.outerjoin(head_rows, own))
        .order_by(changes.c.position)
    )
    digests: dict[int, list[bytes]] = {}
    expected = 0
    for row in connection.execution_options(yield_per=AT_ONCE).execute(query):
        expected += 1
        if row.position != expected:
            findings.append(f"the change at position {expected} is missing")
            expected = row.position
        digests.setdefault(row.version, []).append(
            digest_change(
                position=row.position,
                operation=row.operation,
                class_id=row.class_id,
                document=None if row.document is None else canonical(row.document),
                row_position=row.row_position,
                stored=None if row.weight is None else (row.weight, row.bias),
            )
        )
    if expected != last:
        findings.append(f"the last change is at position {expected}, expected {last}")
    return digests, sum(map(len, digests.values()))


def _wrong_references(connection: sa.Connection) -> list[str]:
    source = changes.alias("source")
    named = changes.outerjoin(source, source.c.position == changes.c.row_position).outerjoin(
        head_rows, head_rows.c.position == changes.c.row_position
    )
    wrong = (
        sa.select(changes.c.position)
        .select_from(named)
        .where(
            changes.c.row_position.is_not(None),
            head_rows.c.position.is_(None)
            | source.c.position.is_(None)
            | (source.c.class_id != changes.c.class_id)
            | (source.c.position > changes.c.position),
        )
        .order_by(changes.c.position)
    )
    unused = (
        sa.select(head_rows.c.position)
        .select_from(head_rows.outerjoin(changes, changes.c.row_position == head_rows.c.position))
        .where(changes.c.position.is_(None))
        .order_by(head_rows.c.position)
    )
    found = [(connection.scalars(query).all(), words) for query, words in ((wrong, _WRONG), (unused, _UNUSED))]
    return [words.format(_some(positions)) for positions, words in found if positions]


def _wrong_examples(connection: sa.Connection) -> list[str]:
    """Example photos whose embedding is missing or is not as it was written, and embeddings of none."""
    stored = {
        (row.position, row.example_id): hashlib.sha256(row.embedding).hexdigest()
        for row in connection.execution_options(yield_per=AT_ONCE).execute(sa.select(example_embeddings))
    }
    named: dict[tuple[int, str], str] = {}
    documents = sa.select(changes.c.document).where(changes.c.document.is_not(None))
    for document in connection.execution_options(yield_per=AT_ONCE).execute(documents).scalars():
        if isinstance(document, dict):
            named |= {(e["position"], e["id"]): e["digest"] for e in document.get("examples", ())}
    wrong = sorted(key[0] for key, digest in named.items() if stored.get(key) != digest)
    unused = sorted(key[0] for key in stored.keys() - named.keys())
    found = ((wrong, "example photos lack their embedding: positions {}"), (unused, "embeddings of no photo: {}"))
    return [words.format(_some(positions)) for positions, words in found if positions]


_WRONG = "changes name a row that is not theirs, or none: positions {}"
_UNUSED = "rows belong to no change: positions {}"


def _some(numbers: Any) -> str:
    return ", ".join(map(str, numbers[:_MOST])) + (" ..." if len(numbers) > _MOST else "")

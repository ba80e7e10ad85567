"""Changes as they lie in the tables, each version of them held against its digest before it is believed.

n: changes read together, Z: embedding dimension.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.errors import D3GZSLError
from model.head import Float32, Row
from service.registry.change import GENESIS, Change, canonical, digest_change, digest_version, from_json
from service.registry.database import Database
from service.registry.tables import changes, head_rows, versions

AT_ONCE = 500  # positions or versions in one question: below every database's limit of parameters
_BYTES_TOGETHER = 2**19
"""Of rows that are looked at together: more leave the processor's caches, and the system clears new memory for them."""

_CANONICAL = '{"attributes": '
"""With this every document begins that was stored in its canonical form; former releases stored its `id` first."""


class Record(NamedTuple):
    """A change as it is stored, with the row that it names; no value has been looked at yet."""

    position: int
    version: int
    operation: str
    class_id: str
    document: str | None
    row_position: int | None
    weight: bytes | None
    bias: float | None


class StoredChanges(NamedTuple):
    """Changes as they are read at a start: their documents fit the digests of their versions, and are not parsed yet.

    Attributes:
        records: n changes; the `document` is None for `remove`.
        weights: rows of the head of those of them that have a `weight`, in their order, float32.
        biases: likewise, float64.
    """

    records: list[Record]
    weights: Float32
    biases: NDArray[np.float64]


Span = tuple[int, int] | list[int]
"""The first and the last of numbers that adjoin, or some numbers."""

_version = attrgetter("version")
_RECORDS = sa.select(
    changes.c.position,
    changes.c.version,
    changes.c.operation,
    changes.c.class_id,
    sa.cast(changes.c.document, sa.Text).label("document"),
    changes.c.row_position,
    head_rows.c.weight,
    head_rows.c.bias,
).select_from(changes.outerjoin(head_rows, head_rows.c.position == changes.c.row_position))
_before = versions.alias()
_WRITTEN = sa.select(
    versions.c.version,
    versions.c.operation,
    versions.c.source,
    versions.c.changes,
    versions.c.digest,
    _before.c.digest.label("before"),
).select_from(versions.outerjoin(_before, _before.c.version == versions.c.version - 1))


class RecordReader:
    """Reads changes of one database.

    Args:
        database: says what is damaged.
        dimension: Z.
    """

    def __init__(self, database: Database, dimension: int) -> None:
        self._damaged, self._dimension = database.damaged, dimension
        self._together = max(1, min(AT_ONCE, _BYTES_TOGETHER // (4 * dimension)))

    def verified(self, connection: sa.Connection, wanted: Sequence[int]) -> Iterator[list[Record]]:
        """All changes of some versions in order, up to `AT_ONCE` at a time.

        They are given before the digest of their version has been found right: what is made of them counts once the
        iterator has ended.

        Args:
            connection: in a transaction that sees one state.
            wanted: numbers of versions, ascending.

        Raises:
            RegistryDamagedError: a version does not fit its digest, or is not there.
        """
        for span in spans(wanted):
            found = connection.execute(_WRITTEN.where(_within(versions.c.version, span)))
            written = {row.version: row for row in found}
            version = _VersionInReading(self._damaged)
            for together in self._records(connection, span, changes_of=written):
                yield together
                for number, of_version in groupby(together, _version):
                    if number != version.number:
                        version.check()
                        version = _VersionInReading(self._damaged, number, written.pop(number, None))
                    version.add(of_version)
            version.check()
            for number, empty in written.items():  # versions without changes, or that lost them
                _VersionInReading(self._damaged, number, empty).check()

    def _records(
        self, connection: sa.Connection, span: Span, *, changes_of: Mapping[int, Any]
    ) -> Iterator[list[Record]]:
        """The changes of a span of versions in order.

        They are asked for by their positions, which are gapless as versions are: rows are read in the order in which
        they lie. To sort them by their versions, SQLite would write all of them to a file first.
        """
        if isinstance(span, list):
            of_them = sa.select(changes.c.position).where(changes.c.version.in_(span))
            found = connection.scalars(of_them.order_by(changes.c.version, changes.c.position)).all()
            positions = list(spans(found))
        else:
            before = sa.select(sa.func.sum(versions.c.changes)).where(versions.c.version < span[0])
            first = int(connection.scalar(before) or 0) + 1
            positions = [(first, first + sum(row.changes for row in changes_of.values()) - 1)]
        for adjoining in positions:
            query = _RECORDS.where(_within(changes.c.position, adjoining)).order_by(changes.c.position)
            records = connection.execute(query, execution_options={"yield_per": self._together})
            for part in records.partitions():
                yield [*map(Record._make, part)]

    def changes(self, records: Sequence[Record]) -> list[Change]:
        """What records say.

        Raises:
            RegistryDamagedError: one is no change.
        """
        rows = self._rows(records)
        return [self._change(record, row) for record, row in zip(records, rows, strict=True)]

    def stored(self, records: list[Record]) -> StoredChanges:
        """What records say, without a look into their documents.

        Raises:
            RegistryDamagedError: one has a row that is none.
        """
        return StoredChanges(records, *self._finite_rows([record for record in records if record.weight is not None]))

    def _rows(self, records: Sequence[Record]) -> list[Row | None]:
        with_row = [i for i, record in enumerate(records) if record.weight is not None]
        rows: list[Row | None] = [None] * len(records)
        weights, biases = self._finite_rows([records[i] for i in with_row])
        for i, weight, bias in zip(with_row, weights, biases.tolist(), strict=True):
            rows[i] = Row(weight, bias)
        return rows

    def _finite_rows(self, records: Sequence[Record]) -> tuple[Float32, NDArray[np.float64]]:
        stored: list[Any] = [record.weight for record in records]
        usual = set(map(type, stored)) <= {bytes} and {type(record.bias) for record in records} <= {float}
        if not usual or not set(map(len, stored)) <= {4 * self._dimension}:
            for record in records:
                if not isinstance(record.weight, bytes) or not isinstance(record.bias, float | int):
                    raise self._fault(record, "a value has another type than was written")
                if len(record.weight) != 4 * self._dimension:
                    raise self._fault(record, f"expected {self._dimension} weights, got {len(record.weight) // 4}")
        together = b"".join(stored)
        weights: Float32 = np.frombuffer(together, dtype="<f4").reshape(len(records), self._dimension)
        weights = weights.astype(np.float32, copy=False)
        biases = np.array([record.bias for record in records], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(weights.sum(axis=1) + biases)  # a sum is finite only where all its terms are
        if not finite.all():
            finite = np.isfinite(weights).all(axis=1) & np.isfinite(biases)
        if not finite.all():
            raise self._fault(records[int(finite.argmin())], "the row holds numbers that are not finite")
        return weights, biases

    def _change(self, record: Record, row: Row | None) -> Change:
        _, _, operation, class_id, document, row_at, _, _ = record
        try:
            change = Change(
                operation=operation,  # type: ignore[arg-type]  # as the digest says
                class_id=class_id,
                entry=None if document is None else ClassEntry.from_json(from_json(document)),
                row=row,
                row_at=row_at,
            )
            if (change.entry is None) != (operation == "remove"):
                raise ValueError("the document does not fit the operation")
            if change.entry is not None and change.entry.id != class_id:
                raise ValueError("the document is that of another class")
            if (change.row is None) != (row_at is None):
                raise ValueError("the row is missing")
        except (D3GZSLError, KeyError, TypeError, ValueError) as error:
            raise self._fault(record, str(error)) from None
        return change

    def _fault(self, record: Record, what: str) -> D3GZSLError:
        return self._damaged(f" at version {record.version}: {' '.join(what.split())}")


def spans(wanted: Sequence[int]) -> Iterator[Span]:
    """Ascending numbers in few questions: the first and the last of many that adjoin, or at most `AT_ONCE` others."""
    others: list[int] = []
    start = 0
    while start < len(wanted):
        stop = start + 1
        while stop < len(wanted) and wanted[stop] == wanted[stop - 1] + 1:
            stop += 1
        if stop - start >= AT_ONCE or stop - start == len(wanted):
            if others:
                yield others
                others = []
            yield wanted[start], wanted[stop - 1]
        else:
            for number in wanted[start:stop]:
                others.append(number)
                if len(others) == AT_ONCE:
                    yield others
                    others = []
        start = stop
    if others:
        yield others


def _within(column: sa.Column[int], span: Span) -> sa.ColumnElement[bool]:
    return column.in_(span) if isinstance(span, list) else column.between(*span)


class _VersionInReading:
    """Digests of a version's changes, one by one, until the version can be held against its own.

    Args:
        damaged: makes the error.
        number: of the version; 0 before the first one, of which there is nothing to check.
        written: what the table of versions says of it.
    """

    def __init__(self, damaged: Callable[[str], D3GZSLError], number: int = 0, written: Any = None) -> None:
        self.number, self._damaged, self._written = number, damaged, written
        self._digests: list[bytes] = []

    def add(self, records: Iterable[Record]) -> None:
        digests = self._digests
        try:
            for position, _, operation, class_id, document, row_position, weight, bias in records:
                brought = row_position == position and weight is not None and bias is not None
                if document is not None and not document.startswith(_CANONICAL):
                    document = canonical(from_json(document))
                digests.append(
                    digest_change(
                        position,
                        operation,
                        class_id,
                        document,
                        row_position,
                        (weight, bias) if brought else None,  # type: ignore[arg-type]  # as was just looked
                    )
                )
        except (TypeError, ValueError, struct.error):
            what = f" at version {self.number}: a value has another type than was written"
            raise self._damaged(what) from None

    def check(self) -> None:
        written = self._written
        if self.number == 0:
            return
        if written is None or written.changes != len(self._digests):
            raise self._damaged(f": it lacks versions or changes at {self.number}")
        digest = digest_version(
            written.before or GENESIS,
            version=self.number,
            operation=written.operation,
            source=written.source,
            changes=self._digests,
        )
        if digest != written.digest:
            raise self._damaged(f" at version {self.number}: its digest does not fit what is stored")

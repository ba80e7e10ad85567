"""From the log of changes to the class table, all at once or step by step, with the same rows in the same order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Row
from model.photos import PhotoPrior
from service.classes.class_table import ClassTable, KnownClass, StoredClass
from service.classes.snapshot import Snapshot
from service.errors import RegistryError
from service.registry.change import Change, LoggedVersion
from service.registry.log import ChangeLog
from service.registry.reading.records import Record, StoredChanges


class Replay:
    """Applies changes to the classes that a bundle brings.

    Args:
        bundle: version 0.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._entries = bundle.manifest.classes
        self._dimension, self._photos = bundle.manifest.head.dimension, bundle.manifest.head.photos
        rows = zip(self._entries, bundle.weight, bundle.bias, strict=True)
        self._rows = {entry.id: Row(weight, float(bias)) for entry, weight, bias in rows}

    def load(self, log: ChangeLog) -> Snapshot:
        """The newest snapshot of a log; of every class only the last change is read.

        Raises:
            RegistryError: the log is damaged, does not apply, or belongs to another bundle.
            StorageError: the database refuses.
        """
        bundled = ((KnownClass(entry=e, registry_version=0), self._rows[e.id]) for e in self._entries)
        table = ClassTable.of(0, bundled, dimension=self._dimension)
        with log.loading() as (version, parts), table.growing():
            for part in parts:
                self._apply(part, table, version)
            table.finish(version)
        return Snapshot(registry_version=version, table=table, length=len(table))

    def after(self, snapshot: Snapshot, steps: Iterable[LoggedVersion]) -> Snapshot:
        """The snapshot after further versions.

        Raises:
            RegistryError: one does not fit what came before it.
        """
        for step in steps:
            try:
                edits = [(change.class_id, self._known(change, step.version)) for change in step.changes]
                snapshot = snapshot.with_changes(step.version, edits)
            except KeyError as error:
                raise _does_not_apply(step.version, error.args[0]) from None
        return snapshot

    def _apply(self, part: StoredChanges, table: ClassTable, version: int) -> None:
        """Write last changes of classes into a table that is to show `version`."""
        records, weights, biases = part
        if not all(record.document is not None and record.weight is not None for record in records):
            rows = zip(weights, biases.tolist(), strict=True)
            own = [Row(*next(rows)) if record.weight is not None else None for record in records]
            for record in records:
                if record.document is None:
                    table.discard(record.class_id, version)
            chosen = [
                row or self._bundled_row(record)
                for record, row in zip(records, own, strict=True)
                if record.document is not None
            ]
            records = [record for record in records if record.document is not None]
            weights = np.array([row.weight for row in chosen], dtype=np.float32).reshape(len(chosen), self._dimension)
            biases = np.array([row.bias for row in chosen], dtype=np.float64)
        known = [
            StoredClass(
                record.class_id,
                str(record.document),
                registry_version=record.version,
                row_at=record.row_position,
                prior=self._photos,
            )
            for record in records
        ]
        table.extend(known, weights, biases, version)

    def _bundled_row(self, record: Record) -> Row:
        try:
            return self._rows[record.class_id]
        except KeyError as error:
            raise _does_not_apply(record.version, error.args[0]) from None

    def _known(self, change: Change, version: int) -> tuple[KnownClass, Row] | None:
        if change.entry is None:
            return None
        known = KnownClass(
            entry=change.entry,
            registry_version=version,
            row_at=change.row_at,
            photo_share=photo_share(self._photos, change.entry),
        )
        return known, change.row or self._rows[change.class_id]


def photo_share(prior: PhotoPrior | None, entry: ClassEntry) -> float:
    """How much of the seen penalty applies to an unseen class, 0..1."""
    return prior.seen_share(len(entry.examples)) if prior else 0.0


def _does_not_apply(version: int, class_id: str) -> RegistryError:
    return RegistryError(f"version {version} of the registry changes {class_id!r}, which does not exist")

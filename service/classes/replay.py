"""From the log of changes to the class table, all at once or step by step, with the same rows in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Row
from model.photos import PhotoPrior
from service.classes.class_table import ClassTable, KnownClass, StoredClass
from service.classes.snapshot import Snapshot
from service.errors import RegistryError
from service.registry.change import Change, LoggedVersion, StoredChange
from service.registry.log import ChangeLog


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
        table = ClassTable(self._dimension)
        with log.loading() as (version, changes):
            table.extend(version, self._bundled_and(changes))
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

    def _bundled_and(
        self, changes: Iterable[tuple[int, StoredChange]]
    ) -> Iterator[tuple[str, tuple[KnownClass, Row] | None]]:
        for entry in self._entries:
            yield entry.id, (KnownClass(entry=entry, registry_version=0), self._rows[entry.id])
        for version, (_, class_id, document, row, row_at) in changes:
            if document is None:
                yield class_id, None
                continue
            known = StoredClass(class_id, document, registry_version=version, row_at=row_at, prior=self._photos)
            try:
                yield class_id, (known, row or self._rows[class_id])
            except KeyError as error:
                raise _does_not_apply(version, error.args[0]) from None

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

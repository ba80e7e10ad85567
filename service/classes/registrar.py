"""Changes of the class table: decided on the newest snapshot, committed to the log, then made visible at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import AttributesError, D3GZSLError, InvalidInputError, Problem
from model.head import Float32, Row
from service.classes.class_table import KnownClass
from service.classes.edits import (
    ANY,
    AddExamples,
    Create,
    Describe,
    Edit,
    Embeddings,
    Precondition,
    Put,
    Remove,
    RemoveExample,
)
from service.classes.replay import Replay
from service.classes.snapshot import Snapshot
from service.errors import (
    BatchConflictError,
    ClassExistsError,
    InvalidBatchError,
    PreconditionError,
    RegistryReplacedError,
)
from service.inference.class_rows import MeansAhead, compute_rows
from service.inference.engine import Engine
from service.registry.change import AUTHOR, CLASS_IDS_SHOWN, Change, HistoryEntry, LoggedVersion, Operation
from service.registry.history import changes_back_to, read_versions
from service.registry.log import ChangeLog, NextVersion

audit_log = logging.getLogger("d3gzsl.audit")

NO_PHOTOS: Embeddings = {}

Computed = dict[str, tuple[ClassEntry, Row]]
"""Rows that were computed, by the id of the class, with what they are for."""


@dataclass(frozen=True, kw_only=True)
class StoredClass:
    """A class after a change, and whether it is new."""

    known: KnownClass
    created: bool


class Registrar:
    """The newest snapshot and its only writer in this process; every method may be called from any thread.

    Args:
        bundle: version 0.
        engine: synthesises embeddings of new classes.
        log: the registry of this bundle; replayed to the same weights bit for bit.
        snapshot: what the log was replayed to already; None where it was not.

    Raises:
        RegistryError: the log cannot be read or does not apply.
    """

    def __init__(self, bundle: Bundle, engine: Engine, log: ChangeLog, *, snapshot: Snapshot | None = None) -> None:
        self._bundle, self._engine, self._log = bundle, engine, log
        self._ahead = MeansAhead(bundle, engine)
        self._lock = threading.Lock()
        self._observers: list[Callable[[], None]] = []
        self._replay = Replay(bundle)
        self._snapshot = self._replay.load(log) if snapshot is None else snapshot

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._snapshot

    def prepare(self, entry: ClassEntry) -> None:
        """Do of a change to come what takes long and needs no photos of the class: synthesise what is described."""
        self._ahead.make(entry)

    def subscribe(self, observer: Callable[[], None]) -> None:
        """Have a function called after every new snapshot, in whatever thread made it."""
        self._observers.append(observer)

    def create(self, entry: ClassEntry, *, embeddings: Embeddings = NO_PHOTOS) -> KnownClass:
        """Register a class, with the embeddings of its example photos by id.

        Raises:
            ClassExistsError: its id is taken.
            AttributesError: no finite row can be made from its attributes.
            StorageError: the database refuses.
        """
        _, after = self._edit(Create(entry=entry, embeddings=embeddings))
        return after.there(entry.id)

    def put(
        self, entry: ClassEntry, condition: Precondition = ANY, *, embeddings: Embeddings = NO_PHOTOS
    ) -> StoredClass:
        """Create or replace a class, with the embeddings of its example photos by id; what is so makes no new version.

        Raises:
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            AttributesError: no finite row can be made from its attributes.
            StorageError: the database refuses.
        """
        before, after = self._edit(Put(entry=entry, condition=condition, embeddings=embeddings))
        return StoredClass(known=after.there(entry.id), created=before.get(entry.id) is None)

    def describe(self, class_id: str, words: Mapping[str, Any], condition: Precondition = ANY) -> KnownClass:
        """Change a class's name, description or metadata; its row stays.

        Raises:
            UnknownClassError: no class has this id.
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            StorageError: the database refuses.
        """
        _, after = self._edit(Describe(class_id=class_id, words=words, condition=condition))
        return after.there(class_id)

    def change(self, edit: AddExamples | RemoveExample) -> KnownClass:
        """Add example photos to a class, or take one back; returns the class.

        Raises:
            UnknownClassError, UnknownExampleError: there is no such class, or no such example.
            LastExampleError: a class without a description would have no example left.
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            InvalidExamplesError: it would have too many, or the bundle takes none.
            StorageError: the database refuses.
        """
        _, after = self._edit(edit)
        return after.there(edit.class_id)

    def remove(self, class_id: str, condition: Precondition = ANY) -> int:
        """Remove a class; returns the version without it.

        Raises:
            UnknownClassError: no class has this id.
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            StorageError: the database refuses.
        """
        _, after = self._edit(Remove(class_id=class_id, condition=condition))
        return after.registry_version

    def apply_batch(
        self, edits: Sequence[Edit], *, go_on: Callable[[], object] = lambda: None
    ) -> tuple[Snapshot, Snapshot]:
        """Many changes as one version, all or nothing; returns the snapshots before and after them.

        Args:
            edits: at most one for each class; what is already so is left as it is.
            go_on: called now and then before anything is stored; what it raises ends the work.

        Raises:
            BatchConflictError: some do not fit the table as it is; names each by its place, ``/classes/<i>``.
            InvalidBatchError: from some attributes no finite row can be made; likewise.
            StorageError: the database refuses.
        """
        return self._apply(edits, "batch", go_on)

    def rollback(self, version: int, *, expected: Collection[int] | None = None) -> Snapshot:
        """Append a version that has a former one's classes; returns the snapshot of it.

        Args:
            version: 0 for the bundle's own classes, or one of this bundle's versions.
            expected: versions one of which the registry must be at; None for any.

        Raises:
            PreconditionError: the registry is at another version than expected.
            UnknownVersionError: there was no such version.
            StorageError: the database refuses.
        """
        with self._appending() as (log, before):
            if expected is not None and before.registry_version not in expected:
                raise PreconditionError(f"the registry is at version {before.registry_version}")
            step = log.append("rollback", self._changes_back(log, before, version), source=version)
        return self._publish(before, step)

    def versions(
        self, *, after: int | None = None, limit: int = 100, newest_first: bool = False
    ) -> tuple[HistoryEntry, ...]:
        """At most `limit` versions after one in their order; version 0 is the bundle alone and not among them.

        Raises:
            StorageError: the database refuses.
        """
        return read_versions(self._log, after=after, limit=limit, newest_first=newest_first)

    def catch_up(self) -> Snapshot:
        """Apply what other processes have committed; returns the newest snapshot.

        Raises:
            RegistryError: the log is damaged, does not apply, or belongs to another bundle.
            StorageError: the database refuses.
        """
        with self._lock:
            former = self._snapshot
            try:
                snapshot = self._replay.after(former, self._log.since(former.registry_version))
            except RegistryReplacedError:
                snapshot = self._replay.load(self._log)
            self._snapshot = snapshot
        if snapshot is not former:
            self._tell()
        return snapshot

    def _edit(self, edit: Edit) -> tuple[Snapshot, Snapshot]:
        """Snapshots before and after one change."""
        return self._apply([edit], None)

    def _apply(
        self, edits: Sequence[Edit], operation: Operation | None, go_on: Callable[[], object] = lambda: None
    ) -> tuple[Snapshot, Snapshot]:
        """Decide on the newest state and commit; rows are computed before, so that no other process waits for them."""
        computed: Computed = {}
        try:
            self._decide(self._snapshot, edits, computed, single=operation is None, go_on=go_on)
        except D3GZSLError:  # which may be so no longer: others may have changed the table since
            self._decide(self.catch_up(), edits, computed, single=operation is None, go_on=go_on)
        go_on()
        with self._appending() as (log, before):
            changes = self._decide(before, edits, computed, single=operation is None, within=log)
            if not changes:
                return before, before
            step = log.append(operation or changes[0].operation, changes)
        return before, self._publish(before, step)

    def _decide(
        self,
        snapshot: Snapshot,
        edits: Sequence[Edit],
        computed: Computed,
        *,
        single: bool,
        within: NextVersion | None = None,
        go_on: Callable[[], object] = lambda: None,
    ) -> list[Change]:
        """The changes that the edits amount to; rows that are missing are computed once every edit is known to fit."""
        failures: dict[int, D3GZSLError] = {}
        decided: list[tuple[int, Change | ClassEntry]] = []
        taken: set[str] = set()
        for i, edit in enumerate(edits):
            try:
                if edit.class_id in taken:
                    raise ClassExistsError(f"the batch has a change of {edit.class_id!r} already")
                taken.add(edit.class_id)
                decision = edit.decide(snapshot.get)
            except D3GZSLError as error:
                failures[i] = error
            else:
                if decision is not None:
                    decided.append((i, decision))
        _raise(failures, len(edits), single=single)
        missing = [(i, d) for i, d in decided if isinstance(d, ClassEntry) and computed.get(d.id, (None, None))[0] != d]
        given = {edits[i].class_id: _embeddings(edits[i]) for i, _ in missing}

        def photos(entry: ClassEntry) -> Float32:
            return self._log.embeddings(
                entry.examples, given[entry.id], connection=None if within is None else within.connection
            )

        rows = compute_rows(
            self._bundle,
            self._engine,
            [entry for _, entry in missing],
            photos=photos,
            means=self._ahead.take,
            go_on=go_on,
        )
        for (i, entry), made in zip(missing, rows, strict=True):
            if isinstance(made, AttributesError):
                failures[i] = made
            else:
                computed[entry.id] = (entry, made)
        _raise(failures, len(edits), single=single)
        return [_change(snapshot, decision, computed, _embeddings(edits[i])) for i, decision in decided]

    def _changes_back(self, log: NextVersion, snapshot: Snapshot, version: int) -> list[Change]:
        """What makes the table that of a former version; nothing for classes that are as they were."""
        restored, as_bundled = changes_back_to(log.connection, self._log, version=version, last=log.version)
        bundled = {entry.id: entry for entry in self._bundle.manifest.classes}
        wanted = [
            *restored,
            *(Change(operation="put", class_id=i, entry=e) for i, e in bundled.items() if i in set(as_bundled)),
            *(Change(operation="remove", class_id=i) for i in as_bundled if i not in bundled),
        ]
        changes = []
        for change in wanted:
            known = snapshot.get(change.class_id)
            if change.entry is None:
                if known is not None:
                    changes.append(change)
            elif known is None or (known.entry, known.row_at) != (change.entry, change.row_at):
                changes.append(replace(change, operation="put"))
        return changes

    @contextmanager
    def _appending(self) -> Iterator[tuple[NextVersion, Snapshot]]:
        """The right to make the next version, and the snapshot of the last one.

        Where others made that, observers are told of it, also if nothing is appended to it.
        """
        former = self._snapshot
        try:
            with self._log.appending() as log:
                yield log, self._advance(log)
        finally:
            if self._snapshot is not former:
                self._tell()

    def _advance(self, log: NextVersion) -> Snapshot:
        """The snapshot of the last committed version, when nobody else can make the next one."""
        with self._lock:
            former = self._snapshot
            self._snapshot = self._replay.after(former, self._log.since(former.registry_version, within=log))
            return self._snapshot

    def _publish(self, before: Snapshot, step: LoggedVersion) -> Snapshot:
        """Show a version that is on disk; returns its snapshot, also where others have made newer ones meanwhile."""
        with self._lock:
            newest = self._snapshot
            after = newest if newest.registry_version == step.version else self._replay.after(before, [step])
            if after.registry_version > newest.registry_version:
                self._snapshot = after
        self._tell()
        audit_log.info(
            "version %d of the registry, by %s: %d classes changed: %s",
            step.version,
            AUTHOR.get() or "nobody named",
            len(step.changes),
            ", ".join(change.class_id for change in step.changes[:CLASS_IDS_SHOWN]),
        )
        return after

    def _tell(self) -> None:
        for observer in self._observers:
            observer()


def _embeddings(edit: Edit) -> Embeddings:
    return edit.embeddings if isinstance(edit, Create | Put | AddExamples) else NO_PHOTOS


def _change(snapshot: Snapshot, decision: Change | ClassEntry, computed: Computed, given: Embeddings) -> Change:
    if isinstance(decision, Change):
        return decision if decision.row_at is None else replace(decision, row=snapshot.row(decision.class_id))
    new = {example.id: given[example.id] for example in decision.examples if example.position is None}
    row = computed[decision.id][1]
    return Change(operation="put", class_id=decision.id, entry=decision, row=row, embeddings=new)


def _raise(failures: Mapping[int, D3GZSLError], edits: int, *, single: bool) -> None:
    """Raise what is wrong: a lone change's own error, or one that names every item of a batch."""
    if not failures:
        return
    if single:
        raise failures[0]
    problems = []
    for i, error in failures.items():
        own = error.problems if isinstance(error, InvalidInputError) else ()
        problems += [replace(p, pointer=f"/classes/{i}{p.pointer}") for p in own]
        if not own:
            problems.append(Problem(pointer=f"/classes/{i}", detail=str(error)))
    invalid = all(isinstance(error, InvalidInputError) for error in failures.values())
    kind = InvalidBatchError if invalid else BatchConflictError
    raise kind(f"{len(failures)} of {edits} changes cannot be made; none was", problems)

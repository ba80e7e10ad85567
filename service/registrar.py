"""Changes of the class table: decided on the newest snapshot, committed to the log, then made visible at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import AttributesError, Problem
from model.synthesis import class_embeddings
from service.engine import Engine
from service.errors import (
    ClassExistsError,
    PreconditionError,
    RegistryError,
    SeenClassError,
    StaleVersionError,
    StorageError,
    UnknownClassError,
)
from service.registry.log import Change, ChangeLog, Logged
from service.snapshot import KnownClass, Snapshot

_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class Precondition:
    """What a client expects of the class, as entity tags; ``("*",)`` stands for any class at all.

    Attributes:
        match: the class must have one of these tags.
        none_match: the class must have none of them.
    """

    match: tuple[str, ...] = ()
    none_match: tuple[str, ...] = ()

    def check(self, class_id: str, known: KnownClass | None) -> None:
        """Raise PreconditionError where it does not hold."""
        if self.match and not _matches(self.match, known):
            found = "no such class" if known is None else f"the tag {known.etag}"
            raise PreconditionError(f"class {class_id!r}: expected {' or '.join(self.match)}, found {found}")
        if self.none_match and known is not None and _matches(self.none_match, known):
            raise PreconditionError(f"class {class_id!r} exists with the tag {known.etag}")


ANY = Precondition()


def _matches(tags: tuple[str, ...], known: KnownClass | None) -> bool:
    return known is not None and ("*" in tags or known.etag in tags)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A class after a change, and whether it is new."""

    known: KnownClass
    created: bool


class Registrar:
    """The newest snapshot and its only writer; changes come from one thread at a time, reading from any.

    Args:
        bundle: version 0.
        engine: synthesises embeddings of new classes.
        log: the registry of this bundle; replayed to the same weights bit for bit.

    Raises:
        RegistryError: the log cannot be read or does not apply.
    """

    def __init__(self, bundle: Bundle, engine: Engine, log: ChangeLog) -> None:
        self._bundle, self._engine, self._log = bundle, engine, log
        self._snapshot = replay(Snapshot.of_bundle(bundle), log.since(0))

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._snapshot

    def create(self, entry: ClassEntry) -> KnownClass:
        """Register a class.

        Raises:
            ClassExistsError: its id is taken.
            AttributesError: no finite row can be made from its attributes.
            StorageError: the database refuses.
        """

        def decide(snapshot: Snapshot) -> Change:
            if snapshot.get(entry.id) is not None:
                raise ClassExistsError(f"a class with the id {entry.id!r} exists; use PUT to replace it")
            return self._put(entry)

        self._commit(decide)
        return self._known(entry.id)

    def put(self, entry: ClassEntry, condition: Precondition = ANY) -> Stored:
        """Create or replace a class; what is already so makes no new version.

        Raises:
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            AttributesError: no finite row can be made from its attributes.
            StorageError: the database refuses.
        """
        before: KnownClass | None = None

        def decide(snapshot: Snapshot) -> Change | None:
            nonlocal before
            before = snapshot.get(entry.id)
            condition.check(entry.id, before)
            if before is not None:
                _refuse_seen(before)
            return None if before is not None and before.entry == entry else self._put(entry)

        self._commit(decide)
        return Stored(known=self._known(entry.id), created=before is None)

    def describe(self, class_id: str, words: Mapping[str, Any], condition: Precondition = ANY) -> KnownClass:
        """Change a class's name, description or metadata; its row stays.

        Raises:
            UnknownClassError: no class has this id.
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            StorageError: the database refuses.
        """

        def decide(snapshot: Snapshot) -> Change | None:
            known = _changeable(snapshot, class_id, condition)
            entry = replace(known.entry, **words)
            return None if entry == known.entry else Change(operation="describe", class_id=class_id, entry=entry)

        self._commit(decide)
        return self._known(class_id)

    def remove(self, class_id: str, condition: Precondition = ANY) -> int:
        """Remove a class; returns the version without it.

        Raises:
            UnknownClassError: no class has this id.
            PreconditionError: the class is not in the expected state.
            SeenClassError: the class was seen in training.
            StorageError: the database refuses.
        """

        def decide(snapshot: Snapshot) -> Change:
            _changeable(snapshot, class_id, condition)
            return Change(operation="remove", class_id=class_id)

        self._commit(decide)
        return self._snapshot.registry_version

    def _commit(self, decide: Callable[[Snapshot], Change | None]) -> None:
        """Decide on the newest snapshot, again where another process was faster; show the change once it is on disk."""
        for _ in range(_ATTEMPTS):
            snapshot = self._snapshot
            change = decide(snapshot)
            if change is None:
                return
            try:
                version = self._log.append(change, after=snapshot.registry_version)
            except StaleVersionError:
                self._snapshot = replay(snapshot, self._log.since(snapshot.registry_version))
                continue
            self._snapshot = apply(snapshot, Logged(version=version, change=change))
            return
        raise StorageError(f"other processes changed the registry {_ATTEMPTS} times meanwhile; try again")

    def _known(self, class_id: str) -> KnownClass:
        known = self._snapshot.get(class_id)
        if known is None:
            raise UnknownClassError(f"no class has the id {class_id!r}")
        return known

    def _put(self, entry: ClassEntry) -> Change:
        manifest = self._bundle.manifest
        with np.errstate(all="ignore"):  # numbers beyond float32 are refused below, in words
            embeddings = class_embeddings(
                self._engine.synthesize,
                bundle_id=manifest.bundle_id,
                class_id=entry.id,
                attributes=entry.attributes,
                vocabulary=manifest.vocabulary,
                head=manifest.head,
            )
            row = self._bundle.head.row(embeddings)
        if not (np.isfinite(row.weight).all() and np.isfinite(row.bias)):
            raise AttributesError(
                "no class can be made from these attributes",
                [Problem(pointer="/attributes", detail="the numbers are too large for the model")],
            )
        return Change(operation="put", class_id=entry.id, entry=entry, row=row)


def apply(snapshot: Snapshot, logged: Logged) -> Snapshot:
    """The snapshot after one change.

    Raises:
        RegistryError: the change does not fit the snapshot.
    """
    change = logged.change
    _check_applies(change, change.class_id in snapshot.position, logged.version)
    if change.entry is None:
        return snapshot.without(change.class_id, logged.version)
    return snapshot.with_class(change.entry, change.row or snapshot.row(change.class_id), logged.version)


def replay(snapshot: Snapshot, log: Iterable[Logged]) -> Snapshot:
    """The snapshot after many changes, built once; equal to applying them one by one.

    Raises:
        RegistryError: a change does not fit what came before it.
    """
    version = snapshot.registry_version
    table = {known.entry.id: (known, row) for known, row in zip(snapshot.classes, snapshot.rows(), strict=True)}
    for logged in log:
        change, version = logged.change, logged.version
        _check_applies(change, change.class_id in table, version)
        if change.entry is None:
            del table[change.class_id]
        else:
            row = change.row or table[change.class_id][1]
            table[change.class_id] = (KnownClass(entry=change.entry, registry_version=version), row)
    classes, rows = [known for known, _ in table.values()], [row for _, row in table.values()]
    return Snapshot.build(version, classes, rows, dimension=snapshot.weight.shape[1])


def _check_applies(change: Change, present: bool, version: int) -> None:
    if change.operation != "put" and not present:
        raise RegistryError(f"version {version} of the registry changes {change.class_id!r}, which does not exist")


def _changeable(snapshot: Snapshot, class_id: str, condition: Precondition) -> KnownClass:
    known = snapshot.get(class_id)
    if known is None:
        raise UnknownClassError(f"no class has the id {class_id!r}")
    condition.check(class_id, known)
    _refuse_seen(known)
    return known


def _refuse_seen(known: KnownClass) -> None:
    if known.entry.kind == "seen":
        raise SeenClassError(
            f"class {known.entry.id!r} was seen in training; only classes described by attributes can be changed"
        )

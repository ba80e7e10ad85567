"""A machine that changes a registry at random through two processes, and holds it against the plain model."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from model.bundle import TRUNK, Bundle
from model.classes import ClassEntry, ExamplePhoto
from model.errors import DataError
from service.classes.edits import AddExamples, Create, Describe, Edit, Precondition, Put, Remove, RemoveExample
from service.classes.registrar import Registrar
from service.classes.snapshot import Snapshot
from service.errors import RegistryError, StorageError
from service.inference.class_rows import compute_rows
from service.registry.adoption import adopt_registry
from service.registry.audit import audit
from service.registry.backup import read_backup, write_backup
from service.registry.database import Database, database_url
from service.registry.log import ChangeLog, NextVersion
from tests.service import tiny
from tests.service.registry_edits import edits
from tests.service.registry_model import (
    MOST_PHOTOS,
    Condition,
    Kind,
    ModelClass,
    ModelEdit,
    ModelRegistry,
    Refusal,
)
from tests.service.test_photo_orders import EMBEDDINGS
from tests.service.test_registrar import FakeEngine


def changes_of(kind: Kind) -> Any:
    """A rule of its own for each kind, so that none is rare: Hypothesis leaves some rules out of every run."""

    @rule(several=st.lists(st.tuples(edits((kind,)), st.integers(0, 1)), min_size=1, max_size=4))
    def change(self: RegistryMachine, several: list[tuple[ModelEdit, int]]) -> None:
        for edit, who in several:
            registrar = self.registrars[who]
            registrar.catch_up()
            real = self._real(edit, registrar.snapshot)
            with self._as_refused(self.model.edit(edit)):
                self._apply(registrar, real)

    change.__name__ = kind.replace(" ", "_")
    return change


def bundled(bundle: Bundle) -> dict[str, ModelClass]:
    return {
        entry.id: ModelClass(name=entry.name, attributes=entry.attributes, seen=entry.kind == "seen")
        for entry in bundle.manifest.classes
    }


class RegistryMachine(RuleBasedStateMachine):
    """Two registrars, each with a database of its own as processes have it, and the model of what they share."""

    owners: ClassVar[tuple[Bundle, Bundle]]
    new_url: ClassVar[Callable[[Path], str | None]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="d3gzsl-machine-"))
        self.model = ModelRegistry(bundles=[bundled(bundle) for bundle in self.owners])
        self.backups: list[tuple[Path, ModelRegistry]] = []
        self.rows: dict[tuple[object, ...], tuple[bytes, float, float]] = {}
        self.tags: dict[str, tuple[str, ModelClass]] = {}
        self.registrars: list[Registrar] = []
        self._move_to_new_database()

    @property
    def bundle(self) -> Bundle:
        return self.owners[self.model.owner]

    def teardown(self) -> None:
        self._close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what is done -------------------------------------------------------------------------------------------------

    create = changes_of("create")
    put = changes_of("put")
    describe = changes_of("describe")
    add_photos = changes_of("add")
    take_photos_back = changes_of("take back")
    remove = changes_of("remove")

    @rule(many=st.lists(edits(), max_size=4), who=st.integers(0, 1))
    def batch(self, many: list[ModelEdit], who: int) -> None:
        registrar = self.registrars[who]
        registrar.catch_up()
        real = [self._real(edit, registrar.snapshot) for edit in many]
        with self._as_refused(self.model.batch(many)):
            registrar.apply_batch(real)

    @rule(back=st.integers(-1, 12), expect=st.sampled_from([None, None, "this", "another"]), who=st.integers(0, 1))
    def roll_back(self, back: int, expect: str | None, who: int) -> None:
        version = self.model.last - back
        expected = {None: None, "this": self.model.last, "another": self.model.last + 1}[expect]
        with self._as_refused(self.model.roll_back(version, expected=expected)):
            self.registrars[who].rollback(version, expected=None if expected is None else {expected})

    @rule(edit=edits(), who=st.integers(0, 1))
    def change_on_a_full_disk(self, edit: ModelEdit, who: int) -> None:
        registrar, append = self.registrars[who], NextVersion.append
        registrar.catch_up()
        real, trial = self._real(edit, registrar.snapshot), self.model.copy()
        refusal = trial.edit(edit)
        if refusal is None and trial.last > self.model.last:
            refusal = StorageError

        def full(log: NextVersion, *arguments: Any, **options: Any) -> None:
            append(log, *arguments, **options)
            raise StorageError("the disk is full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NextVersion, "append", full)
            with self._as_refused(refusal):
                self._apply(registrar, real)

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        self.registrars[who]._log.close()
        self.registrars[who] = self._open()

    @rule()
    def back_up(self) -> None:
        file = self.folder / f"{len(self.backups)}.jsonl"
        head = write_backup(self.registrars[0]._log.database, file)
        assert head["version"] == self.model.last
        self.backups.append((file, self.model.copy()))

    @precondition(lambda self: self.backups)
    @rule(data=st.data(), elsewhere=st.booleans(), reopened=st.booleans())
    def restore(self, data: st.DataObject, elsewhere: bool, reopened: bool) -> None:
        file, then = data.draw(st.sampled_from(self.backups), label="backup")
        if elsewhere:
            self._close()
            self._choose_place()
            database = Database(database_url(self.place, self.url))
            read_backup(database, file)
            database.close()
            self.model = then.copy()
            self.registrars = [self._open(), self._open()]
            return
        database, another = self.registrars[0]._log.database, then.owner != self.model.owner
        if self.model.last > 0:
            with pytest.raises(RegistryError, match="versions already"):
                read_backup(database, file)
        read_backup(database, file, replace=True)
        self.model = then.copy()
        if reopened or another:
            self._close()
            self.registrars = [self._open(), self._open()]

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore_what_is_damaged(self, data: st.DataObject) -> None:
        file, _ = data.draw(st.sampled_from(self.backups), label="backup")
        whole = file.read_bytes()
        cut = data.draw(st.integers(0, len(whole) - 2), label="cut")
        broken = self.folder / "broken.jsonl"
        broken.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cut off|not a backup"):
            read_backup(self.registrars[0]._log.database, broken, replace=True)

    @rule()
    def adopt(self) -> None:
        new = 1 - self.model.owner
        bundle = self.owners[new]

        def compute(entry: ClassEntry, embeddings: Any) -> Any:
            (row,) = compute_rows(bundle, FakeEngine(), [entry], photos=lambda _: embeddings)
            assert not isinstance(row, Exception)
            return row

        adoption = adopt_registry(self.registrars[0]._log.database, bundle, compute)
        self.model.adopt(new)
        assert adoption.version == self.model.last
        for registrar in self.registrars:
            with pytest.raises(RegistryError, match="belongs to the bundle"):
                registrar.catch_up()
        self._close()
        self.registrars = [self._open(), self._open()]

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def every_process_has_the_classes_of_the_model(self) -> None:
        for registrar in self.registrars:
            snapshot = registrar.catch_up()
            assert snapshot.registry_version == self.model.last
            assert {known.entry.id: _seen_as(known) for known in snapshot.classes} == {
                class_id: (one.words, one.changed) for class_id, one in self.model.now.items()
            }
            for class_id, one in self.model.now.items():
                self._check_row(snapshot, class_id, one)

    @invariant()
    def the_history_is_that_of_the_model(self) -> None:
        found = self.registrars[1].versions(after=0, limit=10_000)
        assert [entry.version for entry in found] == list(range(1, self.model.last + 1))
        assert [(entry.operation, entry.source, frozenset(entry.class_ids)) for entry in found] == [
            (version.operation, version.source, version.class_ids) for version in self.model.history
        ]

    @rule()
    def the_log_is_whole(self) -> None:
        with self.registrars[0]._log.database.reading(whole=True) as connection:
            found = audit(connection)
            assert found.findings == ()
            assert connection.scalar(sa.text("SELECT COUNT(*) FROM versions")) == self.model.last

    def _check_row(self, snapshot: Snapshot, class_id: str, one: ModelClass) -> None:
        """A row depends on what describes the class and on nothing else, to the last bit; so does its tag."""
        row, known = snapshot.row(class_id), snapshot.there(class_id)
        bits = (row.weight.tobytes(), row.bias, known.photo_share)
        key = (self.model.owner, class_id, one.attributes, one.photos, one.seen, one.row is None)
        assert self.rows.setdefault(key, bits) == bits
        if one.row is None:
            place = [entry.id for entry in self.bundle.manifest.classes].index(class_id)
            assert bits[0] == self.bundle.weight[place].tobytes()
        assert self.tags.setdefault(known.etag, (class_id, one.words)) == (class_id, one.words)

    # --- how ----------------------------------------------------------------------------------------------------------

    def _choose_place(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="registry-", dir=self.folder))
        self.url = type(self).new_url(self.place)

    def _move_to_new_database(self) -> None:
        self._choose_place()
        self.registrars = [self._open(), self._open()]

    def _open(self) -> Registrar:
        log = ChangeLog(
            Database(database_url(self.place, self.url)),
            bundle_id=self.bundle.manifest.bundle_id,
            dimension=tiny.Z,
            vocabulary=tiny.NAMES,
        )
        return Registrar(self.bundle, FakeEngine(), log)

    def _close(self) -> None:
        for registrar in self.registrars:
            registrar._log.close()
        self.registrars = []

    @contextmanager
    def _as_refused(self, refusal: Refusal | None) -> Iterator[None]:
        with nullcontext() if refusal is None else pytest.raises(refusal) as caught:
            yield
        assert refusal is None or caught.type is refusal

    def _apply(self, registrar: Registrar, edit: Edit) -> None:
        """One change by the method that a client's request comes to."""
        if isinstance(edit, Create):
            assert registrar.create(edit.entry, embeddings=edit.embeddings).entry == edit.entry
        elif isinstance(edit, Put):
            there = registrar.snapshot.get(edit.class_id) is not None
            stored = registrar.put(edit.entry, edit.condition, embeddings=edit.embeddings)
            assert (stored.created, stored.known.entry) == (not there, edit.entry)
        elif isinstance(edit, Describe):
            registrar.describe(edit.class_id, edit.words, edit.condition)
        elif isinstance(edit, Remove):
            assert registrar.remove(edit.class_id, edit.condition) == registrar.snapshot.registry_version
        else:
            registrar.change(edit)

    def _real(self, edit: ModelEdit, snapshot: Snapshot) -> Edit:
        """The change as the registrar takes it, with tags of the class as it is."""
        known = snapshot.get(edit.class_id)
        condition = _condition(edit.condition, None if known is None else known.etag)
        photos = {self._photo(i).id: EMBEDDINGS[i] for i in edit.photos}
        if edit.wanted is not None:
            entry = self._entry(edit.class_id, edit.wanted)
            photos = {self._photo(i).id: EMBEDDINGS[i] for i in edit.wanted.photos}
            if edit.kind == "create":
                return Create(entry=entry, embeddings=photos)
            return Put(entry=entry, condition=condition, embeddings=photos)
        if edit.kind == "describe":
            words = {name: dict(value) if name == "metadata" else value for name, value in edit.words.items()}
            return Describe(class_id=edit.class_id, words=words, condition=condition)
        if edit.kind == "add":
            examples = tuple(sorted(map(self._photo, edit.photos), key=lambda photo: photo.id))
            return AddExamples(
                class_id=edit.class_id, examples=examples, embeddings=photos, most=MOST_PHOTOS, condition=condition
            )
        if edit.kind == "take back":
            (example_id,) = photos
            return RemoveExample(class_id=edit.class_id, example_id=example_id, condition=condition)
        return Remove(class_id=edit.class_id, condition=condition)

    def _entry(self, class_id: str, one: ModelClass) -> ClassEntry:
        return ClassEntry(
            id=class_id,
            name=one.name,
            kind="unseen",
            attributes=one.attributes,
            description=one.description,
            metadata=dict(one.metadata),
            examples=tuple(sorted(map(self._photo, one.photos), key=lambda photo: photo.id)),
        )

    def _photo(self, number: int) -> ExamplePhoto:
        return ExamplePhoto(
            id=_photo_id(number),
            width=8,
            height=8,
            added_at="2026-01-01T00:00:00+00:00",
            trunk=self.bundle.manifest.files[TRUNK],
            digest=hashlib.sha256(EMBEDDINGS[number].astype("<f4").tobytes()).hexdigest(),
        )


def _photo_id(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()[:32]


NUMBERS = {_photo_id(i): i for i in range(len(EMBEDDINGS))}


def _seen_as(known: Any) -> tuple[object, int]:
    """A class of a snapshot in the model's words, and the version that changed it last."""
    entry = known.entry
    one = ModelClass(
        name=entry.name,
        attributes=entry.attributes,
        photos=frozenset(NUMBERS[photo.id] for photo in entry.examples),
        description=entry.description,
        metadata=tuple(sorted(entry.metadata.items())),
        seen=entry.kind == "seen",
    )
    return one.words, known.registry_version


def _condition(condition: Condition, tag: str | None) -> Precondition:
    tags = {"is there": "*", "is this": tag or '"none"', "is another": '"another"'}
    if condition in tags:
        return Precondition(match=(tags[condition],))
    without = {"is not there": "*", "is not this": tag or '"none"', "is not another": '"another"'}
    return Precondition(none_match=(without[condition],) if condition in without else ())

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle, Precision
from model.classes import ClassEntry
from model.errors import AttributesError
from model.synthesis import class_embeddings
from service.classes.edits import Create, Describe, Precondition, Put, Remove
from service.classes.registrar import Registrar
from service.classes.snapshot import Snapshot
from service.errors import (
    BatchConflictError,
    ClassExistsError,
    InvalidBatchError,
    PreconditionError,
    RegistryError,
    SeenClassError,
    StorageError,
    UnknownClassError,
    UnknownVersionError,
)
from service.registry.change import Change
from service.registry.database import Database, database_url
from service.registry.log import ChangeLog, NextVersion
from tests.service import tiny


class FakeEngine:
    """The synthesizer in NumPy."""

    precision: Precision = "fp32"

    def embed(self, images):
        raise AssertionError("no image is embedded here")

    def synthesize(self, noise, attributes):
        return tiny.synthesize(noise, attributes)


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture
def log(bundle: Bundle, tmp_path: Path) -> Iterator[ChangeLog]:
    opened = ChangeLog(
        Database(database_url(tmp_path, None)),
        bundle_id=bundle.manifest.bundle_id,
        dimension=tiny.Z,
        vocabulary=tiny.NAMES,
    )
    yield opened
    opened.close()


@pytest.fixture
def registrar(bundle: Bundle, log: ChangeLog) -> Registrar:
    return Registrar(bundle, FakeEngine(), log)


def unseen(class_id: str, attributes: tuple[float, ...] = tiny.VIOLET, **fields) -> ClassEntry:
    return ClassEntry(**{"id": class_id, "name": class_id, "kind": "unseen", "attributes": attributes, **fields})


def equal(a: Snapshot, b: Snapshot) -> bool:
    return (
        a.classes == b.classes
        and a.registry_version == b.registry_version
        and a.weight.tobytes() == b.weight.tobytes()
        and a.bias.tobytes() == b.bias.tobytes()
        and a.seen.tobytes() == b.seen.tobytes()
    )


def test_version_0_is_the_bundle(registrar: Registrar, bundle: Bundle) -> None:
    snapshot = registrar.snapshot
    assert snapshot.registry_version == 0
    assert [known.entry for known in snapshot.classes] == list(bundle.manifest.classes)
    assert snapshot.weight.tobytes() == bundle.weight.tobytes()
    assert snapshot.bias.tobytes() == bundle.bias.tobytes()
    assert snapshot.seen.tolist() == [True, True, False]


def test_a_new_row_is_the_heads_row_of_the_synthesised_embeddings(registrar: Registrar, bundle: Bundle) -> None:
    before = registrar.snapshot

    known = registrar.create(unseen("violet"))

    row = bundle.head.row(
        class_embeddings(
            tiny.synthesize,
            bundle_id=bundle.manifest.bundle_id,
            class_id="violet",
            attributes=tiny.VIOLET,
            vocabulary=bundle.manifest.vocabulary,
            head=bundle.manifest.head,
        )
    )
    after = registrar.snapshot
    assert known.registry_version == after.registry_version == 1
    np.testing.assert_array_equal(after.weight[-1], row.weight)
    assert after.bias[-1] == np.float32(row.bias)
    assert after.weight[:-1].tobytes() == before.weight.tobytes()
    assert len(before) == 3  # who holds the old snapshot keeps it


def test_a_class_has_the_same_row_whenever_and_after_whatever_it_is_registered(registrar: Registrar) -> None:
    registrar.create(unseen("violet"))
    first = registrar.snapshot.row("violet")
    registrar.remove("violet")
    registrar.create(unseen("grey", (0.5, 0.5, 0.5)))
    registrar.create(unseen("violet"))
    again = registrar.snapshot.row("violet")
    assert (first.weight.tobytes(), first.bias) == (again.weight.tobytes(), again.bias)


def test_a_restart_replays_to_the_same_bits(registrar: Registrar, bundle: Bundle, log: ChangeLog) -> None:
    registrar.create(unseen("violet"))
    registrar.create(unseen("grey", (0.5, 0.5, 0.5)))
    registrar.put(unseen("violet", (0.8, 0.1, 0.8)))
    registrar.describe("grey", {"name": "Gray", "metadata": {"x": 1}})
    registrar.remove("bluish")
    registrar.remove("grey")
    registrar.create(unseen("grey"))

    class Silent(FakeEngine):
        def synthesize(self, noise, attributes):
            raise AssertionError("a replay takes the rows from the log")

    restarted = Registrar(bundle, Silent(), log)

    assert restarted.snapshot.registry_version == 7
    assert equal(restarted.snapshot, registrar.snapshot)
    assert [known.entry.id for known in restarted.snapshot.classes] == ["reddish", "greenish", "violet", "grey"]


def test_ids_are_taken_once(registrar: Registrar) -> None:
    registrar.create(unseen("violet"))
    for taken in ("violet", "bluish", "reddish"):
        with pytest.raises(ClassExistsError, match=taken):
            registrar.create(unseen(taken))
    assert registrar.snapshot.registry_version == 1


def test_seen_classes_stay_as_they_are(registrar: Registrar) -> None:
    for change in (
        lambda: registrar.put(unseen("reddish")),
        lambda: registrar.describe("reddish", {"name": "Red"}),
        lambda: registrar.remove("reddish"),
    ):
        with pytest.raises(SeenClassError, match="reddish"):
            change()
    assert registrar.snapshot.registry_version == 0


def test_unknown_classes_are_named(registrar: Registrar) -> None:
    with pytest.raises(UnknownClassError, match="nobody"):
        registrar.remove("nobody")
    with pytest.raises(UnknownClassError, match="nobody"):
        registrar.describe("nobody", {"name": "x"})


def test_putting_what_is_already_so_makes_no_version(registrar: Registrar) -> None:
    assert registrar.put(unseen("violet")).created
    again = registrar.put(unseen("violet"))
    assert (again.created, again.known.registry_version, registrar.snapshot.registry_version) == (False, 1, 1)
    replaced = registrar.put(unseen("violet", description="a colour"))
    assert (replaced.created, replaced.known.registry_version) == (False, 2)
    assert registrar.describe("violet", {"description": "a colour"}).registry_version == 2


def test_preconditions(registrar: Registrar) -> None:
    create_only, must_exist = Precondition(none_match=("*",)), Precondition(match=("*",))
    with pytest.raises(PreconditionError, match="no such class"):
        registrar.put(unseen("violet"), must_exist)
    tag = registrar.put(unseen("violet"), create_only).known.etag
    with pytest.raises(PreconditionError, match="exists"):
        registrar.put(unseen("violet"), create_only)
    newer = registrar.describe("violet", {"name": "Violet"}, Precondition(match=('"other"', tag))).etag
    assert newer != tag
    for change in (
        lambda: registrar.describe("violet", {"name": "x"}, Precondition(match=(tag,))),
        lambda: registrar.remove("violet", Precondition(match=(tag,))),
        lambda: registrar.put(unseen("violet"), Precondition(none_match=(newer,))),
    ):
        with pytest.raises(PreconditionError, match=newer):
            change()
    assert registrar.remove("violet", Precondition(match=(newer,))) == 3


def test_two_processes_on_one_registry_never_lose_a_change(
    registrar: Registrar, bundle: Bundle, log: ChangeLog
) -> None:
    other = Registrar(bundle, FakeEngine(), log)
    registrar.create(unseen("violet"))

    assert other.create(unseen("grey")).registry_version == 2
    with pytest.raises(ClassExistsError):
        registrar.create(unseen("grey"))

    assert equal(registrar.snapshot, other.snapshot)


def test_what_a_refused_change_learns_of_others_is_told(
    registrar: Registrar, bundle: Bundle, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Registrar(bundle, FakeEngine(), log)
    told: list[int] = []
    other.subscribe(lambda: told.append(other.snapshot.registry_version))
    registrar.create(unseen("violet"))
    with pytest.raises(PreconditionError, match="the registry is at version 1"):
        other.rollback(0, expected={0})
    assert told == [1]
    with monkeypatch.context() as late:  # committed between a look and the right to append
        late.setattr(other, "catch_up", lambda: other.snapshot)
        registrar.create(unseen("grey"))
        with pytest.raises(ClassExistsError):
            other.create(unseen("grey"))
    assert told == [1, 2]


def test_a_change_that_is_not_on_disk_is_not_seen(
    registrar: Registrar, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(NextVersion, "append", full)
        with pytest.raises(StorageError):
            registrar.create(unseen("violet"))
    assert registrar.snapshot.get("violet") is None
    assert registrar.create(unseen("violet")).registry_version == 1


def test_numbers_beyond_the_model_make_no_class(registrar: Registrar) -> None:
    with pytest.raises(AttributesError):
        registrar.create(unseen("huge", (1e30, 0.0, 0.0)))
    assert registrar.snapshot.registry_version == 0


@pytest.mark.parametrize("operation", ["remove", "describe"])
def test_a_log_that_does_not_apply_is_refused(registrar: Registrar, log: ChangeLog, operation: str) -> None:
    entry = unseen("nobody") if operation == "describe" else None
    with log.appending() as appending:
        appending.append(operation, [Change(operation=operation, class_id="nobody", entry=entry)])
    with pytest.raises(RegistryError, match="version 1 of the registry changes 'nobody'"):
        registrar.catch_up()
    assert registrar.snapshot.registry_version == 0


def test_a_batch_is_one_version(registrar: Registrar, bundle: Bundle, log: ChangeLog) -> None:
    registrar.create(unseen("grey", (0.5, 0.5, 0.5)))
    before, after = registrar.apply_batch(
        [
            Create(entry=unseen("violet")),
            Put(entry=unseen("grey", (0.4, 0.5, 0.5))),
            Describe(class_id="bluish", words={"name": "Blue"}),
            Put(entry=unseen("lime", (0.5, 1.0, 0.0))),
        ]
    )
    assert after is registrar.snapshot
    assert before.registry_version == 1
    assert after.registry_version == 2
    assert {known.entry.id: known.registry_version for known in after.classes} == {
        "reddish": 0,
        "greenish": 0,
        "violet": 2,
        "grey": 2,
        "bluish": 2,
        "lime": 2,
    }
    alone = Registrar(bundle, FakeEngine(), log)
    assert equal(alone.snapshot, after)
    (first, second) = registrar.versions()
    assert (second.operation, second.changes) == ("batch", 4)
    assert second.class_ids == ("violet", "grey", "bluish", "lime")
    assert (first.operation, first.class_ids) == ("put", ("grey",))


def test_a_batch_with_one_bad_item_is_refused_as_a_whole(registrar: Registrar) -> None:
    edits = [
        Create(entry=unseen("violet")),
        Create(entry=unseen("bluish")),
        Remove(class_id="reddish"),
        Remove(class_id="nobody"),
        Put(entry=unseen("violet", (0.1, 0.2, 0.3))),
        Create(entry=unseen("lime")),
    ]
    with pytest.raises(BatchConflictError, match="4 of 6") as caught:
        registrar.apply_batch(edits)
    assert [problem.pointer for problem in caught.value.problems] == [f"/classes/{i}" for i in (1, 2, 3, 4)]
    with pytest.raises(InvalidBatchError) as invalid:
        registrar.apply_batch([Create(entry=unseen("violet")), Create(entry=unseen("huge", (1e30, 0.0, 0.0)))])
    assert [problem.pointer for problem in invalid.value.problems] == ["/classes/1/attributes"]
    assert registrar.snapshot.registry_version == 0
    assert registrar.versions() == ()


def test_a_batch_that_changes_nothing_makes_no_version(registrar: Registrar) -> None:
    registrar.create(unseen("violet"))
    for nothing in ([Put(entry=unseen("violet"))], []):
        before, after = registrar.apply_batch(nothing)
        assert before is after is registrar.snapshot
    assert registrar.snapshot.registry_version == 1


def scores(snapshot: Snapshot) -> dict[str, bytes]:
    """Entry and logit of each class for one embedding, to the last bit."""
    z = np.random.default_rng(3).standard_normal((1, tiny.Z)).astype(np.float32)
    logits = snapshot.logits(z, snapshot.rows)[0]
    return {
        known.entry.id: repr(known.entry).encode() + logit.tobytes()
        for known, logit in zip(snapshot.classes, logits, strict=True)
    }


def history_of(registrar: Registrar) -> list[Snapshot]:
    """Snapshots of versions 0 to 6 of a class table with every kind of change."""
    made = [registrar.snapshot]
    for change in (
        lambda: registrar.create(unseen("violet")),
        lambda: registrar.remove("bluish"),
        lambda: registrar.put(unseen("violet", (0.8, 0.1, 0.8))),
        lambda: registrar.apply_batch([Create(entry=unseen(f"grey{i}", (0.5, i / 9, 0.5))) for i in range(3)]),
        lambda: registrar.describe("violet", {"name": "Purple"}),
        lambda: registrar.put(unseen("bluish", (0.1, 0.2, 0.9))),
    ):
        change()
        made.append(registrar.snapshot)
    return made


def test_rolling_back_brings_any_former_version_again(registrar: Registrar, bundle: Bundle, log: ChangeLog) -> None:
    former = history_of(registrar)
    expected = [scores(snapshot) for snapshot in former]
    for version in (0, 3, 1, 6, 2, 5, 4, 0, 6):
        before = registrar.snapshot.registry_version
        after = registrar.rollback(version)
        assert after.registry_version == before + 1
        assert scores(after) == expected[version]
        assert scores(Registrar(bundle, FakeEngine(), log).snapshot) == expected[version]
    assert [scores(snapshot) for snapshot in former] == expected  # who holds an old snapshot keeps it
    last = registrar.versions(after=14)[-1]
    assert (last.operation, last.source) == ("rollback", 6)


def test_a_rollback_to_the_present_is_a_version_without_changes(registrar: Registrar) -> None:
    registrar.create(unseen("violet"))
    tag = registrar.snapshot.get("violet").etag
    assert registrar.rollback(1).registry_version == 2
    assert registrar.snapshot.get("violet").etag == tag
    assert registrar.versions()[-1].changes == 0


def test_a_class_changes_its_tag_when_a_rollback_changes_it(registrar: Registrar) -> None:
    tag = registrar.create(unseen("violet")).etag
    registrar.put(unseen("violet", (0.8, 0.1, 0.8)))
    restored = registrar.rollback(1).get("violet")
    assert restored is not None
    assert (restored.registry_version, restored.etag == tag) == (3, False)


@pytest.mark.parametrize("version", [-1, 2, 10**15])
def test_there_is_no_way_back_to_a_version_that_never_was(registrar: Registrar, version: int) -> None:
    registrar.create(unseen("violet"))
    with pytest.raises(UnknownVersionError, match=str(version)):
        registrar.rollback(version)
    assert registrar.snapshot.registry_version == 1


def test_what_others_commit_is_applied_in_order_without_synthesis(
    registrar: Registrar, bundle: Bundle, log: ChangeLog
) -> None:
    class Silent(FakeEngine):
        def synthesize(self, noise, attributes):
            raise AssertionError("rows come from the log")

    other = Registrar(bundle, Silent(), log)
    history_of(registrar)
    registrar.rollback(2)
    assert other.snapshot.registry_version == 0
    assert equal(other.catch_up(), registrar.snapshot)
    assert other.snapshot.registry_version == 7


def test_snapshots_cannot_be_written(registrar: Registrar) -> None:
    snapshot = registrar.snapshot
    for array in (snapshot.rows, snapshot.seen, *snapshot.weight_parts(snapshot.rows)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    copied = snapshot.weight
    copied[0] = 7
    assert snapshot.weight[0, 0] != 7

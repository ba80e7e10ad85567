from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import AttributesError
from model.synthesis import class_embeddings
from service.errors import (
    ClassExistsError,
    PreconditionError,
    RegistryError,
    SeenClassError,
    StorageError,
    UnknownClassError,
)
from service.registrar import Precondition, Registrar, replay
from service.registry.database import Database, database_url
from service.registry.log import Change, ChangeLog, Logged
from service.snapshot import Snapshot
from tests.service import tiny


class FakeEngine:
    """The synthesizer in NumPy."""

    def embed(self, images):
        raise AssertionError("no image is embedded here")

    def synthesize(self, noise, attributes):
        return tiny.synthesize(noise, attributes)


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture
def log(bundle: Bundle, tmp_path: Path) -> Iterator[ChangeLog]:
    opened = ChangeLog(Database(database_url(tmp_path, None)), bundle_id=bundle.manifest.bundle_id, dimension=tiny.Z)
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


def test_a_change_that_is_not_on_disk_is_not_seen(
    registrar: Registrar, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise StorageError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(log, "append", full)
        with pytest.raises(StorageError):
            registrar.create(unseen("violet"))
    assert registrar.snapshot.get("violet") is None
    assert registrar.create(unseen("violet")).registry_version == 1


def test_numbers_beyond_the_model_make_no_class(registrar: Registrar) -> None:
    with pytest.raises(AttributesError):
        registrar.create(unseen("huge", (1e30, 0.0, 0.0)))
    assert registrar.snapshot.registry_version == 0


def test_a_log_that_does_not_apply_is_refused(bundle: Bundle) -> None:
    gone = Logged(version=1, change=Change(operation="remove", class_id="nobody"))
    with pytest.raises(RegistryError, match="version 1"):
        replay(Snapshot.of_bundle(bundle), [gone])


def test_snapshots_cannot_be_written(registrar: Registrar) -> None:
    for array in (registrar.snapshot.weight, registrar.snapshot.bias, registrar.snapshot.seen):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0

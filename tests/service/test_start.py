"""How a registry is loaded at a start: in few questions, each document as text that fits its digest, and no further."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.classes import ClassEntry, ExamplePhoto
from model.errors import BundleError
from model.photos import PhotoPrior
from service.classes import class_table, snapshot
from service.classes.class_table import KnownClass, StoredClass
from service.classes.replay import Replay
from service.classes.snapshot import Snapshot
from service.errors import RegistryDamagedError
from service.registry.change import Change, canonical
from service.registry.database import FILE, Database, database_url
from service.registry.log import ChangeLog, existing_database
from service.registry.reading.records import AT_ONCE, spans
from service.service import Service
from service.settings import Settings
from tests.service.test_registrar import FakeEngine, unseen
from tests.service.test_registry import append, put

PRIOR = PhotoPrior(described=4.0, undescribed=2.0, fade=4.0)


@pytest.fixture
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture
def opening(tmp_path: Path, bundle: Bundle) -> Iterator[Callable[[], ChangeLog]]:
    with contextlib.ExitStack() as stack:

        def open_log() -> ChangeLog:
            database = Database(database_url(tmp_path, None))
            stack.callback(database.close)
            manifest = bundle.manifest
            return ChangeLog(
                database,
                bundle_id=manifest.bundle_id,
                dimension=manifest.head.dimension,
                vocabulary=manifest.vocabulary.names,
            )

        yield open_log


# --- which versions are read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        ([7], [(7, 7)]),
        ([*range(1, 2000)], [(1, 1999)]),
        ([1, 3, 5], [[1, 3, 5]]),
        ([1, *range(3, 3 + AT_ONCE)], [[1], (3, 2 + AT_ONCE)]),
        ([*range(1, 1 + AT_ONCE), 9999], [(1, AT_ONCE), [9999]]),
        ([*range(1, 2 * AT_ONCE + 5, 2)], [[*range(1, 2 * AT_ONCE, 2)], [1001, 1003]]),
    ],
)
def test_versions_are_asked_for_in_few_questions(wanted: list[int], expected: list[object]) -> None:
    assert list(spans(wanted)) == expected


def test_a_log_with_many_gaps_gives_what_all_its_changes_give(bundle: Bundle, opening: Callable[[], ChangeLog]) -> None:
    """Some versions are superseded, some rows were brought by versions that are, some classes are gone."""
    log = opening()
    for i in range(60):
        named = append(log, put(f"a{i % 40}", seed=i), put(f"b{i}", seed=100 + i)).changes[0]
        if i % 5 == 0:
            append(log, Change(operation="remove", class_id=f"b{i}"))
        if i % 7 == 0:
            words = replace(put(named.class_id).entry, name="another")  # type: ignore[type-var]
            append(log, Change(operation="describe", class_id=named.class_id, entry=words, row_at=named.row_at))
    loaded = Replay(bundle).load(log)
    one_by_one = Replay(bundle).after(Snapshot.of_bundle(bundle), log.since(0))
    assert {known.id: known for known in loaded.classes} == {known.id: known for known in one_by_one.classes}
    assert len(loaded) == 3 + 40 + 60 - 12
    for known in loaded.classes:
        assert loaded.row(known.id).weight.tobytes() == one_by_one.row(known.id).weight.tobytes()


# --- documents --------------------------------------------------------------------------------------------------------


def test_a_start_parses_no_document(
    bundle: Bundle, opening: Callable[[], ChangeLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    append(opening(), *(put(f"k{i}", seed=i) for i in range(20)))
    parsed: list[str] = []
    original = class_table.from_json
    monkeypatch.setattr(class_table, "from_json", lambda text: parsed.append(text) or original(text))
    loaded = Replay(bundle).load(opening())
    assert loaded.seen.tolist().count(False) == 21
    assert parsed == []
    assert loaded.there("k3").entry == put("k3").entry
    assert loaded.there("k3").entry.name == put("k3").entry.name  # type: ignore[union-attr]
    assert len(parsed) == 1


def test_documents_of_former_releases_are_read(
    bundle: Bundle, opening: Callable[[], ChangeLog], tmp_path: Path
) -> None:
    """They were stored with their fields in another order; the digests are the same."""
    append(opening(), put("a"), put("b", seed=1))
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        (stored,) = connection.execute("SELECT document FROM changes WHERE position = 1").fetchone()
        assert stored == canonical(json.loads(stored))
        document = json.loads(stored)
        former = json.dumps(
            {name: document[name] for name in ("id", "name", *sorted(document.keys() - {"id", "name"}))}
        )
        connection.execute("UPDATE changes SET document = ? WHERE position = 1", (former,))
    assert Replay(bundle).load(opening()).there("a").entry == put("a").entry
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        changed = former.replace('"unseen"', '"seen"')
        connection.execute("UPDATE changes SET document = ? WHERE position = 1", (changed,))
    with pytest.raises(RegistryDamagedError, match="at version 1"):
        Replay(bundle).load(opening())


def photo(number: int) -> ExamplePhoto:
    return ExamplePhoto(
        id=f"p{number}", width=1, height=1, added_at="2026-11-27T00:00:00Z", trunk="t", digest="d", position=number
    )


ENTRY = ClassEntry(id="yak", name="Yak", kind="unseen", attributes=(0.1, 0.2, 1 / 3))


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY,
        replace(ENTRY, kind="seen"),
        replace(ENTRY, metadata={"kind": "seen", "examples": [1, 2]}),
        replace(ENTRY, name='"kind": "seen"', description='"examples": ['),
        replace(ENTRY, examples=(photo(1), photo(2), photo(3))),
        replace(ENTRY, attributes=None, examples=(photo(1),)),
    ],
    ids=["plain", "seen", "metadata", "words", "photos", "photos alone"],
)
@pytest.mark.parametrize("prior", [PRIOR, None])
def test_a_stored_class_is_what_its_document_says(entry: ClassEntry, prior: PhotoPrior | None) -> None:
    stored = StoredClass("yak", canonical(entry.to_json()), registry_version=3, row_at=5, prior=prior)
    share = prior.seen_share(len(entry.examples)) if prior else 0.0
    known = KnownClass(entry=entry, registry_version=3, row_at=5, photo_share=share)
    assert (stored.id, stored.is_seen, stored.seen_share) == (known.id, known.is_seen, known.seen_share)
    assert stored == known
    assert known == stored
    assert stored != replace(known, registry_version=4)
    assert (stored.etag, stored.folded_name, stored.read()) == (known.etag, known.folded_name, entry)


@pytest.mark.parametrize("document", ['{"id": "yak"}', "[]", '{"attributes": ', '{"kind": "neither"}'])
def test_a_document_that_is_no_class_is_damage(document: str) -> None:
    """It has its digest, so that only another release, or somebody who made the digests too, can have written it."""
    stored = StoredClass("yak", document, registry_version=3, row_at=5, prior=None)
    with pytest.raises(RegistryDamagedError, match="at version 3"):
        _ = stored.entry


# --- beside the networks ----------------------------------------------------------------------------------------------


class Broken:
    def __init__(self, *_: Any, **__: Any) -> None:
        raise BundleError("the networks do not work")


@pytest.mark.parametrize("filled", [False, True])
def test_networks_that_do_not_work_leave_no_registry_of_theirs(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: bool
) -> None:
    settings = Settings(bundle=bundle_dir, data_dir=tmp_path, threads=1)
    if filled:
        service = Service.open(settings, engine=FakeEngine())
        service.registrar.create(unseen("violet"))
        service.close()
    before = {file.name for file in tmp_path.iterdir()}
    monkeypatch.setattr("service.service.OnnxEngine", Broken)
    with pytest.raises(BundleError, match="do not work"):
        Service.open(settings)
    assert {file.name for file in tmp_path.iterdir()} == before
    monkeypatch.undo()
    service = Service.open(settings, engine=FakeEngine())
    assert (service.snapshot.get("violet") is not None) == filled
    service.close()


def test_a_database_without_a_registry_is_nobodys(opening: Callable[[], ChangeLog], tmp_path: Path) -> None:
    url = database_url(tmp_path, None)
    assert existing_database(url) is None
    assert not (tmp_path / FILE).exists()
    Database(url).close()
    assert existing_database(url) is None
    opening()
    found = existing_database(url)
    assert found is not None
    found.close()


def test_rows_that_are_loaded_are_those_that_were_stored(
    bundle: Bundle, opening: Callable[[], ChangeLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are read together, so that parts, versions and blocks of the table end at different places."""
    for module in (class_table, snapshot):
        monkeypatch.setattr(module, "BLOCK", 64)
    log = opening()
    made = [put(f"k{i}", seed=i) for i in range(AT_ONCE + 130)]
    for start in range(0, len(made), 90):
        append(log, *made[start : start + 90])
    loaded = Replay(bundle).load(opening())
    for change in made:
        assert change.row is not None
        np.testing.assert_array_equal(loaded.row(change.class_id).weight, change.row.weight)

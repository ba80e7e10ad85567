from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from model.classes import ClassEntry
from model.head import Row
from service.errors import RegistryError, StorageError, UnknownVersionError
from service.registry.change import Change, LoggedVersion, Operation
from service.registry.database import CURRENT_REVISION, Database, database_url
from service.registry.history import changes_back_to, read_versions
from service.registry.log import ChangeLog
from service.registry.tables import metadata

Opening = Callable[..., ChangeLog]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    opened: list[ChangeLog] = []

    def open_log(bundle_id: str = "ours", *, busy_timeout: float = 5.0) -> ChangeLog:
        database = Database(database_url(tmp_path, None), busy_timeout=busy_timeout)
        try:
            log = ChangeLog(database, bundle_id=bundle_id, dimension=4, vocabulary=("a", "b", "c"))
        except BaseException:
            database.close()
            raise
        opened.append(log)
        return log

    yield open_log
    for log in opened:
        log.close()


def entry(class_id: str = "yak") -> ClassEntry:
    return ClassEntry(
        id=class_id,
        name="Yák 🐂",
        kind="unseen",
        attributes=(0.1, 1 / 3, 1e-300),
        metadata={"a": [1, None, {"b": 0.1}]},
    )


def put(class_id: str = "yak", seed: int = 0) -> Change:
    weight = np.random.default_rng(seed).standard_normal(4).astype(np.float32)
    return Change(operation="put", class_id=class_id, entry=entry(class_id), row=Row(weight, float(np.float32(0.1))))


def append(log: ChangeLog, *made: Change, operation: Operation = "batch") -> LoggedVersion:
    with log.appending() as appending:
        return appending.append(operation, made)


def last_changes(log: ChangeLog) -> list[tuple[int, str, str]]:
    with log.loading() as (_, found):
        return [(record.version, record.operation, record.class_id) for part in found for record in part.records]


def test_what_is_written_is_read_back_bit_for_bit_by_another_process(opening: Opening) -> None:
    log = opening()
    written = [append(log, put("yak"), put("gnu", seed=1))]
    written.append(append(log, Change(operation="describe", class_id="yak", entry=entry(), row_at=1)))
    written.append(append(log, Change(operation="remove", class_id="yak")))
    assert [step.version for step in written] == [1, 2, 3]
    log.close()

    read = opening().since(0)

    assert [step.version for step in read] == [1, 2, 3]
    first, second = read[0].changes, read[1].changes
    assert [change.class_id for change in first] == ["yak", "gnu"]
    for before, after in zip(written[0].changes, first, strict=True):
        assert before.row is not None
        assert after.row is not None
        assert (after.entry, after.row_at, after.row.bias) == (before.entry, before.row_at, before.row.bias)
        assert after.row.weight.tobytes() == before.row.weight.tobytes()
    assert second[0].operation == "describe"
    assert second[0].row is not None
    assert second[0].row.weight.tobytes() == first[0].row.weight.tobytes()  # type: ignore[union-attr]
    assert (read[2].changes[0].entry, read[2].changes[0].row) == (None, None)
    assert [step.version for step in opening().since(2)] == [3]


def test_loading_reads_the_last_change_of_each_class(opening: Opening) -> None:
    log = opening()
    append(log, put("a"), put("b"), put("c"))
    append(log, Change(operation="remove", class_id="b"))
    append(log, put("a", seed=1))
    assert last_changes(log) == [(1, "put", "c"), (2, "remove", "b"), (3, "put", "a")]


def test_a_version_is_whole_or_not_there(opening: Opening) -> None:
    log = opening()
    with contextlib.suppress(ZeroDivisionError), log.appending() as appending:
        appending.append("batch", [put("a"), put("b")])
        raise ZeroDivisionError
    assert log.since(0) == []
    append(log, put("c"))
    assert last_changes(log) == [(1, "put", "c")]


def test_versions_are_gapless_under_many_writers(opening: Opening) -> None:
    logs = [opening() for _ in range(4)]

    def write(log: ChangeLog, name: str) -> None:
        for i in range(5):
            append(log, put(f"{name}-{i}"), put(f"{name}-{i}-too"))

    threads = [threading.Thread(target=write, args=(log, f"writer{i}")) for i, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    steps = opening().since(0)
    assert [step.version for step in steps] == list(range(1, 21))
    assert {len(step.changes) for step in steps} == {2}
    assert [change.row_at for step in steps for change in step.changes] == list(range(1, 41))


def test_the_history_tells_what_each_version_did(opening: Opening) -> None:
    log = opening()
    started = datetime.now(UTC)
    append(log, put("a"), operation="put")
    append(log, *[put(f"b{i:03}") for i in range(150)])
    with log.appending() as appending:
        appending.append("rollback", [], source=0)

    first, second, third = read_versions(log, after=0, limit=10)

    assert (first.version, first.operation, first.changes, first.class_ids) == (1, "put", 1, ("a",))
    assert (second.changes, second.class_ids) == (150, tuple(f"b{i:03}" for i in range(100)))
    assert (third.operation, third.source, third.changes, third.class_ids) == ("rollback", 0, 0, ())
    assert started <= first.made_at <= second.made_at <= datetime.now(UTC)
    assert [v.version for v in read_versions(log, after=1, limit=1)] == [2]
    assert read_versions(log, after=3, limit=10) == ()


def test_the_way_back_names_stored_rows_and_stores_none_again(opening: Opening) -> None:
    log = opening()
    append(log, put("a"), put("b"))
    append(log, put("a", seed=1))
    append(log, Change(operation="remove", class_id="b"))
    append(log, put("c"))
    with log.appending() as appending:
        restored, as_bundled = changes_back_to(appending.connection, log, version=1, last=4)
        appending.append("rollback", restored, source=1)
    assert as_bundled == ["c"]
    assert [(change.class_id, change.row_at) for change in restored] == [("a", 1), ("b", 2)]
    with log.database.reading() as connection:
        assert connection.scalar(sa.text("SELECT COUNT(*) FROM head_rows")) == 4
        for unknown in (-1, 6):
            with pytest.raises(UnknownVersionError, match=str(unknown)):
                changes_back_to(connection, log, version=unknown, last=5)


def test_a_registry_belongs_to_its_bundle(opening: Opening) -> None:
    opening("ours")
    with pytest.raises(RegistryError, match=r"belongs to the bundle ours, not to theirs.*--data-dir"):
        opening("theirs")


def test_a_busy_database_refuses_without_writing(opening: Opening, tmp_path: Path) -> None:
    log = opening(busy_timeout=0.05)
    other = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        append(log, put())
    other.execute("ROLLBACK")
    other.close()
    assert log.since(0) == []
    assert append(log, put()).version == 1


def test_commits_reach_the_disk(tmp_path: Path) -> None:
    database = Database(database_url(tmp_path, None))
    with database.writing() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    database.close()
    assert pragmas == ["wal", 2]  # 2 is FULL


DAMAGES = [
    ("DELETE FROM versions WHERE version = 1", "lacks versions"),
    ("DELETE FROM changes WHERE version = 1", "lacks versions or changes"),
    ("UPDATE head_rows SET weight = x'00000000' WHERE position = 1", "damaged at version 1: expected 4 weights, got 1"),
    ("DELETE FROM head_rows WHERE position = 1", "damaged at version 1: the row is missing"),
    ("UPDATE changes SET document = '{}' WHERE version = 2", "damaged at version 2"),
    ("UPDATE changes SET document = NULL WHERE version = 2", "damaged at version 2: the document does not fit"),
    ("UPDATE changes SET class_id = 'c' WHERE version = 2", "damaged at version 2: the document is that of another"),
    ("UPDATE alembic_version SET version_num = '9999'", "form that this version cannot read"),
    ("DELETE FROM registry", "lost the line"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
@pytest.mark.parametrize("read", [last_changes, lambda log: log.since(0)], ids=["start", "follow"])
def test_a_damaged_registry_is_refused_with_its_version(
    opening: Opening, tmp_path: Path, damage: str, words: str, read: Callable[[ChangeLog], object]
) -> None:
    log = opening()
    append(log, put("a"))
    append(log, put("b"))
    if "alembic" in damage:
        log.close()
    with sqlite3.connect(tmp_path / "registry.sqlite3") as connection:
        connection.execute(damage)
    connection.close()

    with pytest.raises(RegistryError, match=words):
        read(opening() if "alembic" in damage else log)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite3").write_bytes(b"something else entirely" * 100)
    with pytest.raises(RegistryError, match="not a database"):
        Database(database_url(tmp_path, None))


@pytest.mark.parametrize("url", ["mysql://user:secret@host/db", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_urls_that_cannot_hold_a_registry_are_refused_without_their_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(RegistryError) as caught:
        database_url(tmp_path, url)
    assert "secret" not in str(caught.value)


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss:w/rd\n")
    url = database_url(tmp_path, "postgresql://me@host/db", file)
    assert (url.username, url.password, url.host, url.database) == ("me", "p@ss:w/rd", "host", "db")


@pytest.mark.parametrize(
    ("url", "content", "words"),
    [
        ("postgresql://me@host/db", None, "cannot be read"),
        ("postgresql://me@host/db", "", "got no lines"),
        ("postgresql://me@host/db", "secret\nmore\n", "got 2 lines"),
        ("postgresql://me:secret@host/db", "secret", "give one of them"),
        ("sqlite:////data/zoo.db", "secret", "only a PostgreSQL database has a password"),
        (None, "secret", "only a PostgreSQL database has a password"),
    ],
)
def test_a_password_file_that_does_not_fit_is_refused_without_the_password(
    tmp_path: Path, url: str | None, content: str | None, words: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RegistryError, match=words) as caught:
        database_url(tmp_path, url, file)
    assert "secret" not in str(caught.value)


def test_the_database_can_lie_elsewhere(tmp_path: Path) -> None:
    Database(database_url(tmp_path / "data", f"sqlite:///{tmp_path}/other/zoo.db")).close()
    assert (tmp_path / "other" / "zoo.db").is_file()
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be created"):
        database_url(tmp_path / "file" / "data", None)


def test_the_migrations_make_the_tables_that_the_code_uses(migrated_anew: None, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(database_url(tmp_path, None))
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == CURRENT_REVISION
    database.close()

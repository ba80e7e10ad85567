from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from model.classes import ClassEntry
from model.head import Row
from service.errors import RegistryError, StaleVersionError, StorageError
from service.registry.database import CURRENT_REVISION, Database, database_url
from service.registry.log import Change, ChangeLog
from service.registry.tables import metadata

Opening = Callable[..., ChangeLog]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    opened: list[ChangeLog] = []

    def open_log(bundle_id: str = "ours", *, busy_timeout: float = 5.0) -> ChangeLog:
        database = Database(database_url(tmp_path, None), busy_timeout=busy_timeout)
        try:
            log = ChangeLog(database, bundle_id=bundle_id, dimension=4)
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


def test_what_is_written_is_read_back_bit_for_bit_by_another_process(opening: Opening) -> None:
    written = [
        put(),
        Change(operation="describe", class_id="yak", entry=entry()),
        Change(operation="remove", class_id="yak"),
    ]
    log = opening()
    for version, change in enumerate(written):
        assert log.append(change, after=version) == version + 1
    log.close()

    read = opening().since(0)

    assert [logged.version for logged in read] == [1, 2, 3]
    assert [logged.change.entry for logged in read] == [change.entry for change in written]
    assert [logged.change.operation for logged in read] == ["put", "describe", "remove"]
    before, after = written[0].row, read[0].change.row
    assert before is not None
    assert after is not None
    assert before.weight.tobytes() == after.weight.tobytes()
    assert before.bias == after.bias
    assert opening().since(2)[0].version == 3


def test_a_change_decided_on_an_old_version_is_refused_and_leaves_no_trace(opening: Opening) -> None:
    log = opening()
    log.append(put("a"), after=0)
    for stale in (0, 2):
        with pytest.raises(StaleVersionError):
            log.append(put("b"), after=stale)
    assert [logged.change.class_id for logged in log.since(0)] == ["a"]


def test_versions_are_gapless_under_many_writers(opening: Opening) -> None:
    logs = [opening() for _ in range(4)]

    def write(log: ChangeLog, name: str) -> None:
        done = 0
        while done < 5:
            try:
                log.append(put(f"{name}-{done}"), after=len(log.since(0)))
                done += 1
            except StaleVersionError:
                continue

    threads = [threading.Thread(target=write, args=(log, f"writer{i}")) for i, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [logged.version for logged in opening().since(0)] == list(range(1, 21))


def test_a_registry_belongs_to_its_bundle(opening: Opening) -> None:
    opening("ours")
    with pytest.raises(RegistryError, match=r"belongs to the bundle ours, not to theirs.*--data-dir"):
        opening("theirs")


def test_a_busy_database_refuses_without_writing(opening: Opening, tmp_path: Path) -> None:
    log = opening(busy_timeout=0.05)
    other = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        log.append(put(), after=0)
    other.execute("ROLLBACK")
    other.close()
    assert log.since(0) == []
    assert log.append(put(), after=0) == 1


def test_commits_reach_the_disk(tmp_path: Path) -> None:
    database = Database(database_url(tmp_path, None))
    with database.writing() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    database.close()
    assert pragmas == ["wal", 2]  # 2 is FULL


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("DELETE FROM changes WHERE version = 1", "lacks versions"),
        (
            "UPDATE changes SET weight = x'00000000' WHERE version = 1",
            "damaged at version 1: expected 4 weights, got 1",
        ),
        ("UPDATE changes SET weight = NULL WHERE version = 1", "damaged at version 1"),
        ("UPDATE changes SET document = '{}' WHERE version = 2", "damaged at version 2"),
        ("UPDATE alembic_version SET version_num = '9999'", "form that this version cannot read"),
    ],
)
def test_a_damaged_registry_is_refused_with_its_version(
    opening: Opening, tmp_path: Path, damage: str, words: str
) -> None:
    log = opening()
    log.append(put("a"), after=0)
    log.append(put("b"), after=1)
    log.close()
    with sqlite3.connect(tmp_path / "registry.sqlite3") as connection:
        connection.execute(damage)
    connection.close()

    with pytest.raises(RegistryError, match=words):
        opening().since(0)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite3").write_bytes(b"something else entirely" * 100)
    with pytest.raises(RegistryError, match="not a database"):
        Database(database_url(tmp_path, None))


@pytest.mark.parametrize("url", ["postgresql://user:secret@host/db", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_urls_that_cannot_hold_a_registry_are_refused_without_their_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(RegistryError) as caught:
        database_url(tmp_path, url)
    assert "secret" not in str(caught.value)


def test_the_database_can_lie_elsewhere(tmp_path: Path) -> None:
    Database(database_url(tmp_path / "data", f"sqlite:///{tmp_path}/other/zoo.db")).close()
    assert (tmp_path / "other" / "zoo.db").is_file()
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be created"):
        database_url(tmp_path / "file" / "data", None)


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(database_url(tmp_path, None))
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == CURRENT_REVISION
    database.close()

"""The registry's file while a service uses it, and when it starts: what is lost or damaged is noticed, and said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import RegistryDamagedError
from service.registry.database import Database, database_url
from service.registry.history import changes_back_to
from service.registry.log import ChangeLog
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Running
from tests.service.processes import command
from tests.service.test_registry import append, last_changes, put
from tests.service.tiny import VIOLET, png

pytestmark = pytest.mark.anyio
NAME = "registry.sqlite3"
IMAGE = {"content": png((255, 0, 0)), "headers": {"content-type": "image/png"}}


def document(class_id: str) -> dict[str, Any]:
    return {"id": class_id, "name": class_id, "attributes": list(VIOLET)}


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[[], ChangeLog]]:
    with contextlib.ExitStack() as stack:

        def open_log() -> ChangeLog:
            database = Database(database_url(tmp_path, None))
            stack.callback(database.close)
            return ChangeLog(database, bundle_id="ours", dimension=4, vocabulary=("a", "b", "c"))

        yield open_log


# --- under a running service ------------------------------------------------------------------------------------------


def delete(file: Path) -> None:
    file.unlink()


def delete_log(file: Path) -> None:
    Path(f"{file}-wal").unlink()


def replace(file: Path) -> None:
    shutil.copyfile(file, f"{file}.copy")
    Path(f"{file}.copy").replace(file)


def cut(file: Path) -> None:
    os.truncate(file, 0)


def cut_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 // 4096 * 4096)


def zeros(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))


def noise(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(os.urandom(file.stat().st_size - 4096))


def cut_log(file: Path) -> None:
    os.truncate(f"{file}-wal", 0)


def zeros_in_log(file: Path) -> None:
    with Path(f"{file}-wal").open("r+b") as stream:
        stream.write(bytes(Path(f"{file}-wal").stat().st_size))


def older(file: Path) -> None:
    """What somebody does who copies a file from before over it."""
    with file.open("r+b") as stream:
        stream.write(file.with_name("older").read_bytes())
        stream.truncate()
    Path(f"{file}-wal").write_bytes(b"")


@pytest.mark.parametrize("harm", [delete, delete_log, replace, cut, cut_half, zeros, noise, zeros_in_log, older])
async def test_a_file_that_is_lost_takes_no_change_and_the_service_its_readiness(
    running: Running, tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    file, saved = tmp_path / "data" / NAME, tmp_path / "saved"
    async with running() as client:
        assert (await client.post("/classes", json=document("first"))).status_code == 201
        checkpoint(file)
        shutil.copyfile(file, file.with_name("older"))
        assert (await client.post("/classes", json=document("second"))).status_code == 201
        before = (await client.post("/classify", **IMAGE)).json()["results"]
        assert command("registry", "backup", saved, "--data-dir", file.parent).returncode == 0
        checkpoint(file)  # so that what was written over is not in the log beside it, too
        assert (await client.get("/readyz")).status_code == 200

        harm(file)
        struck = time.monotonic()
        refused = await client.post("/classes", json=document("third"))
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:d3gzsl:problem:registry-unavailable")
        while (ready := await client.get("/readyz")).status_code == 200:
            assert time.monotonic() - struck < 2
            await asyncio.sleep(0.02)
        assert "the log says what to do" in ready.json()["detail"]
        assert (await client.post("/classes", json=document("third"))).status_code == 503
        assert (await client.post("/classify", **IMAGE)).json()["results"] == before
    assert "bring a back-up back with `d3gzsl registry restore`" in caplog.text

    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    assert command("registry", "restore", saved, "--data-dir", file.parent).returncode == 0
    async with running() as client:
        assert (await client.get("/readyz")).status_code == 200
        listed = [known["id"] for known in (await client.get("/classes?kind=unseen")).json()["classes"]]
        assert {"first", "second"} <= set(listed)
        assert "third" not in listed


def checkpoint(file: Path) -> None:
    """Have what is in the log written to the file, as any process that uses it may."""
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0] == 0
    connection.close()


@pytest.mark.parametrize("harm", [cut_log, zeros_in_log])
async def test_commits_that_are_only_in_the_log_are_not_lost_in_silence(
    running: Running, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    async with running() as client:
        assert (await client.post("/classes", json=document("first"))).status_code == 201
        harm(tmp_path / "data" / NAME)
        assert (await client.post("/classes", json=document("second"))).status_code == 503
        assert (await client.get("/readyz")).status_code == 503


async def test_a_file_that_is_put_back_is_used_again(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "data" / NAME
    async with running() as client:
        await client.post("/classes", json=document("first"))
        file.rename(file.with_name("aside"))
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.post("/classes", json=document("second"))).status_code == 503
        file.with_name("aside").rename(file)
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/classes", json=document("second"))).status_code == 201


async def test_what_other_processes_write_is_no_damage(running: Running, tmp_path: Path) -> None:
    """Checkpoints of one change the file under the other."""
    async with running() as one, running() as other:
        for i in range(3):
            assert (await one.post("/classes", json=document(f"one{i}"))).status_code == 201
            checkpoint(tmp_path / "data" / NAME)
            assert (await other.post("/classes", json=document(f"other{i}"))).status_code == 201
            assert [(await client.get("/readyz")).status_code for client in (one, other)] == [200, 200]


# --- at the start -----------------------------------------------------------------------------------------------------


def test_a_file_of_nothing_is_no_empty_registry(opening: Callable[[], ChangeLog], tmp_path: Path) -> None:
    append(opening(), put())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / NAME).touch()
    with pytest.raises(RegistryDamagedError, match=r"has 0 bytes.*registry restore"):
        Database(database_url(tmp_path / "other", None))


def test_a_log_without_its_file_is_not_taken_for_another(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}-wal").write_bytes(b"frames")
    with pytest.raises(RegistryDamagedError, match=r"its log registry.sqlite3-wal is still there"):
        Database(database_url(tmp_path, None))
    assert not (tmp_path / NAME).exists()


def test_a_new_file_appears_when_it_is_whole(
    migrated_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Database, "_migrate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Database(database_url(tmp_path, None))
    assert not (tmp_path / NAME).exists()
    Database(database_url(tmp_path, None)).close()
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


FLIPS = {
    "a weight": "UPDATE head_rows SET weight = x'0000003f' || substr(weight, 5) WHERE position = 1",
    "a bias": "UPDATE head_rows SET bias = bias + 1e-9 WHERE position = 1",
    "a word": "UPDATE changes SET document = replace(document, 'Y', 'Z') WHERE position = 2",
    "a number": "UPDATE changes SET document = replace(document, '0.333', '0.334') WHERE position = 2",
    "a document": "UPDATE changes SET document = substr(document, 2) WHERE position = 2",
    "a byte that is no text": "UPDATE changes SET document = CAST(x'7b22ff' AS TEXT) WHERE position = 2",
    "an operation": "UPDATE changes SET operation = 'describe' WHERE position = 2",
    "an id": "UPDATE versions SET digest = '' WHERE version = 1",
    "the way a version was made": "UPDATE versions SET operation = 'put' WHERE version = 2",
    "numbers that are not finite": "UPDATE head_rows SET weight = x'0000807f' || substr(weight, 5) WHERE position = 2",
    "a type": "UPDATE head_rows SET bias = 'x' WHERE position = 1",
}


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize(
    "read", [last_changes, lambda log: log.since(0), lambda log: back(log)], ids=["start", "follow", "rollback"]
)
def test_a_flipped_byte_is_found_where_the_row_is_loaded(
    opening: Callable[[], ChangeLog], tmp_path: Path, flip: str, read: Callable[[ChangeLog], object]
) -> None:
    log = opening()
    append(log, put("a"))
    append(log, put("b", seed=1))
    last_changes(log)
    with contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as connection:
        connection.execute(FLIPS[flip])
    with pytest.raises(RegistryDamagedError, match=r"is damaged.*registry restore") as caught:
        read(log)
    assert "\n" not in str(caught.value)


def back(log: ChangeLog) -> None:
    """Read what a rollback to version 2 reads, when both classes are gone."""
    with log.database.reading() as connection:
        log.changes_at(connection, [1, 2])


def test_a_way_back_reads_rows_that_fit_their_digests(opening: Callable[[], ChangeLog], tmp_path: Path) -> None:
    log = opening()
    append(log, put("a"))
    append(log, put("a", seed=1))
    with contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as connection:
        connection.execute("UPDATE head_rows SET bias = 7 WHERE position = 1")
    assert last_changes(log) == [(2, "put", "a")]  # the first one is not loaded
    with log.appending() as appending, pytest.raises(RegistryDamagedError, match="at version 1"):
        changes_back_to(appending.connection, log, version=1, last=2)


def test_a_service_that_starts_on_damage_says_what_to_do(bundle_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = Settings(bundle=bundle_dir, data_dir=data, threads=1)
    service = Service.open(settings)
    from tests.service.test_registrar import unseen

    service.registrar.create(unseen("violet"))
    service.close()
    with contextlib.closing(sqlite3.connect(data / NAME, isolation_level=None)) as connection:
        connection.execute("UPDATE head_rows SET bias = 7")
    said = command("serve", "--bundle", bundle_dir, "--data-dir", data, "--port", "0")
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "is damaged at version 1" in said.stderr
    assert "move the file away" in said.stderr


@pytest.mark.parametrize(
    ("damage", "time_is_known", "operation"),
    [
        ("UPDATE versions SET made_at = 'yesterday' WHERE version = 2", False, "put"),
        ("UPDATE versions SET operation = CAST(x'ff' AS TEXT) WHERE version = 2", True, None),
    ],
)
async def test_a_damaged_entry_hides_no_other_version(
    running: Running, tmp_path: Path, damage: str, time_is_known: bool, operation: str | None
) -> None:
    async with running() as client:
        for name in ("a", "b", "c"):
            assert (await client.post("/classes", json=document(name))).status_code == 201
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / NAME, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = 1")
            connection.execute(damage)
        answer = await client.get("/registry/versions")
        assert answer.status_code == 200
        first, second, third = answer.json()["versions"]
        assert [first["damaged"], second["damaged"], third["damaged"]] == [False, True, False]
        assert (second["time"] is not None, second["operation"]) == (time_is_known, operation)
        assert second["class_ids"] == ["b"]


# --- private ----------------------------------------------------------------------------------------------------------


def test_the_file_is_its_owners_alone(opening: Callable[[], ChangeLog], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        append(opening(), put())
        assert command("registry", "backup", tmp_path / "saved", "--data-dir", tmp_path).returncode == 0
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {NAME: 0o600, f"{NAME}-wal": 0o600, f"{NAME}-shm": 0o600, "saved": 0o600}


def test_a_file_of_a_former_version_is_made_private(tmp_path: Path) -> None:
    Database(database_url(tmp_path, None)).close()
    (tmp_path / NAME).chmod(0o644)
    Database(database_url(tmp_path, None)).close()
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600

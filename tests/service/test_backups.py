from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from service.registry.backup import Backups, read_backup
from service.registry.database import Database, database_url
from tests.service.conftest import Client, Running

pytestmark = pytest.mark.anyio


def service_of(client: Client) -> Any:
    return client._transport.app.state.service  # type: ignore[attr-defined]


async def add(client: Client, *names: str) -> None:
    for name in names:
        assert (await client.post("/classes", json={"name": name, "attributes": [0.5, 0.5, 0.5]})).status_code == 201


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def test_back_ups_come_after_changes_and_old_ones_go(running: Running, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    async with running(backup_dir=folder, backup_changes=2, backup_keep=2) as client:
        service = service_of(client)
        service.back_up()
        assert not folder.exists()
        await add(client, "one")
        service.back_up()
        assert not folder.exists()
        for i, pair in enumerate((("two",), ("three", "four"), ("five", "six"))):
            await add(client, *pair)
            service.back_up()
            service.back_up()
            assert names(folder)[-1] == f"registry-{2 * i + 2:09d}.jsonl"
        assert names(folder) == ["registry-000000004.jsonl", "registry-000000006.jsonl"]
        assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
        before = (await client.get("/classes")).json()
    (tmp_path / "other").mkdir()
    restored = Database(database_url(tmp_path / "other", None))
    read_backup(restored, folder / "registry-000000006.jsonl")
    restored.close()
    async with running(data_dir=tmp_path / "other") as client:
        assert (await client.get("/classes")).json() == before


async def test_hours_count_too_and_processes_share_what_is_there(running: Running, tmp_path: Path) -> None:
    folder, now = tmp_path / "backups", 0.0
    async with running() as client:
        database = service_of(client).log.database

        def process() -> Backups:
            return Backups(database, folder, changes=100, seconds=3600, keep=5, clock=lambda: now, wall=lambda: now)

        first, second = process(), process()
        now = 7200.0
        assert not first.due(0)
        assert first.make() is None
        await add(client, "one")
        assert first.due(1)
        assert second.due(1)
        assert first.make() == folder / "registry-000000001.jsonl"
        assert not first.due(1)
        now = (folder / "registry-000000001.jsonl").stat().st_mtime + 10
        assert second.make() is None
        assert not process().due(1)
        await add(client, "two")
        assert not second.due(2)
        now += 3600
        assert second.due(2)


async def test_what_keeps_a_back_up_from_being_made_is_told(
    running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    async with running(backup_dir=file / "backups", backup_changes=1) as client:
        await add(client, "one")
        with caplog.at_level(logging.ERROR):
            service_of(client).back_up()
        assert "no back-up of the registry could be made" in caplog.text
        assert (await client.get("/registry")).json()["registry_version"] == 1

"""A wall clock that jumps, years forward and back: durations do not notice, and moments are what it says."""

from __future__ import annotations

import ast
import itertools
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.http import access
from service.keys import digest
from service.registry.backup import Backups
from tests.pages import ROOT
from tests.service.conftest import Running
from tests.service.test_backups import add, service_of
from tests.service.tiny import png

pytestmark = pytest.mark.anyio
YEARS = 10 * 365 * 86400.0

# What asks for the moment itself, with the reason.
MOMENTS = {
    "service/commands/keys.py": "which keys have expired is shown to people",
    "service/http/access.py": "keys expire at a moment",
    "service/http/examples.py": "when a photo was added",
    "service/keys.py": "days from now, when a key is made",
    "service/registry/backup.py": "the age of a file that another process made",
    "service/registry/log.py": "when a version was made",
    "service/telemetry/request_stats.py": "spans of a trace",
}
WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


def asks_the_wall_clock(file: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in WALL
        for node in ast.walk(ast.parse(file.read_text()))
    )


def test_only_moments_are_asked_of_the_wall_clock() -> None:
    files = itertools.chain((ROOT / "model").rglob("*.py"), (ROOT / "service").rglob("*.py"))
    found = {str(file.relative_to(ROOT)) for file in files if asks_the_wall_clock(file)}
    assert found == set(MOMENTS), "durations are measured by time.monotonic or time.perf_counter"


class Wall:
    """A wall clock that can be put forward and back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, wall = 0.0, time.time
        jumping = self

        class Moment(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=jumping.ahead)

        monkeypatch.setattr(time, "time", lambda: wall() + self.ahead)
        monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (wall() + self.ahead)))
        monkeypatch.setattr(access, "datetime", Moment)


async def test_requests_rates_and_waits_do_not_notice(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    async with running(rate_limit=0.001, rate_burst=4, deadline=5.0) as client:
        for ahead in (YEARS, -YEARS, 0.0):
            wall.ahead = ahead
            answer = await client.post("/classify", content=png((255, 0, 0)), headers={"content-type": "image/png"})
            assert answer.status_code == 200, answer.text
            assert all(0 <= number < 5000 for number in answer.json()["timing_ms"].values())
        wall.ahead = YEARS
        assert (await client.get("/classes", params={"min_registry_version": 0})).status_code == 200
        for ahead in (YEARS, -YEARS):  # the bucket is empty, and ten years by the wall clock do not fill it
            wall.ahead = ahead
            answer = await client.get("/classes")
            assert answer.status_code == 429
            assert 0 < int(answer.headers["retry-after"]) <= 1000
        assert (await client.get("/readyz")).status_code == 200


async def test_a_key_expires_by_the_wall_clock_and_is_good_again_when_that_is_put_right(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    until = (datetime.now(UTC) + timedelta(days=30)).isoformat(timespec="seconds")
    async with running(keys=(f"classify:{digest('a')} expires={until}",)) as client:
        headers = {"authorization": "Bearer a"}
        for ahead, status in ((0.0, 200), (YEARS, 401), (0.0, 200), (-YEARS, 200)):
            wall.ahead = ahead
            assert (await client.get("/classes", headers=headers)).status_code == status


async def test_versions_keep_their_order_whatever_time_they_have(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.registry import log

    wall = Wall(monkeypatch)
    monkeypatch.setattr(log, "datetime", access.datetime)  # type: ignore[attr-defined]
    async with running() as client:
        for name, ahead in (("one", YEARS), ("two", -YEARS), ("three", 0.0)):
            wall.ahead = ahead
            await add(client, name)
        history = (await client.get("/registry/versions")).json()["versions"]
        assert [version["registry_version"] for version in history] == [1, 2, 3]
        assert history[1]["time"] < history[2]["time"] < history[0]["time"]
        assert (await client.get("/classes/two")).json()["registry_version"] == 2


@pytest.mark.parametrize("ahead", [YEARS, -YEARS])
async def test_back_ups_go_on_whatever_the_wall_clock_says(running: Running, tmp_path: Path, ahead: float) -> None:
    folder, now, wall = tmp_path / "backups", 100.0, time.time()
    async with running() as client:
        database = service_of(client).log.database

        def process() -> Backups:
            return Backups(database, folder, changes=100, seconds=3600, keep=5, clock=lambda: now, wall=lambda: wall)

        first = process()
        await add(client, "one")
        now += 3600
        assert first.make() is not None
        wall += ahead
        await add(client, "two")
        assert not first.due(2)
        now += 3599
        assert not first.due(2)
        assert first.make() is None
        now += 1
        assert first.due(2)
        assert first.make() is not None
        # One that begins now takes a file from the future for a new one, and waits no longer than it should.
        second = process()
        await add(client, "three")
        assert second.due(3) is (ahead > 0)
        now += 3600
        assert second.due(3)
        assert second.make() is not None

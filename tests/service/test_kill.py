"""`kill -9` while classes are being registered: every 201 is there afterwards, and nothing is there by halves."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.nursery import Nursery
from tests.service.postgres import Postgres, postgres_server
from tests.service.processes import command
from tests.service.promises import Photographing, PhotoPromises, Promises, Registering

MANY = 40 if os.environ.get("CI") else 200
"""Lives of the long run, which takes ten minutes; what CI runs again and again is shorter."""
MANY_ON_SERVER = 20 if os.environ.get("CI") else 100
"""The same for a registry in PostgreSQL."""
LONG = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


@pytest.fixture(
    params=[
        pytest.param(("sqlite", 5), id="sqlite-5"),
        pytest.param(("sqlite", MANY), id="sqlite-many", marks=LONG),
        pytest.param(("postgresql", 3), id="postgresql-3"),
        pytest.param(("postgresql", MANY_ON_SERVER), id="postgresql-many", marks=LONG),
    ]
)
def lives_and_place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, tuple[str, ...]]:
    """How often the service is killed, and the flags that say where its registry is."""
    database, lives = request.param
    place = ["--data-dir", str(tmp_path / "data")]
    if database == "postgresql":
        place += ["--database-url", request.getfixturevalue("server").database()]
    return lives, tuple(place)


def test_every_promise_outlives_kill_9(
    nursery: Nursery, bundle_dir: Path, lives_and_place: tuple[int, tuple[str, ...]]
) -> None:
    lives, place = lives_and_place
    choose, promises, hit = random.Random(lives), Promises(), 0
    for life in range(lives + 1):
        with nursery.serving("--bundle", str(bundle_dir), "--threads", "1", *place) as (url, pid):
            promises.check(url, f"in life {life}")
            if life == lives:
                break
            clients = Registering(url, life)
            clients.start()
            time.sleep(choose.uniform(0.02, 0.25))
            os.kill(pid, signal.SIGKILL)
            clients.join()
        promises.take(clients)
        hit += bool(clients.open)
    assert hit > lives / 2  # else the kills came too late to meet a registration
    report = command("registry", "check", "--bundle", bundle_dir, *place, "--json")
    assert report.returncode == 0, report.stdout + report.stderr
    assert json.loads(report.stdout)["classes"] == len(promises)


def test_every_photo_outlives_kill_9(
    nursery: Nursery, with_photos: Path, lives_and_place: tuple[int, tuple[str, ...]]
) -> None:
    lives, place = lives_and_place
    choose, promises, hit = random.Random(lives), PhotoPromises(), 0
    for life in range(lives + 1):
        with nursery.serving("--bundle", str(with_photos), "--threads", "1", *place) as (url, pid):
            promises.check(url, f"in life {life}")
            if life == lives:
                break
            clients = Photographing(url, life)
            clients.start()
            time.sleep(choose.uniform(0.05, 0.4))
            os.kill(pid, signal.SIGKILL)
            clients.join()
        promises.take(clients)
        hit += bool(clients.open)
    assert hit > lives / 2  # else the kills came too late to meet a photo
    report = command("registry", "check", "--bundle", with_photos, *place, "--json")
    assert report.returncode == 0, report.stdout + report.stderr
    assert json.loads(report.stdout)["rows"] == sum(bool(photos) for photos in promises.there.values())

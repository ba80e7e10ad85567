"""PostgreSQL is killed under a service: images are answered all the while, and no acknowledged change is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.nursery import HANG
from tests.service.postgres import Postgres, postgres_server
from tests.service.processes import Server, command, serving
from tests.service.promises import (
    IMAGE,
    Changing,
    Photographing,
    PhotoPromises,
    Promises,
    Registering,
)
from tests.service.tiny import VIOLET

pytest.importorskip("psycopg", reason="needs the driver for PostgreSQL")
MANY = 16 if os.environ.get("CI") else 100
"""Losses of the long run, which takes some minutes; what CI runs again and again is shorter."""
LONG = [pytest.mark.slow, pytest.mark.timeout(1200)]
DOCUMENT = {"id": "violet", "name": "Violet", "attributes": list(VIOLET)}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


def stopped(server: Postgres, _url: str) -> None:
    server.stop("immediate")
    time.sleep(0.2)
    server.start()


def killed(server: Postgres, _url: str) -> None:
    server.kill()
    server.start()


def backend_killed(server: Postgres, url: str) -> None:
    """The server then ends all its connections and recovers by itself."""
    os.kill(server.backends(url)[0], signal.SIGKILL)


def connections_ended(server: Postgres, url: str) -> None:
    for backend in server.backends(url):
        with suppress(ProcessLookupError):
            os.kill(backend, signal.SIGTERM)


HARMS = (stopped, backend_killed, killed, connections_ended)


@pytest.mark.parametrize("losses", [len(HARMS), pytest.param(MANY, marks=LONG)])
@pytest.mark.parametrize("photos", [False, True])
def test_every_promise_outlives_the_database(
    server: Postgres, bundle_dir: Path, with_photos: Path, tmp_path: Path, photos: bool, losses: int
) -> None:
    url, choose = server.database(), random.Random(losses)
    bundle = with_photos if photos else bundle_dir
    promises: Promises | PhotoPromises = PhotoPromises() if photos else Promises()
    refused = 0
    flags = ("--database-url", url, "--threads", "1", "--deadline", "300")  # on a machine that others may stop
    with serving(bundle, tmp_path, *flags) as service:
        for loss in range(losses):
            clients = Photographing(service.url, loss) if photos else Registering(service.url, loss)
            clients.start()
            time.sleep(choose.uniform(0.05, 0.4))
            harm = HARMS[loss % len(HARMS)]
            with classifying(service.url):
                harm(server, url)
                _until_changes_are_taken(clients)
            clients.end()
            promises.take(clients)
            promises.check(service.url, f"after loss {loss} ({harm.__name__})")
            refused += clients.refused.total()
        assert service.process.poll() is None
    assert refused >= losses / 2  # else changes did not meet what was done to the database
    report = command("registry", "check", "--bundle", bundle, "--database-url", url, "--json")
    assert report.returncode == 0, report.stdout + report.stderr
    assert json.loads(report.stdout)["classes"] == len(promises)


def _until_changes_are_taken(clients: Changing) -> None:
    before, end = clients.confirmed, time.monotonic() + HANG
    while clients.confirmed < before + 4:
        assert time.monotonic() < end, f"no change was taken: {clients.refused}, {clients.wrong}"
        assert clients.wrong == []
        time.sleep(0.02)


@contextmanager
def classifying(url: str) -> Iterator[None]:
    """While the block runs, images are asked about all the time, and each must be answered."""
    over, wrong = threading.Event(), list[str]()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=HANG) as client:
            while not over.wait(0.02):
                answer = client.post("/classify", **IMAGE)
                if answer.status_code != 200:
                    wrong.append(answer.text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert wrong == []


# --- a commit whose answer does not come ------------------------------------------------------------------------------


@pytest.fixture
def service(server: Postgres, bundle_dir: Path, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    url = server.database()
    with serving(bundle_dir, tmp_path, "--database-url", url, "--threads", "1") as started:
        yield started, url


def answer_of_a_change(service: Server, meanwhile: Callable[[], None]) -> httpx.Response:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(service.request("POST", "/classes", json=DOCUMENT)))
    thread.start()
    meanwhile()
    thread.join()
    return answers[0]


def kill_what_commits(server: Postgres, url: str, event: str) -> None:
    """Kill the process that commits, once it waits for an event."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event = %s"
    end = time.monotonic() + HANG
    with server.connected() as connection:
        while not (waiting := connection.execute(query, [event]).fetchall()):
            assert time.monotonic() < end, "no change came to its commit"
    os.kill(waiting[0][0], signal.SIGKILL)


def until_followed(service: Server) -> int:
    """The version of the registry, once the service has read it anew."""
    end = time.monotonic() + HANG
    while service.log.text.count("can be followed again") < service.log.text.count("cannot be followed"):
        assert time.monotonic() < end
        time.sleep(0.05)
    version: int = service.request("GET", "/registry").json()["registry_version"]
    return version


def unconfirmed(answer: httpx.Response) -> bool:
    kind: Any = answer.json()["type"]
    return answer.status_code == 503 and kind == "urn:d3gzsl:problem:change-unconfirmed"


def test_a_commit_that_was_made_and_not_acknowledged_says_so(server: Postgres, service: tuple[Server, str]) -> None:
    """The server waits for a standby that does not exist, after it has committed, and is killed there."""
    running, url = service
    with server.connected() as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
    try:
        answer = answer_of_a_change(running, lambda: kill_what_commits(server, url, "SyncRep"))
    finally:
        server.kill()  # an orderly end can wait for ever for what was just killed
        (server.folder / "data" / "postgresql.auto.conf").write_text("")
        server.start()
    assert unconfirmed(answer), answer.text
    assert int(answer.headers["retry-after"]) > 0
    end = time.monotonic() + HANG
    while running.request("GET", "/classes/violet").status_code == 404 and time.monotonic() < end:
        time.sleep(0.05)
    shown = running.request("GET", "/classes/violet")
    assert (shown.status_code, shown.json()["registry_version"]) == (200, 1)
    again = running.request("PUT", "/classes/violet", json={k: v for k, v in DOCUMENT.items() if k != "id"})
    assert (again.status_code, again.json()["registry_version"]) == (200, 1)  # which is what the docs advise


def test_a_commit_that_was_not_made_says_the_same(server: Postgres, service: tuple[Server, str]) -> None:
    """The server is killed in what it does at the commit, before it is made."""
    running, url = service
    slow = """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON versions DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow();
    """
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(slow)
    answer = answer_of_a_change(running, lambda: kill_what_commits(server, url, "PgSleep"))
    assert unconfirmed(answer), answer.text
    assert until_followed(running) == 0
    assert running.request("GET", "/classes/violet").status_code == 404


def test_a_commit_that_the_server_refuses_changed_nothing(server: Postgres, service: tuple[Server, str]) -> None:
    running, url = service
    full = """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
        CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON versions DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION full_disk();
    """
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(full)
        answer = running.request("POST", "/classes", json=DOCUMENT)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:d3gzsl:problem:registry-full")
        until = time.monotonic() + 30
        while "make room there" not in running.log.text and time.monotonic() < until:
            time.sleep(0.05)
        assert "make room there" in running.log.text
        connection.execute("DROP TRIGGER full_disk ON versions")
    assert running.request("GET", "/classes/violet").status_code == 404
    assert running.request("POST", "/classes", json=DOCUMENT).json()["registry_version"] == 1

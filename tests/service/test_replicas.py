"""Several processes on one registry: what one commits, all answer with."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.classes.registrar import Registrar
from service.errors import StorageError
from service.inference.decoding import decode
from service.registry.database import Database
from tests.service.conftest import Running
from tests.service.nursery import Nursery
from tests.service.photos import in_json
from tests.service.postgres import Postgres, postgres_server
from tests.service.tiny import SPEC, VIOLET, photo, png

IMAGE: dict[str, Any] = {"content": png((200, 40, 220)), "headers": {"content-type": "image/png"}}
HANG = 60.0

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


def document(class_id: str, attributes: tuple[float, ...] = VIOLET) -> dict[str, Any]:
    return {"id": class_id, "name": class_id, "attributes": list(attributes)}


# --- one SQLite file --------------------------------------------------------------------------------------------------


async def test_what_one_process_commits_another_answers_with_at_its_next_request(running: Running) -> None:
    async with running(poll_interval=60) as one, running(poll_interval=60) as other:
        for version in range(1, 6):
            writer, reader = (one, other) if version % 2 else (other, one)
            assert (await writer.post("/classes", json=document(f"c{version}"))).status_code == 201
            answer = (await reader.post("/classify", **IMAGE)).json()
            assert answer["registry_version"] == version
            assert (await reader.get(f"/classes/c{version}")).status_code == 200
        assert (await one.delete("/classes/c1")).status_code == 204
        assert (await other.get("/classes/c1")).status_code == 404


async def test_changes_decided_on_an_older_table_are_decided_again(running: Running) -> None:
    async with running(poll_interval=60) as one, running(poll_interval=60) as other:
        tag = (await one.post("/classes", json=document("violet"))).headers["etag"]
        assert (await other.post("/classes", json=document("violet"))).status_code == 409
        changed = await other.patch("/classes/violet", json={"name": "Violet"}, headers={"if-match": tag})
        assert changed.status_code == 200
        stale = await one.patch("/classes/violet", json={"name": "Other"}, headers={"if-match": tag})
        assert stale.status_code == 412


async def test_a_request_that_sees_nothing_new_asks_the_log_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(poll_interval=60) as client:
        await client.post("/classes", json=document("violet"))
        await client.post("/classify", **IMAGE)
        looks: list[int] = []
        original = Registrar.catch_up
        monkeypatch.setattr(Registrar, "catch_up", lambda self: looks.append(1) or original(self))
        for _ in range(5):
            assert (await client.post("/classify", **IMAGE)).status_code == 200
        assert looks == []


async def test_requests_that_meet_during_a_look_all_wait_for_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()
    async with running(poll_interval=60) as one, running(poll_interval=60) as other:
        await one.post("/classes", json=document("violet"))
        original = Registrar.catch_up

        def slow(self: Registrar) -> Any:
            looking.set()
            assert go_on.wait(HANG)
            return original(self)

        monkeypatch.setattr(Registrar, "catch_up", slow)
        first = asyncio.create_task(other.get("/registry"))
        assert await asyncio.to_thread(looking.wait, HANG)
        second = asyncio.create_task(other.get("/registry"))
        await asyncio.sleep(0.05)
        first.cancel()
        go_on.set()
        assert (await second).json()["registry_version"] == 1


async def test_a_request_that_begins_after_a_commit_joins_no_look_from_before_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go_on = threading.Event(), threading.Event()
    async with running(poll_interval=60) as one, running(poll_interval=60) as other:
        await one.post("/classes", json=document("c1"))
        original = Registrar.catch_up

        def slow(self: Registrar) -> Any:
            read = original(self)
            looked.set()
            assert go_on.wait(HANG)
            return read

        monkeypatch.setattr(Registrar, "catch_up", slow)
        first = asyncio.create_task(other.get("/registry"))
        assert await asyncio.to_thread(looked.wait, HANG)
        monkeypatch.setattr(Registrar, "catch_up", original)
        assert (await one.post("/classes", json=document("c2"))).status_code == 201
        after = [asyncio.create_task(other.get("/registry")) for _ in range(2)]
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await first).json()["registry_version"] >= 1
        assert [(await answer).json()["registry_version"] for answer in after] == [2, 2]
        assert (await one.post("/classes", json=document("c3"))).status_code == 201
        assert (await other.get("/registry")).json()["registry_version"] == 3


async def test_a_version_can_be_waited_for(running: Running) -> None:
    async with running() as one, running(deadline=HANG) as other:
        waiting = asyncio.create_task(other.post("/classify?min_registry_version=2", **IMAGE))
        await asyncio.sleep(0.1)
        for version in (1, 2):
            assert not waiting.done()
            await one.post("/classes", json=document(f"c{version}"))
        answer = await asyncio.wait_for(waiting, HANG)
        assert (answer.status_code, answer.json()["registry_version"]) == (200, 2)
        for path in ("/classes?min_registry_version=2", "/classes/c2?min_registry_version=1"):
            assert (await other.get(path)).status_code == 200


async def test_ones_own_change_ends_a_wait(running: Running) -> None:
    async with running(deadline=HANG, poll_interval=60) as client:
        waiting = asyncio.create_task(client.get("/classes?min_registry_version=1"))
        await asyncio.sleep(0.1)
        assert (await client.post("/classes", json=document("violet"))).status_code == 201
        assert "violet" in (await asyncio.wait_for(waiting, HANG)).text


async def test_a_version_that_does_not_come_is_a_503(running: Running) -> None:
    async with running(deadline=0.2) as client:
        for answer in (
            await client.post("/classify?min_registry_version=1", **IMAGE),
            await client.get("/classes?min_registry_version=7"),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:d3gzsl:problem:version-not-reached"
            assert int(answer.headers["retry-after"]) >= 1


async def test_a_registry_that_cannot_be_read_is_answered_around_until_it_comes_back(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(poll_interval=0.02, max_lag=0.2) as client:
        await client.post("/classes", json=document("violet"))
        before = (await client.post("/classify", **IMAGE)).json()["results"]
        with monkeypatch.context() as patched:

            def broken(self: Database) -> None:
                raise StorageError("no disk")

            patched.setattr(Database, "reading", broken)
            patched.setattr(Database, "writing", broken)
            await until(lambda: ready(client, 503))
            answer = await client.get("/readyz")
            assert answer.json()["type"] == "urn:d3gzsl:problem:not-ready"
            assert "could not be read" in answer.json()["detail"]
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.post("/classify", **IMAGE)).json()["results"] == before
            assert (await client.get("/classes/violet")).status_code == 200
            refused = await client.post("/classes", json=document("lime"))
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        await until(lambda: ready(client, 200))
        assert (await client.post("/classes", json=document("lime"))).status_code == 201
    followed = [record.message for record in caplog.records if record.name == "service.classes.follower"]
    assert len(followed) == 2  # once when it went, once when it came back
    assert "no disk" in followed[0]


async def ready(client: httpx.AsyncClient, status: int) -> bool:
    return (await client.get("/readyz")).status_code == status


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + HANG
    while not await condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


# --- one PostgreSQL ---------------------------------------------------------------------------------------------------


async def test_a_class_travels_by_notify_without_a_look(running: Running, postgres: Postgres) -> None:
    url = postgres.database()
    shared = {"database_url": url, "poll_interval": 60, "deadline": HANG}
    async with running(**shared) as one, running(**shared) as other:
        await asyncio.sleep(0.3)  # both listen by now, and neither will look by itself
        for version in range(1, 4):
            assert (await one.post("/classes", json=document(f"c{version}"))).status_code == 201
            answer = await asyncio.wait_for(other.get(f"/classes/c{version}?min_registry_version={version}"), HANG)
            assert answer.status_code == 200


async def test_without_notify_a_class_arrives_by_looking(
    running: Running, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.database()
    monkeypatch.setattr(Database, "announce", lambda *_: None)
    shared = {"database_url": url, "poll_interval": 0.1, "deadline": HANG}
    async with running(**shared) as one, running(**shared) as other:
        await one.post("/classes", json=document("violet"))
        assert (await other.get("/classes/violet?min_registry_version=1")).status_code == 200


async def test_a_server_that_goes_and_comes_back(running: Running, postgres: Postgres) -> None:
    shared = {"database_url": postgres.database(), "poll_interval": 0.05, "max_lag": 0.5, "deadline": HANG}
    async with running(**shared) as one, running(**shared) as other:
        await one.post("/classes", json=document("violet"))
        before = (await other.post("/classify?min_registry_version=1", **IMAGE)).json()["results"]
        postgres.stop()
        try:
            await until(lambda: ready(other, 503))
            assert (await other.post("/classify", **IMAGE)).json()["results"] == before
            assert (await one.post("/classes", json=document("lime"))).status_code == 503
        finally:
            postgres.start()
        await until(lambda: ready(other, 200))
        assert (await one.post("/classes", json=document("lime"))).status_code == 201
        assert (await other.get("/classes/lime?min_registry_version=2")).status_code == 200


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_three_processes_on_one_postgresql(
    bundle_dir: Path, nursery: Nursery, postgres: Postgres, seconds: int
) -> None:
    """Registrations at all three at once while all three classify; nothing fails, and all end up the same."""
    url = postgres.database()
    flags = ("--bundle", str(bundle_dir), "--database-url", url, "--threads", "1")
    with ExitStack() as stack:
        servers = [stack.enter_context(nursery.serving(*flags))[0] for _ in range(3)]
        end = time.monotonic() + seconds
        wrong: list[str] = []
        done: Counter[str] = Counter()
        workers = [threading.Thread(target=write, args=(servers, i, end, wrong, done)) for i in range(3)]
        workers += [threading.Thread(target=read, args=(server, end, wrong, done)) for server in servers]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []
        assert min(done["written"], done["read"], done["read elsewhere"]) >= seconds
        version = max(registry(server)["registry_version"] for server in servers)
        assert version == done["written"]
        answers = [
            httpx.post(f"{server}/classify?top_k=1000&min_registry_version={version}", timeout=HANG, **IMAGE).json()
            for server in servers
        ]
        assert {answer["registry_version"] for answer in answers} == {version}
        there = 3 + done["written"] - done["removed"] * 2
        assert len(answers[0]["results"][0]["predictions"]) == min(1000, there)
        for answer in answers[1:]:
            assert answer["results"] == answers[0]["results"]  # probabilities as written, to the last digit
        listed = [httpx.get(f"{server}/classes?limit=1000", timeout=HANG).json() for server in servers]
        assert listed[0] == listed[1] == listed[2]


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_three_processes_agree_about_photos(
    with_photos: Path, tmp_path: Path, nursery: Nursery, postgres: Postgres, rounds: int
) -> None:
    """Photos of the same classes come and go at all three at once; what is left is as a fresh registration."""
    flags = ("--bundle", str(with_photos), "--database-url", postgres.database(), "--threads", "1")
    documents = [{**document("described")}, {"id": "bare", "name": "bare"}]
    with ExitStack() as stack:
        servers = [stack.enter_context(nursery.serving(*flags))[0] for _ in range(3)]
        first = photo(1)
        for server, given in zip(servers, documents, strict=False):
            created = httpx.post(f"{server}/classes", json={**given, "examples": in_json([first])}, timeout=HANG)
            assert created.status_code == 201, created.text
        kept: dict[str, list[bytes]] = {given["id"]: [first] for given in documents}
        wrong: list[str] = []
        workers = [
            threading.Thread(target=give_photos, args=(servers, i, rounds, wrong, kept[given["id"]], given["id"]))
            for i in range(3)
            for given in documents
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []
        version = max(registry(server)["registry_version"] for server in servers)
        assert version > 6 * rounds

        def everything(version: int) -> list[tuple[Any, ...]]:
            query = f"min_registry_version={version}"
            ids = [given["id"] for given in documents]
            return [
                (
                    httpx.post(f"{server}/classify?top_k=100&{query}", timeout=HANG, **IMAGE).json()["results"],
                    httpx.get(f"{server}/classes?{query}", timeout=HANG).json(),
                    [httpx.get(f"{server}/classes/{i}/examples?{query}", timeout=HANG).json() for i in ids],
                )
                for server in servers
            ]

        answers = everything(version)
        assert answers[0] == answers[1] == answers[2]  # probabilities as written, to the last digit
        for given in documents:
            fresh = {**given, "examples": in_json(kept[given["id"]])}
            assert httpx.delete(f"{servers[1]}/classes/{given['id']}", timeout=HANG).status_code == 204
            stored = httpx.post(f"{servers[2]}/classes", json=fresh, timeout=HANG)
            assert (stored.status_code, stored.json()["examples"]) == (201, 1 + 3 * ((rounds + 1) // 2))
        again = everything(version + 4)
        assert again[0] == again[1] == again[2]
        assert by_class(again[0]) == by_class(answers[0])


def by_class(answer: tuple[Any, ...]) -> dict[str, float]:
    """The probabilities, which rows decide to the last bit, without the order of registration."""
    return {p["class_id"]: p["probability"] for p in answer[0][0]["predictions"]}


def give_photos(servers: list[str], own: int, rounds: int, wrong: list[str], kept: list[bytes], class_id: str) -> None:
    """Give a class photos at one process after the other, and take every second one back at another process."""
    with httpx.Client(timeout=HANG) as client:
        for number in range(rounds):
            data = photo(1000 * own + number + 10)
            server, elsewhere = servers[(own + number) % 3], servers[(own + number + 1) % 3]
            added = client.post(f"{server}/classes/{class_id}/examples", files={"images": ("a.png", data)})
            if added.status_code != 200:
                wrong.append(f"POST {class_id}: {added.status_code} {added.text}")
                return
            if number % 2 == 0:
                kept.append(data)
                continue
            (own_id,) = {example_id(data)} & {example["id"] for example in added.json()["examples"]}
            removed = client.delete(f"{elsewhere}/classes/{class_id}/examples/{own_id}")
            if removed.status_code != 204:
                wrong.append(f"DELETE {class_id}: {removed.status_code} {removed.text}")
                return


def example_id(data: bytes) -> str:
    """Of a photo: a hash of the pixels that the networks see."""
    image = decode(data, SPEC, max_bytes=10**6, max_pixels=10**6).image
    return hashlib.sha256(image.tobytes()).hexdigest()[:32]


def registry(server: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server}/registry", timeout=HANG).json()
    return answer


def write(servers: list[str], own: int, end: float, wrong: list[str], done: Counter[str]) -> None:
    """Register classes at one process, remove some, and look for each at another process."""
    choose = random.Random(own)
    with httpx.Client(timeout=HANG) as client:
        number = 0
        while time.monotonic() < end:
            number += 1
            class_id = f"w{own}-{number}"
            colour = tuple(round(choose.random(), 3) for _ in range(3))
            answer = client.post(f"{servers[own]}/classes", json=document(class_id, colour))
            if answer.status_code != 201:
                wrong.append(f"POST {class_id}: {answer.status_code} {answer.text}")
                continue
            done["written"] += 1
            version = answer.json()["registry_version"]
            elsewhere = servers[(own + choose.choice((1, 2))) % 3]
            found = client.get(f"{elsewhere}/classes/{class_id}?min_registry_version={version}")
            done["read elsewhere"] += 1
            if found.status_code != 200:
                wrong.append(f"GET {class_id} at another process: {found.status_code} {found.text}")
            if number % 4 == 0:
                removed = client.delete(f"{elsewhere}/classes/{class_id}")
                if removed.status_code != 204:
                    wrong.append(f"DELETE {class_id}: {removed.status_code} {removed.text}")
                else:
                    done["written"] += 1
                    done["removed"] += 1
            time.sleep(0.01)


def read(server: str, end: float, wrong: list[str], done: Counter[str]) -> None:
    """Classify all the time; versions never go back."""
    last = 0
    with httpx.Client(timeout=HANG) as client:
        while time.monotonic() < end:
            answer = client.post(f"{server}/classify", **IMAGE)
            if answer.status_code != 200 or answer.json()["registry_version"] < last:
                wrong.append(f"POST /classify: {answer.status_code} {answer.text}")
            else:
                last = answer.json()["registry_version"]
            done["read"] += 1
            time.sleep(0.01)

"""`kill -9` while classes are being registered: every 201 is there afterwards, and nothing is there by halves."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.nursery import HANG, Nursery
from tests.service.photos import in_json
from tests.service.processes import command
from tests.service.tiny import photo, png

BATCH = 3
IMAGE: dict[str, Any] = {"content": png((200, 40, 220)), "headers": {"content-type": "image/png"}}


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    started = Nursery(tmp_path / "log")
    yield started
    started.close()


class Threads:
    """Threads that are started and waited for together."""

    _threads: list[threading.Thread]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


class Clients(Threads):
    """Two clients that register as fast as they can, and remember what was promised and what was under way."""

    def __init__(self, url: str, life: int) -> None:
        self.promised: dict[str, dict[str, Any]] = {}
        self.open: list[set[str]] = []  # what may or may not have become of the last request of each client
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(url, life, kind)) for kind in ("single", "batch")]

    def _run(self, url: str, life: int, kind: str) -> None:
        choose = random.Random(f"{life}{kind}")
        with httpx.Client(base_url=url, timeout=HANG) as client:
            for number in range(10_000):
                ids = [f"{kind}-{life}-{number}-{i}" for i in range(BATCH if kind == "batch" else 1)]
                documents = [document(i, choose) for i in ids]
                under_way = set(ids)
                self.open.append(under_way)
                try:
                    if kind == "batch":
                        answer = client.post("/classes:batch", json={"classes": documents})
                    else:
                        answer = client.post("/classes", json=documents[0])
                    if answer.status_code not in (200, 201):
                        self.wrong.append(f"{answer.status_code} {answer.text}")
                        return
                    self.promised.update({d["id"]: d for d in documents})
                    self.open.remove(under_way)
                    if kind == "single" and number % 3 == 2:
                        self.open.append(under_way)
                        self.promised.pop(ids[0])
                        if client.delete(f"/classes/{ids[0]}").status_code != 204:
                            self.wrong.append(f"DELETE {ids[0]}")
                            return
                        self.open.remove(under_way)
                except httpx.TransportError:
                    return


def document(class_id: str, choose: random.Random) -> dict[str, Any]:
    return {
        "id": class_id,
        "name": f"class {class_id}",
        "attributes": [round(choose.random(), 6) for _ in range(3)],
        "metadata": {"n": choose.randrange(10**9)},
    }


def table(url: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    cursor: dict[str, str] = {}
    with httpx.Client(base_url=url, timeout=HANG) as client:
        while True:
            page = client.get("/classes", params={"limit": 1000, **cursor}).json()
            found |= {c["id"]: c for c in page["classes"]}
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}


MANY = 40 if os.environ.get("CI") else 200
"""Lives of the long run, which takes ten minutes; what CI runs again and again is shorter."""


@pytest.mark.parametrize("lives", [5, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_every_promise_outlives_kill_9(nursery: Nursery, bundle_dir: Path, tmp_path: Path, lives: int) -> None:
    flags = ("--bundle", str(bundle_dir), "--data-dir", str(tmp_path / "data"), "--threads", "1")
    choose = random.Random(lives)
    there: dict[str, dict[str, Any]] = {}  # classes that must be there, with what was promised of them
    unsure: list[set[str]] = []
    hit = 0
    for life in range(lives + 1):
        with nursery.serving(*flags) as (url, pid):
            found = table(url)
            for class_id, sent in there.items():
                assert class_id in found, f"{class_id} was answered with 201 and is gone in life {life}"
                assert {name: found[class_id][name] for name in sent} == sent
            for under_way in unsure:
                assert under_way <= found.keys() or not under_way & found.keys(), f"half a batch: {under_way}"
                there |= {i: {"id": i, "name": f"class {i}"} for i in under_way & found.keys()}
            assert found.keys() == there.keys() | {"reddish", "greenish", "bluish"}
            assert httpx.post(f"{url}/classify", **IMAGE, timeout=HANG).status_code == 200
            if life == lives:
                break
            clients = Clients(url, life)
            clients.start()
            time.sleep(choose.uniform(0.02, 0.25))
            os.kill(pid, signal.SIGKILL)
            clients.join()
        assert clients.wrong == []
        there |= clients.promised
        unsure, hit = clients.open, hit + bool(clients.open)
    assert hit > lives / 2  # else the kills came too late to meet a registration
    report = command("registry", "check", *flags[:4], "--json")
    assert report.returncode == 0, report.stdout + report.stderr
    assert json.loads(report.stdout)["classes"] == len(there) + 3


class Photographers(Threads):
    """Two clients that give a class of their own photos and take some back, and remember what was promised."""

    def __init__(self, url: str, life: int, promised: dict[str, set[str]]) -> None:
        self.promised = promised
        self.open: dict[str, set[str] | None] = {}  # what the last request makes of a class; None for one more photo
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(url, life, kind)) for kind in ("described", "bare")]

    def _run(self, url: str, life: int, kind: str) -> None:
        choose = random.Random(f"{life}{kind}")
        class_id = f"{kind}-{life}"
        document = {
            "id": class_id,
            "name": class_id,
            **({"attributes": [0.9, 0.5, 0.1]} if kind == "described" else {}),
        }
        with httpx.Client(base_url=url, timeout=HANG) as client:
            try:
                self.open[class_id] = None
                images = in_json([photo(choose.randrange(10**9))])
                created = client.post("/classes", json={**document, "examples": images})
                assert created.status_code == 201, created.text
                self._keep(class_id, client.get(f"/classes/{class_id}/examples"))
                for _ in range(10_000):
                    ids = self.promised[class_id]
                    if len(ids) > 8 or (len(ids) > 1 and choose.random() < 0.3):
                        gone = choose.choice(sorted(ids))
                        self.open[class_id] = ids - {gone}
                        removed = client.delete(f"/classes/{class_id}/examples/{gone}")
                        assert removed.status_code == 204, removed.text
                        self.promised[class_id] = ids - {gone}
                    else:
                        self.open[class_id] = None
                        data = photo(choose.randrange(10**9))
                        headers = {"content-type": "image/png"}
                        added = client.post(f"/classes/{class_id}/examples", content=data, headers=headers)
                        self._keep(class_id, added)
                    del self.open[class_id]
            except httpx.TransportError:
                return
            except AssertionError as error:
                self.wrong.append(str(error))

    def _keep(self, class_id: str, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        self.promised[class_id] = {example["id"] for example in answer.json()["examples"]}


@pytest.mark.parametrize("lives", [5, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_every_photo_outlives_kill_9(nursery: Nursery, with_photos: Path, tmp_path: Path, lives: int) -> None:
    flags = ("--bundle", str(with_photos), "--data-dir", str(tmp_path / "data"), "--threads", "1")
    choose = random.Random(lives)
    promised: dict[str, set[str]] = {}
    unsure: dict[str, set[str] | None] = {}
    hit = 0
    for life in range(lives + 1):
        with nursery.serving(*flags) as (url, pid):
            there = table(url)
            for class_id in promised.keys() | unsure.keys():
                before = promised.get(class_id, set())
                assert class_id in there or not before, f"{class_id} is gone in life {life}"
                if class_id not in there:
                    continue
                listed = httpx.get(f"{url}/classes/{class_id}/examples", timeout=HANG).json()["examples"]
                found = {example["id"] for example in listed}
                assert there[class_id]["examples"] == len(found) == len(listed)
                wanted = unsure.get(class_id, before)
                one_more = wanted is None and found > before and len(found) == len(before) + 1
                assert found in (before, wanted) or one_more, f"{class_id} in life {life}"
                promised[class_id] = found
            assert httpx.post(f"{url}/classify", **IMAGE, timeout=HANG).status_code == 200
            if life == lives:
                break
            clients = Photographers(url, life, promised)
            clients.start()
            time.sleep(choose.uniform(0.05, 0.4))
            os.kill(pid, signal.SIGKILL)
            clients.join()
        assert clients.wrong == []
        unsure, hit = clients.open, hit + bool(clients.open)
    assert hit > lives / 2  # else the kills came too late to meet a photo
    report = command("registry", "check", *flags[:4], "--json")
    assert report.returncode == 0, report.stdout + report.stderr
    with_rows = sum(bool(photos) for photos in promised.values())
    assert json.loads(report.stdout)["rows"] == with_rows

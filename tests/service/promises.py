"""Clients that change classes while something is killed under them, and remember what they were promised.

A change that was answered with success must be there whatever happened since. One that was refused must not be there.
One whose answer never came, or is `change-unconfirmed`, may be there as a whole or not at all.
"""

from __future__ import annotations

import collections
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from tests.service.nursery import HANG
from tests.service.photos import in_json
from tests.service.tiny import photo, png

BATCH = 3
IMAGE: dict[str, Any] = {"content": png((200, 40, 220)), "headers": {"content-type": "image/png"}}
OF_THE_BUNDLE = {"reddish", "greenish", "bluish"}
REFUSALS = ("registry-unavailable", "registry-full")
UNCONFIRMED = "change-unconfirmed"


class Changing:
    """Two clients, each in a thread, that change as fast as they can until the service dies or they are to end."""

    def __init__(self, url: str, kinds: tuple[str, str]) -> None:
        self.url, self.wrong, self.confirmed = url, list[str](), 0
        self.refused: collections.Counter[str] = collections.Counter()
        self._over = threading.Event()
        self._sending, self._may_send = threading.Semaphore(len(kinds)), threading.Event()
        self._may_send.set()
        self._threads = [threading.Thread(target=self._until_the_end, args=(kind,)) for kind in kinds]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        """Let each finish what it has begun."""
        self._over.set()
        self.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block no change is under way."""
        with ExitStack() as stack:
            stack.callback(self._may_send.set)
            self._may_send.clear()
            for _ in self._threads:
                stack.enter_context(self._sending)
            yield

    def _until_the_end(self, kind: str) -> None:
        with httpx.Client(base_url=self.url, timeout=HANG) as client:
            try:
                self._run(client, kind)
            except httpx.TransportError:
                return
            except AssertionError as error:
                self.wrong.append(str(error))

    def _run(self, client: httpx.Client, kind: str) -> None:
        raise NotImplementedError

    def _is_stored(self, answer: httpx.Response, *expected: int) -> bool | None:
        """Whether a change is stored; None where nobody knows."""
        if answer.status_code in expected:
            self.confirmed += 1
            return True
        name = answer.json()["type"].rpartition(":")[2]
        assert answer.status_code == 503, answer.text
        assert name in (*REFUSALS, UNCONFIRMED), answer.text
        assert int(answer.headers["retry-after"]) > 0
        self.refused[name] += 1
        time.sleep(0.02)
        return None if name == UNCONFIRMED else False


class Registering(Changing):
    """One registers classes and removes some, the other sends batches.

    Args:
        url: of the service.
        life: part of the names of classes.
    """

    def __init__(self, url: str, life: int) -> None:
        super().__init__(url, ("single", "batch"))
        self._life = life
        self.promised: dict[str, dict[str, Any]] = {}
        self.open: list[set[str]] = []  # ids of changes of which nobody knows what has become

    def _run(self, client: httpx.Client, kind: str) -> None:
        choose = random.Random(f"{self._life}{kind}")
        number = 0
        while not self._over.is_set():
            ids = [f"{kind}-{self._life}-{number}-{i}" for i in range(BATCH if kind == "batch" else 1)]
            documents = {i: document(i, choose) for i in ids}
            if kind == "batch":
                batch = {"classes": [*documents.values()]}
                stored = self._send({*ids}, lambda batch=batch: client.post("/classes:batch", json=batch), 200)
            else:
                one = documents[ids[0]]
                stored = self._send({*ids}, lambda one=one: client.post("/classes", json=one), 201)
            if stored:
                self.promised |= documents
            if stored and kind == "single" and number % 3 == 2:
                self._remove(client, ids[0])
            number += 1

    def _remove(self, client: httpx.Client, class_id: str) -> None:
        document = self.promised.pop(class_id)
        if self._send({class_id}, lambda: client.delete(f"/classes/{class_id}"), 204) is False:
            self.promised[class_id] = document

    def _send(self, ids: set[str], send: Callable[[], httpx.Response], expected: int) -> bool | None:
        self.open.append(ids)
        self._may_send.wait()
        with self._sending:
            stored = self._is_stored(send(), expected)
        if stored is not None:
            self.open.remove(ids)
        return stored


class Promises:
    """What the class table must hold."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Any]] = {}  # with what was sent
        self.unsure: list[set[str]] = []

    def __len__(self) -> int:
        """How many classes there must be, those of the bundle included."""
        return len(self.there) + len(OF_THE_BUNDLE)

    def take(self, clients: Registering) -> None:
        """What clients that have ended were promised."""
        assert clients.wrong == []
        self.there |= clients.promised
        self.unsure = clients.open

    def check(self, url: str, when: str) -> None:
        """Look at the whole table, and find out what has become of what nobody knew."""
        found = table(url)
        for class_id, sent in self.there.items():
            assert class_id in found, f"{class_id} was answered with success and is gone {when}"
            assert {name: found[class_id][name] for name in sent} == sent
        for under_way in self.unsure:
            assert under_way <= found.keys() or not under_way & found.keys(), f"half a batch {when}: {under_way}"
            self.there |= {i: {"id": i, "name": f"class {i}"} for i in under_way & found.keys()}
        assert found.keys() == self.there.keys() | OF_THE_BUNDLE, when
        assert httpx.post(f"{url}/classify", **IMAGE, timeout=HANG).status_code == 200


class Photographing(Changing):
    """Two clients that give classes of their own photos and take some back.

    Args:
        url: of the service.
        life: part of the names of classes.
    """

    def __init__(self, url: str, life: int) -> None:
        super().__init__(url, ("described", "bare"))
        self._life = life
        self.promised: dict[str, set[str] | None] = {}  # None for one photo, whose id nobody was told yet
        self.open: dict[str, set[str] | None] = {}  # what the last change makes of a class; None for one more photo

    def _run(self, client: httpx.Client, kind: str) -> None:
        choose = random.Random(f"{self._life}{kind}")
        described = {"attributes": [0.9, 0.5, 0.1]} if kind == "described" else {}
        number = 0
        while not self._over.is_set():
            class_id = f"{kind}-{self._life}-{number}"
            images = in_json([photo(choose.randrange(10**9))])
            whole = {"id": class_id, "name": class_id, **described, "examples": images}
            if self._send(class_id, None, lambda whole=whole: client.post("/classes", json=whole), 201):
                self.promised[class_id] = None
                listed = client.get(f"/classes/{class_id}/examples")
                self.promised[class_id] = {example["id"] for example in listed.json()["examples"]}
                self._photograph(client, class_id, choose)
            number += 1

    def _photograph(self, client: httpx.Client, class_id: str, choose: random.Random) -> None:
        """Change the photos of a class, until nobody knows what has become of a change."""
        while not self._over.is_set():
            ids = self.promised[class_id]
            assert ids is not None
            if len(ids) > 8 or (len(ids) > 1 and choose.random() < 0.3):
                gone = choose.choice(sorted(ids))
                address = f"/classes/{class_id}/examples/{gone}"
                stored = self._send(class_id, ids - {gone}, lambda address=address: client.delete(address), 204)
                if stored:
                    self.promised[class_id] = ids - {gone}
            else:
                data = photo(choose.randrange(10**9))
                answers: list[httpx.Response] = []

                def add(data: bytes = data, answers: list[httpx.Response] = answers) -> httpx.Response:
                    headers = {"content-type": "image/png"}
                    answers.append(client.post(f"/classes/{class_id}/examples", content=data, headers=headers))
                    return answers[0]

                stored = self._send(class_id, None, add, 200)
                if stored:
                    self.promised[class_id] = {example["id"] for example in answers[0].json()["examples"]}
            if stored is None:
                return

    def _send(
        self, class_id: str, wanted: set[str] | None, send: Callable[[], httpx.Response], expected: int
    ) -> bool | None:
        self.open[class_id] = wanted
        stored = self._is_stored(send(), expected)
        if stored is not None:
            del self.open[class_id]
        return stored


class PhotoPromises:
    """Which photos each class must have."""

    def __init__(self) -> None:
        self.there: dict[str, set[str] | None] = {}  # None for one photo, whose id nobody was told
        self.unsure: dict[str, set[str] | None] = {}

    def __len__(self) -> int:
        """How many classes there must be, those of the bundle included."""
        return len(self.there) + len(OF_THE_BUNDLE)

    def take(self, clients: Photographing) -> None:
        """What clients that have ended were promised."""
        assert clients.wrong == []
        self.there |= clients.promised
        self.unsure = clients.open

    def check(self, url: str, when: str) -> None:
        """Look at the photos of every class, and find out what has become of what nobody knew."""
        listed = table(url)
        with httpx.Client(base_url=url, timeout=HANG) as client:
            for class_id in self.there.keys() | self.unsure.keys():
                before = self.there.get(class_id, set())
                assert class_id in listed or before == set(), f"{class_id} is gone {when}"
                if class_id not in listed:
                    continue
                examples = client.get(f"/classes/{class_id}/examples").json()["examples"]
                found = {example["id"] for example in examples}
                assert listed[class_id]["examples"] == len(found) == len(examples)
                if before is None:
                    assert len(found) == 1, f"{class_id} {when}"
                    before = found
                wanted = self.unsure.get(class_id, before)
                one_more = wanted is None and found > before and len(found) == len(before) + 1
                assert found in (before, wanted) or one_more, f"{class_id} {when}"
                self.there[class_id] = found
        assert {i for i in listed if i not in OF_THE_BUNDLE} == self.there.keys(), when
        assert httpx.post(f"{url}/classify", **IMAGE, timeout=HANG).status_code == 200


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

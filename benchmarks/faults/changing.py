"""One client that changes the class table, knows what every version of it must hold, and looks whether it does."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from benchmarks.faults.asking import Asking, WrongAnswerError

_MOST = 40
"""Classes of this client at once, so that what the service must hold does not grow."""
_MOST_PHOTOS = 6
_BACK = 30
_LOOK_EVERY = 10
Table = dict[str, tuple[str, int]]  # name and number of example photos of each class of this client


class Changes:
    """Registrations with and without photos, other changes, removals and rollbacks, one after the other.

    Args:
        asking: sends requests; nobody else may change the class table.
        photos: image files for examples.
        attributes: names of the vocabulary with their ranges.
        seed: of the choices.
    """

    def __init__(
        self, asking: Asking, photos: list[bytes], attributes: dict[str, tuple[float, float]], *, seed: int
    ) -> None:
        self._asking, self._photos, self._attributes = asking, photos, attributes
        self._choose = random.Random(seed)
        self._versions: list[Table] = [{}]
        self._made = self._steps = 0

    @property
    def version(self) -> int:
        """Of the class table, as it must be now."""
        return len(self._versions) - 1

    async def step(self) -> str:
        """Make one change, now and then look at the whole table; returns what was done.

        Raises:
            WrongAnswerError: the service did not do as it should.
        """
        self._steps += 1
        there = self._versions[-1]
        steps = [self._remove, self._remove, self._rollback, self._describe, self._replace, self._add_photo]
        if len(there) < _MOST:
            steps += [self._register, self._register_with_photos, self._register_form, self._batch] * 2
        if any(photos > 1 for _, photos in there.values()):
            steps.append(self._remove_photo)
        chosen = self._register if not there else self._choose.choice(steps)
        await chosen()
        if self._steps % _LOOK_EVERY == 0:
            await self.look()
        return chosen.__name__.strip("_")

    async def look(self) -> None:
        """Compare the whole table with what it must be.

        Raises:
            WrongAnswerError: it is another one.
        """
        found: Table = {}
        cursor: dict[str, str] = {}
        while True:
            page = (await self._asking.ask("GET", "/classes", params={"limit": "50", **cursor})).json()
            found |= {c["id"]: (c["name"], c["examples"]) for c in page["classes"] if c["id"].startswith("soak-")}
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        if found != self._versions[-1]:
            raise WrongAnswerError(f"version {self.version} holds {found}, expected {self._versions[-1]}")

    def _next(self, table: Table, answer: Any) -> None:
        self._versions.append(table)
        told = int(answer.headers["registry-version"])
        if told != self.version:
            raise WrongAnswerError(f"expected version {self.version}, got {told}")

    def _document(self, class_id: str | None = None) -> dict[str, Any]:
        if class_id is None:
            self._made += 1
            class_id = f"soak-{self._made}"
        given = self._choose.sample(sorted(self._attributes), 8)
        return {
            "id": class_id,
            "name": f"name {self._made} {self._choose.randrange(10**6)}",
            "attributes": {name: round(self._choose.uniform(*self._attributes[name]), 4) for name in given},
            "metadata": {"number": self._choose.randrange(10**9)},
        }

    def _some_photos(self, most: int) -> list[bytes]:
        return self._choose.sample(self._photos, self._choose.randint(1, most))

    def _any(self) -> tuple[str, tuple[str, int]]:
        return self._choose.choice(sorted(self._versions[-1].items()))

    async def _register(self) -> None:
        document = self._document()
        answer = await self._asking.ask("POST", "/classes", 201, json=document)
        self._next({**self._versions[-1], document["id"]: (document["name"], 0)}, answer)

    async def _register_with_photos(self) -> None:
        document, photos = self._document(), self._some_photos(3)
        if self._choose.random() < 0.3:
            del document["attributes"]
        examples = [{"data": base64.b64encode(photo).decode()} for photo in photos]
        answer = await self._asking.ask("POST", "/classes", 201, json={**document, "examples": examples})
        self._next({**self._versions[-1], document["id"]: (document["name"], len(photos))}, answer)

    async def _register_form(self) -> None:
        document, photos = self._document(), self._some_photos(3)
        files = [("examples", (f"{i}.jpg", photo, "image/jpeg")) for i, photo in enumerate(photos)]
        answer = await self._asking.ask("POST", "/classes", 201, data={"class": json.dumps(document)}, files=files)
        self._next({**self._versions[-1], document["id"]: (document["name"], len(photos))}, answer)

    async def _batch(self) -> None:
        documents = [self._document() for _ in range(5)]
        answer = await self._asking.ask("POST", "/classes:batch", json={"classes": documents})
        self._next({**self._versions[-1], **{d["id"]: (d["name"], 0) for d in documents}}, answer)

    async def _replace(self) -> None:
        class_id, _ = self._any()
        document = self._document(class_id)
        answer = await self._asking.ask(
            "PUT", f"/classes/{class_id}", json={k: v for k, v in document.items() if k != "id"}
        )
        self._next({**self._versions[-1], class_id: (document["name"], 0)}, answer)

    async def _describe(self) -> None:
        class_id, (_, photos) = self._any()
        name = f"described {self._choose.randrange(10**9)}"
        answer = await self._asking.ask("PATCH", f"/classes/{class_id}", json={"name": name})
        self._next({**self._versions[-1], class_id: (name, photos)}, answer)

    async def _remove(self) -> None:
        class_id, _ = self._any()
        answer = await self._asking.ask("DELETE", f"/classes/{class_id}", 204)
        self._next({k: v for k, v in self._versions[-1].items() if k != class_id}, answer)
        await self._asking.ask("GET", f"/classes/{class_id}", 404)

    async def _add_photo(self) -> None:
        class_id, (name, photos) = self._any()
        known = {e["id"] for e in (await self._asking.ask("GET", f"/classes/{class_id}/examples")).json()["examples"]}
        if len(known) != photos:
            raise WrongAnswerError(f"{class_id} has {len(known)} photos, expected {photos}")
        if photos >= _MOST_PHOTOS:
            return
        headers = {"content-type": "image/jpeg"}
        photo = self._choose.choice(self._photos)
        answer = await self._asking.ask("POST", f"/classes/{class_id}/examples", content=photo, headers=headers)
        now = {e["id"] for e in answer.json()["examples"]}
        if now != known:  # else it was there already
            self._next({**self._versions[-1], class_id: (name, photos + 1)}, answer)

    async def _remove_photo(self) -> None:
        several = sorted(item for item in self._versions[-1].items() if item[1][1] > 1)
        class_id, (name, photos) = self._choose.choice(several)
        listed = (await self._asking.ask("GET", f"/classes/{class_id}/examples")).json()["examples"]
        gone = self._choose.choice(listed)["id"]
        answer = await self._asking.ask("DELETE", f"/classes/{class_id}/examples/{gone}", 204)
        self._next({**self._versions[-1], class_id: (name, photos - 1)}, answer)

    async def _rollback(self) -> None:
        target = self._choose.randint(max(0, self.version - _BACK), self.version)
        answer = await self._asking.ask("POST", "/registry:rollback", json={"version": target})
        self._next(self._versions[target], answer)

"""What clients of every kind ask of a service: good requests, bad ones, slow ones, and those that go away."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from benchmarks.faults.asking import Asking, WrongAnswerError
from benchmarks.faults.raw_http import head, raw

JPEG = {"content-type": "image/jpeg"}
_BROKEN_OFF = (
    ("image/jpeg", "/classify"),
    ("application/json", "/classify"),
    ("application/json", "/classes"),
    ("application/json", "/classes:batch"),
    ("multipart/form-data; boundary=b", "/classes:preview"),
)
_READS = (
    "/healthz",
    "/readyz",
    "/version",
    "/metrics",
    "/attributes",
    "/registry",
    "/registry/versions?order=newest",
    "/classes?limit=20",
    "/classes?name=red",
    "/bundle/examples",
    "/v2",
    "/v2/models/d3gzsl",
    "/v2/health/ready",
)


class MixedLoad:
    """Requests that change nothing, by name and with how often each is sent.

    Args:
        asking: sends requests.
        photos: JPEG files that the service reads.
        attributes: names of the vocabulary.
        size: side of the network's input in pixels.
        seed: of the choices.
    """

    def __init__(self, asking: Asking, photos: list[bytes], attributes: list[str], *, size: int, seed: int) -> None:
        self._asking, self._photos, self._attributes, self._size = asking, photos, attributes, size
        self._choose = random.Random(seed)
        self._pixels = np.random.default_rng(seed).normal(size=(2, 3, size, size)).astype("<f4")
        self._known: dict[bytes, Any] = {}
        weights: dict[Callable[[], Awaitable[None]], int] = {
            self._photo: 24,
            self._json: 10,
            self._form: 10,
            self._gzip: 4,
            self._v2_json: 6,
            self._v2_binary: 6,
            self._explained: 3,
            self._preview: 3,
            self._preview_with_photos: 2,
            self._reads: 8,
            self._page: 1,
            self._bad: 10,
            self._gone_in_the_body: 6,
            self._gone_before_the_answer: 4,
            self._slow_body: 2,
            self._slow_reader: 2,
            self._head_without_end: 1,
            self._silence: 1,
        }
        self._requests, self._weights = [*weights], [*itertools.accumulate(weights.values())]
        self._bad_requests = itertools.cycle(self._all_bad())

    def next(self) -> tuple[str, Callable[[], Awaitable[None]]]:
        """The next request's name, and what sends it; that raises WrongAnswerError where another answer comes."""
        (chosen,) = self._choose.choices(self._requests, cum_weights=self._weights)
        return chosen.__name__.strip("_"), chosen

    def _a_photo(self) -> bytes:
        return self._choose.choice(self._photos)

    def _some(self, most: int) -> list[bytes]:
        return self._choose.sample(self._photos, self._choose.randint(2, most))

    async def _photo(self) -> None:
        photo = self._a_photo()
        answer = await self._asking.ask("POST", "/classify?scope=seen&top_k=5", content=photo, headers=JPEG)
        (result,) = answer.json()["results"]
        # Seen classes do not change, so the same photo has the same answer to the last bit, whatever else goes on.
        if self._known.setdefault(photo, result) != result:
            raise WrongAnswerError(f"a photo was {self._known[photo]} and is now {result}")

    async def _json(self) -> None:
        photos = self._some(4)
        images = [{"id": f"{i}", "data": base64.b64encode(photo).decode()} for i, photo in enumerate(photos)]
        answer = await self._asking.ask("POST", "/classify", json={"images": images})
        self._expect_results(answer.json(), len(photos))

    async def _form(self) -> None:
        photos = self._some(4)
        files = [("images", (f"{i}.jpg", photo, "image/jpeg")) for i, photo in enumerate(photos)]
        answer = await self._asking.ask("POST", "/classify?scope=unseen", files=files)
        self._expect_results(answer.json(), len(photos))

    async def _gzip(self) -> None:
        body = gzip.compress(json.dumps({"images": [{"data": base64.b64encode(self._a_photo()).decode()}]}).encode())
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        answer = await self._asking.ask("POST", "/classify?top_k=500", content=body, headers=headers)
        self._expect_results(answer.json(), 1)

    async def _explained(self) -> None:
        answer = await self._asking.ask(
            "POST", "/classify?explain=attributes&top_k=3", content=self._a_photo(), headers=JPEG
        )
        self._expect_results(answer.json(), 1)

    @staticmethod
    def _expect_results(document: dict[str, Any], number: int) -> None:
        results = document["results"]
        if len(results) != number or not all(result.get("predictions") for result in results):
            raise WrongAnswerError(f"expected {number} results, got {document}")

    async def _v2_json(self) -> None:
        photos = [base64.b64encode(photo).decode() for photo in self._some(3)]
        inputs = [{"name": "image_bytes", "datatype": "BYTES", "shape": [len(photos)], "data": photos}]
        answer = await self._asking.ask("POST", "/v2/models/d3gzsl/infer", json={"inputs": inputs})
        if answer.json()["outputs"][0]["shape"][0] != len(photos):
            raise WrongAnswerError(f"expected {len(photos)} rows, got {answer.json()}")

    async def _v2_binary(self) -> None:
        data = self._pixels.tobytes()
        tensor = {"name": "pixels", "datatype": "FP32", "shape": list(self._pixels.shape)}
        document = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}],
            "parameters": {"binary_data_output": True, "top_k": 3},
        }
        start = json.dumps(document).encode()
        headers = {"inference-header-content-length": str(len(start)), "content-type": "application/octet-stream"}
        await self._asking.ask("POST", "/v2/models/d3gzsl/infer", content=start + data, headers=headers)

    async def _preview(self) -> None:
        document = {"name": "tried", "attributes": {self._choose.choice(self._attributes): 0.5}}
        await self._asking.ask("POST", "/classes:preview", json=document)

    async def _preview_with_photos(self) -> None:
        files = [(field, ("a.jpg", self._a_photo(), "image/jpeg")) for field in ("examples", "images")]
        await self._asking.ask("POST", "/classes:preview", data={"class": json.dumps({"name": "tried"})}, files=files)

    async def _reads(self) -> None:
        path = self._choose.choice(_READS)
        await self._asking.ask("GET", path)

    async def _page(self) -> None:
        await self._asking.ask("GET", "/")
        await self._asking.ask("GET", "/openapi.json")

    def _all_bad(self) -> list[tuple[int, str, str, dict[str, Any]]]:
        photo = self._photos[0]
        json_type = {"content-type": "application/json"}
        return [
            (422, "POST", "/classify", {"content": photo[: len(photo) // 2], "headers": JPEG}),
            (415, "POST", "/classify", {"content": b"no image at all", "headers": JPEG}),
            (400, "POST", "/classify", {"content": b'{"images": [', "headers": json_type}),
            (415, "POST", "/classify", {"content": b"hello", "headers": {"content-type": "text/plain"}}),
            (422, "POST", "/classify?top_k=0", {"content": photo, "headers": JPEG}),
            (422, "POST", "/classes", {"json": {"name": "wrong", "attributes": {"no such attribute": 1}}}),
            (400, "POST", "/classes", {"content": b'{"name": "wrong", "attributes": [NaN]}', "headers": json_type}),
            (
                409,
                "POST",
                "/classes",
                {"json": {"id": "red-striped-circle", "name": "seen", "attributes": {self._attributes[0]: 1}}},
            ),
            (404, "DELETE", "/classes/none", {}),
            (404, "POST", "/registry:rollback", {"json": {"version": 10**9}}),
            (404, "GET", "/nowhere", {}),
            (405, "PUT", "/classify", {"content": b""}),
            (413, "POST", "/classify", {"json": {"images": [{"data": ""}] * 1000}}),
        ]

    async def _bad(self) -> None:
        expected, method, path, arguments = next(self._bad_requests)
        await self._asking.ask(method, path, expected, **arguments)

    async def _gone_in_the_body(self) -> None:
        kind, path = self._choose.choice(_BROKEN_OFF)
        async with raw(self._asking.url) as client:
            await client.send(head("POST", path, length=100_000, kind=kind))
            await client.send(self._a_photo())
            await asyncio.sleep(self._choose.uniform(0, 0.3))
            client.break_off()

    async def _gone_before_the_answer(self) -> None:
        photo = self._a_photo()
        async with raw(self._asking.url) as client:
            await client.send(head("POST", "/classify", length=len(photo), kind="image/jpeg") + photo)
            await asyncio.sleep(self._choose.uniform(0, 0.01))
            client.break_off()

    async def _slow_body(self) -> None:
        photo = self._a_photo()
        async with raw(self._asking.url) as client:
            await client.send(head("POST", "/classify", length=len(photo), kind="image/jpeg"))
            await client.dribble(photo, pieces=15, pause=0.2)
            status, _ = await client.answer()
        self._asking.check("a slow body", status, 200)

    async def _slow_reader(self) -> None:
        async with raw(self._asking.url) as client:
            await client.send(head("GET", "/openapi.json"))
            while not (await client.reader.read(4096)).endswith(b"}"):
                await asyncio.sleep(0.05)

    async def _head_without_end(self) -> None:
        async with raw(self._asking.url) as client:
            await client.dribble(head("POST", "/classify")[:-2], pieces=5, pause=0.3)
            status, _ = await client.answer()
        self._asking.check("a head without an end", status, 408)

    async def _silence(self) -> None:
        async with raw(self._asking.url) as client:
            if await client.reader.read(1) != b"":
                raise WrongAnswerError("expected the end of a connection on which nothing was sent")

"""Deadlines, refusals and clients that go away: what must never reach the model does not."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from model.bundle import Precision
from model.head import Float32
from service.inference.engine import TrunkOutput
from service.service import Service
from tests.service.conftest import Client, Running
from tests.service.tiny import png
from tests.service.waiting import until

pytestmark = pytest.mark.anyio
BLUE = {"content": png((0, 0, 255)), "headers": {"content-type": "image/png"}}
OVERLOADED, LATE = (503, "urn:d3gzsl:problem:overloaded"), (503, "urn:d3gzsl:problem:deadline-exceeded")


class HeldEngine:
    """Embeds everything as zeros, one step per permission."""

    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.images = 0

    def embed(self, images: Float32) -> TrunkOutput:
        assert self.steps.acquire(timeout=10)
        self.images += len(images)
        return TrunkOutput(np.zeros((len(images), 4), np.float32), np.zeros(len(images), np.float32))

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        raise AssertionError("no class is registered here")


def service_of(client: Client) -> Service:
    service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
    return service


def outcome(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


async def test_the_client_says_how_long_it_waits_and_the_model_never_sees_what_is_too_late(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, batch_size=1) as client:
        service = service_of(client)
        first = asyncio.create_task(client.post("/classify", **BLUE))
        await until(lambda: service.batcher.at_work_for > 0)
        late = [{**BLUE, "headers": {**BLUE["headers"], "d3gzsl-timeout-ms": "60"}} for _ in range(3)]
        answers = await asyncio.gather(*(client.post("/classify", **request) for request in late))
        assert [outcome(answer) for answer in answers] == [LATE] * 3
        assert answers[0].json()["detail"] == "no answer within 0.06 seconds"
        engine.steps.release(2)
        assert (await first).status_code == 200
        assert (await client.post("/classify", **BLUE)).status_code == 200
        assert (engine.images, service.batcher.dropped) == (2, 3)


async def test_a_client_cannot_have_more_time_than_the_settings_give(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, deadline=0.05) as client:
        headers = {**BLUE["headers"], "d3gzsl-timeout-ms": "60000"}
        assert outcome(await client.post("/classify", content=BLUE["content"], headers=headers)) == LATE
        engine.steps.release()


async def test_more_time_than_any_clock_counts_is_that_of_the_settings(client: Client) -> None:
    headers = {**BLUE["headers"], "D3GZSL-Timeout-Ms": "1" + 400 * "0"}
    assert (await client.post("/classify", content=BLUE["content"], headers=headers)).status_code == 200


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5"])
async def test_a_time_that_is_none_is_refused(client: Client, value: str) -> None:
    answer = await client.post(
        "/classify", content=BLUE["content"], headers={**BLUE["headers"], "D3GZSL-Timeout-Ms": value}
    )
    assert answer.status_code == 422
    assert [e["pointer"] for e in answer.json()["errors"]] == ["/header/D3GZSL-Timeout-Ms"]


async def test_a_full_queue_refuses_before_it_reads_the_body(running: Running) -> None:
    engine = HeldEngine()
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield BLUE["content"]

    async with running(engine=engine, queue_size=1, max_batch_images=1) as client:
        waiting = asyncio.create_task(client.post("/classify", **BLUE))
        await until(lambda: service_of(client).batcher.at_work_for > 0)
        refused = await client.post("/classify", content=body(), headers=BLUE["headers"])
        assert outcome(refused) == OVERLOADED
        assert read == 0
        engine.steps.release()
        assert (await waiting).status_code == 200
        assert service_of(client).batcher.admission.refused == 1


async def test_a_wait_that_is_too_long_is_refused_at_once_with_the_time_to_come_back(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, batch_size=1) as client:
        admission = service_of(client).batcher.admission
        admission.seconds_per_image = 4.0
        waiting = [asyncio.create_task(client.post("/classify", **BLUE)) for _ in range(3)]
        await until(lambda: admission.admitted == 3)
        hasty = await client.post(
            "/classify", content=BLUE["content"], headers={**BLUE["headers"], "D3GZSL-Timeout-Ms": "15000"}
        )
        assert outcome(hasty) == OVERLOADED
        assert hasty.headers["retry-after"] == "12"
        engine.steps.release(3)
        assert [(await answer).status_code for answer in waiting] == [200] * 3


async def test_a_raw_image_is_not_read_beyond_its_limit(running: Running) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 1000

    async with running(max_image_bytes=2500) as client:
        answer = await client.post("/classify", content=body(), headers=BLUE["headers"])
        assert outcome(answer) == (413, "urn:d3gzsl:problem:image-too-large")
        assert sent == 3
        announced = await client.post("/classify", content=b"x" * 2501, headers=BLUE["headers"])
        assert announced.json()["detail"] == "the image has 2501 bytes; at most 2500 are allowed"


async def test_a_large_json_body_is_read_as_a_small_one(client: Client) -> None:
    images = [{"id": str(i), "data": base64.b64encode(BLUE["content"]).decode()} for i in range(3)]
    small = await client.post("/classify", json={"images": images})
    padding = b" " * 1_000_000
    large = await client.post(
        "/classify",
        content=padding + json.dumps({"images": images}).encode(),
        headers={"content-type": "application/json"},
    )
    assert (small.status_code, large.status_code) == (200, 200)
    assert small.json()["results"] == large.json()["results"]
    broken = await client.post("/classify", content=padding + b"{", headers={"content-type": "application/json"})
    assert outcome(broken) == (400, "urn:d3gzsl:problem:malformed-body")


async def test_a_model_that_hangs_makes_the_service_unready(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, deadline=0.5) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert outcome(await client.post("/classify", **BLUE)) == LATE
        await until(lambda: service_of(client).batcher.at_work_for > 0.5)
        stuck = await client.get("/readyz")
        assert outcome(stuck) == (503, "urn:d3gzsl:problem:not-ready")
        assert "has not finished a batch" in stuck.json()["detail"]
        engine.steps.release()
        await until(lambda: service_of(client).batcher.at_work_for == 0)
        assert (await client.get("/readyz")).status_code == 200

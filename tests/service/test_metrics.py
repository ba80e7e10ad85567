"""What Prometheus reads: each number goes up by what happened and by nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.bundle import Precision
from model.head import Float32
from service.inference.engine import TrunkOutput
from tests.pages import ROOT, inline
from tests.service.conftest import Client, Running
from tests.service.processes import serving
from tests.service.tiny import Z, photo

PNG = {"content-type": "image/png"}
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def numbers(text: str) -> Numbers:
    return {
        (sample.name.removeprefix("d3gzsl_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(client: Client) -> Numbers:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return numbers(answer.text)


def value(found: Numbers, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


@pytest.mark.anyio
async def test_requests_are_counted_under_the_templates_of_their_paths(client: Client) -> None:
    for path in ("/classes/bluish", "/classes/nobody", "/classes/x%2Fy", "/nope/1", "/nope/2", "/docs/assets/none.js"):
        await client.get(path)
    await client.head("/classes/bluish")
    await client.delete("/classify")
    await client.request("BREW", "/classes/bluish")
    found = await scrape(client)
    one = {"method": "GET", "route": "/classes/{class_id}"}
    assert value(found, "requests_total", **one, status="200") == 1
    assert value(found, "requests_total", **one, status="404") >= 1
    assert value(found, "requests_total", route="/classes/{class_id}", method="HEAD", status="200") == 1
    assert value(found, "requests_total", route="/classify", method="DELETE", status="405") == 1
    assert value(found, "request_duration_seconds_count", **one) >= 2
    routes = {dict(labels)["route"] for name, labels in found if name == "requests_total"}
    assert routes == {"/classes/{class_id}", "/classify", "none", "/docs/assets/"}
    methods = {dict(labels)["method"] for name, labels in found if name == "requests_total"}
    assert methods == {"GET", "HEAD", "DELETE", "other"}
    assert value(found, "rejected_requests_total", reason="no-such-class") >= 1
    assert value(found, "rejected_requests_total", reason="method-not-allowed") == 2


@pytest.mark.anyio
async def test_images_are_counted_by_what_became_of_them(client: Client) -> None:
    files = [("images", ("a", photo(1))), ("images", ("b", photo(2))), ("images", ("c", b"no image"))]
    assert (await client.post("/classify", files=files)).status_code == 200
    assert (await client.post("/classify", content=photo(3)[:-200], headers=PNG)).status_code == 422
    found = await scrape(client)
    assert value(found, "images_total", outcome="answered") == 2
    assert value(found, "images_total", outcome="unsupported-image") == 1
    assert value(found, "images_total", outcome="unreadable-image") == 1
    for name in ("decode_seconds", "queue_wait_seconds"):
        assert value(found, f"{name}_count") == 2
    assert value(found, "batch_size_images_sum") == 2
    assert value(found, "inference_seconds_count") == value(found, "batch_size_images_count") >= 1
    assert value(found, "head_seconds_count") == 1
    assert value(found, "rejected_requests_total", reason="unreadable-image") == 1


class HeldModel:
    """Answers once it is let go."""

    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[int] = []

    def embed(self, images: Float32) -> TrunkOutput:
        assert self.free.wait(10)
        self.batches.append(len(images))
        return TrunkOutput(np.zeros((len(images), Z), dtype=np.float32), np.zeros(len(images), dtype=np.float32))

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        return np.zeros((len(noise), Z), dtype=np.float32)


async def until(client: Client, name: str, expected: float) -> Numbers:
    async with asyncio.timeout(10):
        while value(found := await scrape(client), name) != expected:
            await asyncio.sleep(0.01)
    return found


@pytest.mark.anyio
async def test_waiting_and_abandoned_images_show(running: Running) -> None:
    model = HeldModel()
    async with running(engine=model, batch_size=1) as client:

        def ask(timeout_ms: int = 30_000) -> asyncio.Task[int]:
            async def status() -> int:
                headers = {**PNG, "D3GZSL-Timeout-Ms": str(timeout_ms)}
                return (await client.post("/classify", content=photo(1), headers=headers)).status_code

            return asyncio.create_task(status())

        first = ask()
        await until(client, "admitted_images", 1)
        await until(client, "queue_depth_images", 0)
        second = ask()
        await until(client, "queue_depth_images", 1)
        hurried = ask(timeout_ms=300)
        found = await until(client, "queue_depth_images", 2)
        assert value(found, "admitted_images") == 3
        assert await hurried == 503
        model.free.set()
        assert await asyncio.gather(first, second) == [200, 200]
        found = await until(client, "dropped_images_total", 1)
    assert model.batches == [1, 1]
    assert value(found, "images_total", outcome="abandoned") == 1
    assert value(found, "rejected_requests_total", reason="deadline-exceeded") == 1
    assert (value(found, "admitted_images"), value(found, "queue_depth_images")) == (0, 0)


@pytest.mark.anyio
async def test_the_registry_and_what_runs_show(client: Client) -> None:
    before = await scrape(client)
    assert (value(before, "registry_version"), value(before, "classes", kind="unseen")) == (0, 1)
    await client.post("/classes", json={"name": "violet", "attributes": [0.9, 0, 0.9]})
    found = await scrape(client)
    assert (value(found, "registry_version"), value(found, "classes", kind="unseen")) == (1, 2)
    assert (value(found, "classes", kind="seen"), value(found, "ready")) == (2, 1)
    assert 0 <= value(found, "registry_lag_seconds") < 60
    assert 10_000_000 < value(found, "resident_memory_bytes") < 100_000_000_000
    about = (await client.get("/version")).json()
    labels = {"bundle": about["bundle"], "head": "lda", "backbone": "tiny.onnx", "provider": "cpu", "precision": "fp32"}
    assert value(found, "model_info", **labels) == 1
    assert any(name == "build_info" and ("version", about["version"]) in labels for name, labels in found)


@pytest.mark.anyio
async def test_every_metric_is_in_the_docs_and_none_besides(client: Client) -> None:
    await client.post("/classify", content=photo(1), headers=PNG)
    text = (await client.get("/metrics")).text
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    there = {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}
    there = {name for name in there if not name.endswith("_created")}
    page = (ROOT / "docs" / "running.md").read_text()
    assert {code for code in inline(page) if code.startswith("d3gzsl_")} == there


@pytest.fixture(scope="module")
def two(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(bundle_dir, tmp_path_factory.mktemp("two"), "--workers", "2", "--threads", "1") as server:
        yield server.url


@pytest.mark.slow
def test_any_of_several_processes_answers_for_all(two: str) -> None:
    import httpx

    for i in range(40):  # each on a connection of its own, so that both processes get some
        assert httpx.post(f"{two}/classify", content=photo(i), headers=PNG, timeout=60).status_code == 200
    end = time.monotonic() + 30
    while True:
        found = [numbers(httpx.get(f"{two}/metrics", timeout=60).text) for _ in range(8)]
        if all(value(f, "images_total", outcome="answered") == 40 for f in found):
            break
        assert time.monotonic() < end
    assert {value(f, "batch_size_images_sum") for f in found} == {40}
    assert {value(f, "classes", kind="seen") for f in found} == {2}
    assert {value(f, "ready") for f in found} == {1}
    assert not any(dict(labels).get("pid") for name, labels in found[0])

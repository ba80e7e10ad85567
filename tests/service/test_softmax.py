"""Softmax bundles: provisional rows at once, exact ones behind them, the same on every replica and by every history."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model import head as head_module
from model.bundle import Bundle, write_bundle
from model.errors import ConvergenceError, StoppedError
from model.head import HeadSpec, logits
from model.manifest import bundle_id
from model.softmax import SoftmaxHead, Solution, bank_rows
from model.synthesis import class_embeddings
from service.inference.engine import Engine
from service.service import Service
from service.settings import Settings
from tests.service import tiny
from tests.service.conftest import running_app

pytestmark = pytest.mark.anyio
Client = httpx.AsyncClient
VIOLET = {"id": "violet", "name": "Violet", "attributes": list(tiny.VIOLET)}
YELLOW = {"id": "yellow", "name": "Yellow", "attributes": [0.9, 0.9, 0.0]}
CYAN = {"id": "cyan", "name": "Cyan", "attributes": [0.0, 0.9, 0.9]}
REFIT = SoftmaxHead.refit


class Deaf(Engine):
    """An engine that embeds as the tiny bundle does and refuses to synthesise: a replica has no need to."""

    def embed(self, images):
        raise AssertionError("no image is embedded here")

    def synthesize(self, noise, attributes):
        raise AssertionError("a replica synthesises nothing")


@pytest.fixture(scope="module")
def softmax_dir(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a softmax head."""
    plain = Bundle.load(bundle_dir)
    manifest, out = plain.manifest, tmp_path_factory.mktemp("softmax") / "bundle"
    spec = HeadSpec(kind="softmax", dimension=tiny.Z, samples=20, noise_dimension=tiny.K, penalty=1e-3, tolerance=1e-4)
    files = manifest.files
    identity = bundle_id(files["trunk.onnx"], files["synthesizer.onnx"], manifest.vocabulary, spec)
    z = [embeddings(identity, manifest.vocabulary, spec, c.id, c.attributes) for c in manifest.classes]
    head = SoftmaxHead.fit(np.concatenate(z), np.repeat(range(len(z)), 20), penalty=1e-3)
    write_bundle(
        out,
        trunk=plain.trunk.read_bytes(),
        synthesizer=plain.synthesizer.read_bytes(),
        preprocess=manifest.preprocess,
        backbone=manifest.backbone,
        vocabulary=manifest.vocabulary,
        classes=manifest.classes,
        head_spec=spec,
        head=head,
        weight=head.weight,
        bias=head.bias,
        novelty_reference=plain.novelty_reference,
        calibration=manifest.calibration,
        metrics={},
        training={},
    )
    return out


def embeddings(identity: str, vocabulary: Any, spec: HeadSpec, class_id: str, attributes: Any) -> Any:
    return class_embeddings(
        tiny.synthesize,
        bundle_id=identity,
        class_id=class_id,
        attributes=attributes,
        vocabulary=vocabulary,
        head=spec,
    )


@pytest.fixture
def running(softmax_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(name: str = "data", **settings: Any) -> Any:
        chosen = {"bundle": softmax_dir, "data_dir": tmp_path / name, "threads": 1, **settings}
        return running_app(Settings(**chosen))

    return run


class Gate:
    """Holds every solution until it is opened; counts them, and those that were given up."""

    def __init__(self) -> None:
        self.open, self.entered, self.calls, self.given_up = threading.Event(), threading.Event(), 0, 0

    def refit(self, head: SoftmaxHead, kept: Any, added: Any, *, stop: Callable[[], bool]) -> Solution:
        self.calls += 1
        self.entered.set()
        while not self.open.wait(0.005):
            if stop():
                self.given_up += 1
                raise StoppedError("given up")
        return REFIT(head, kept, added, stop=stop)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(
        SoftmaxHead, "refit", lambda head, kept, added, *, stop: gate.refit(head, kept, added, stop=stop)
    )
    yield gate
    gate.open.set()


async def classify(client: Client, seed: int = 1) -> dict[str, Any]:
    headers = {"content-type": "image/png"}
    answer = await client.post("/classify?top_k=100", content=tiny.photo(seed), headers=headers)
    assert answer.status_code == 200
    return answer.json()


async def probabilities(client: Client) -> dict[str, list[float]]:
    """Of every class for some images, with every digit."""
    found: dict[str, list[float]] = {}
    for seed in range(5):
        body = await classify(client, seed)
        assert body["head"] == "exact"
        for p in body["results"][0]["predictions"]:
            found.setdefault(p["class_id"], []).append(p["probability"])
    return found


async def exact(client: Client) -> None:
    async with asyncio.timeout(20):
        while (await classify(client))["head"] != "exact":
            await asyncio.sleep(0.01)


def expected(softmax_dir: Path, kept: list[int], documents: list[dict[str, Any]]) -> Solution:
    """What a fresh solve of the bundle and the described classes gives."""
    bundle = Bundle.load(softmax_dir)
    manifest = bundle.manifest
    added = {
        d["id"]: bank_rows(embeddings(manifest.bundle_id, manifest.vocabulary, manifest.head, d["id"], d["attributes"]))
        for d in documents
    }
    assert isinstance(bundle.head, SoftmaxHead)
    return REFIT(bundle.head, kept, added)


async def test_the_bundle_alone_is_exact_from_the_start(running: Callable[..., Any], gate: Gate) -> None:
    async with running() as client:
        assert (await classify(client))["head"] == "exact"
    assert gate.calls == 0


async def test_a_class_is_recognised_at_once_and_exactly_a_little_later(
    running: Callable[..., Any], gate: Gate, softmax_dir: Path
) -> None:
    async with running() as client:
        answer = await client.post("/classes", json=VIOLET)
        assert (answer.status_code, answer.json()["head"]) == (201, "provisional")
        violet = {"content": tiny.png((230, 0, 230)), "headers": {"content-type": "image/png"}}
        body = (await client.post("/classify", **violet)).json()
        assert (body["head"], body["registry_version"]) == ("provisional", 1)
        assert body["results"][0]["predictions"][0]["class_id"] == "violet"
        gate.open.set()
        await exact(client)
        body = (await client.post("/classify", **violet)).json()
        assert (body["head"], body["registry_version"]) == ("exact", 1)
        assert body["results"][0]["predictions"][0]["class_id"] == "violet"


async def test_exact_rows_are_those_of_a_fresh_solve(softmax_dir: Path, tmp_path: Path) -> None:
    service = Service.open(Settings(bundle=softmax_dir, data_dir=tmp_path, threads=1))
    async with asyncio.timeout(20):
        await service.start()
        try:
            for document in (YELLOW, VIOLET):
                entry = service.bundle.manifest.classes[2]
                made = {**entry.to_json(), **document}
                await asyncio.to_thread(service.registrar.create, type(entry).from_json(made))
            await asyncio.to_thread(service.registrar.remove, "bluish")
            snapshot = await service.wait_for_exact(3, deadline=10)
        finally:
            await service.stop()
    assert snapshot.exact
    fresh = expected(softmax_dir, [0, 1], [VIOLET, YELLOW])
    for i, class_id in enumerate(["reddish", "greenish", "violet", "yellow"]):
        row = snapshot.row(class_id)
        assert (row.weight.tobytes(), row.bias) == (fresh.weight[i].tobytes(), float(fresh.bias[i]))
    z = np.random.default_rng(0).normal(size=(3, tiny.Z)).astype(np.float32)
    ours = dict(zip([k.entry.id for k in snapshot.classes], snapshot.logits(z, snapshot.rows).T, strict=True))
    np.testing.assert_allclose(ours["yellow"], logits(z, fresh.weight, fresh.bias)[:, 3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("method", "path", "body"), [
    ("POST", "/classes", VIOLET),
    ("PUT", "/classes/violet", VIOLET),
    ("POST", "/classes:batch", {"classes": [VIOLET, YELLOW]}),
])  # fmt: skip
async def test_wait_exact_answers_when_the_rows_are_there(
    running: Callable[..., Any], gate: Gate, method: str, path: str, body: dict[str, Any]
) -> None:
    async with running() as client:
        request = asyncio.ensure_future(client.request(method, f"{path}?wait=exact", json=body))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        await asyncio.sleep(0.05)
        assert not request.done()
        assert (await classify(client))["registry_version"] == 1  # it is stored and answered from meanwhile
        gate.open.set()
        answer = await request
        assert answer.status_code in (200, 201)
        assert answer.json()["head"] == "exact"
        assert (await classify(client))["head"] == "exact"


async def test_at_the_deadline_the_answer_says_provisional(running: Callable[..., Any], gate: Gate) -> None:
    async with running(deadline=0.2) as client:
        answer = await client.post("/classes?wait=exact", json=VIOLET)
        assert (answer.status_code, answer.json()["head"]) == (201, "provisional")
        assert (await client.get("/classes/violet")).status_code == 200


async def test_any_history_gives_the_same_probabilities(running: Callable[..., Any]) -> None:
    async with running("one") as one, running("two") as two:
        bundled = await probabilities(one)
        for document in (VIOLET, YELLOW, CYAN):
            assert (await one.post("/classes?wait=exact", json=document)).json()["head"] == "exact"
        assert (await one.delete("/classes/yellow")).status_code == 204
        await exact(one)
        await two.post("/classes:batch", json={"classes": [CYAN, YELLOW]})
        await two.delete("/classes/yellow")
        await two.put("/classes/violet?wait=exact", json=VIOLET)
        await exact(two)
        first, second = await probabilities(one), await probabilities(two)
        assert first == second
        assert set(first) == {*bundled, "violet", "cyan"}
        for class_id in ("violet", "cyan"):
            await one.delete(f"/classes/{class_id}")
        await exact(one)
        assert await probabilities(one) == bundled


async def test_a_storm_of_changes_ends_with_the_exact_rows(running: Callable[..., Any], softmax_dir: Path) -> None:
    random = np.random.default_rng(3)
    there: dict[str, dict[str, Any]] = {}
    async with running() as client:
        for step in range(40):
            name = f"c{random.integers(6)}"
            if name in there:
                assert (await client.delete(f"/classes/{name}")).status_code == 204
                del there[name]
            else:
                there[name] = {"id": name, "name": name, "attributes": random.uniform(0, 1, 3).round(3).tolist()}
                assert (await client.post("/classes", json=there[name])).status_code == 201
            if step % 7 == 0:
                await exact(client)
        await exact(client)
        found = await probabilities(client)
    async with running("fresh") as client:
        assert (await client.post("/classes:batch?wait=exact", json={"classes": [*there.values()]})).status_code == 200
        assert await probabilities(client) == found
    assert len(found) == 3 + len(there)


async def test_a_restart_and_a_rollback_give_the_same_probabilities(running: Callable[..., Any]) -> None:
    async with running() as client:
        await client.post("/classes?wait=exact", json=VIOLET)
        before = await probabilities(client)
        await client.delete("/classes/bluish")
        await client.put("/classes/violet?wait=exact", json={**VIOLET, "attributes": [0.5, 0.0, 0.9]})
        assert await probabilities(client) != before
        assert (await client.post("/registry:rollback", json={"version": 1})).status_code == 200
        await exact(client)
        assert await probabilities(client) == before
    async with running() as client:
        await exact(client)
        assert await probabilities(client) == before


async def test_a_replica_solves_the_stored_numbers(softmax_dir: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=softmax_dir, data_dir=tmp_path, threads=1)
    async with running_app(settings) as client:
        await client.post("/classes:batch?wait=exact", json={"classes": [VIOLET, YELLOW]})
        replica = Service.open(settings, engine=Deaf())
        await replica.start()
        try:
            found = await replica.wait_for_exact(1, deadline=10)
        finally:
            await replica.stop()
    assert found.exact
    fresh = expected(softmax_dir, [0, 1, 2], [VIOLET, YELLOW])
    assert found.row("yellow").weight.tobytes() == fresh.weight[4].tobytes()


async def test_a_solution_that_was_overtaken_is_given_up(running: Callable[..., Any], gate: Gate) -> None:
    async with running() as client:
        await client.post("/classes", json=VIOLET)
        assert await asyncio.to_thread(gate.entered.wait, 10)
        await client.post("/classes", json=YELLOW)
        async with asyncio.timeout(10):
            while gate.given_up == 0:
                await asyncio.sleep(0.005)
        gate.open.set()
        await exact(client)
        assert (await classify(client))["registry_version"] == 2
        assert (gate.calls, gate.given_up) == (2, 1)


async def test_words_alone_need_no_new_solution(running: Callable[..., Any], gate: Gate) -> None:
    gate.open.set()
    async with running() as client:
        await client.post("/classes?wait=exact", json=VIOLET)
        await client.patch("/classes/violet", json={"name": "Deep Violet"})
        body = await classify(client)
        assert (body["head"], body["registry_version"]) == ("exact", 2)
        assert "Deep Violet" in {p["name"] for p in body["results"][0]["predictions"]}
    assert gate.calls == 1


async def test_a_solution_that_fails_leaves_the_answers_provisional_until_the_next_change(
    running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(head: SoftmaxHead, kept: Any, added: Any, *, stop: Any) -> Solution:
        if len(added) == 1:
            raise ConvergenceError("the tolerance is not reached")
        return REFIT(head, kept, added, stop=stop)

    monkeypatch.setattr(SoftmaxHead, "refit", fail)
    async with running(deadline=0.5) as client:
        assert (await client.post("/classes?wait=exact", json=VIOLET)).json()["head"] == "provisional"
        assert "version 1 of the class table stays provisional: the tolerance is not reached" in caplog.text
        assert (await client.post("/classes?wait=exact", json=YELLOW)).json()["head"] == "exact"


async def test_more_classes_than_the_head_takes_are_refused_and_not_stored(
    running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "MAX_SOFTMAX_CLASSES", 4)
    async with running() as client:
        assert (await client.post("/classes", json=VIOLET)).status_code == 201
        for path, body in (
            ("/classes", YELLOW),
            ("/classes:batch", {"classes": [YELLOW, CYAN]}),
            ("/classes:preview", YELLOW),
        ):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (409, "urn:d3gzsl:problem:too-many-classes")
            assert "expected at most 4 classes in all" in answer.json()["errors"][0]["detail"]
        assert (await client.get("/classes/yellow")).status_code == 404
        assert (await client.put("/classes/violet", json={**VIOLET, "attributes": [0.5, 0, 0.5]})).status_code == 200


async def test_embeddings_beyond_float16_are_refused_by_class(running: Callable[..., Any]) -> None:
    far = {**CYAN, "attributes": [1e5, 0.0, 0.0]}
    async with running() as client:
        answer = await client.post("/classes", json=far)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:d3gzsl:problem:invalid-attributes")
        answer = await client.post("/classes:preview", json=far)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:d3gzsl:problem:invalid-attributes")
        answer = await client.post("/classes:batch", json={"classes": [VIOLET, far]})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:d3gzsl:problem:invalid-batch")
        assert answer.json()["errors"][0]["pointer"].startswith("/classes/1")
        assert (await client.get("/classes/violet")).status_code == 404


async def test_only_exact_can_be_waited_for(running: Callable[..., Any]) -> None:
    async with running() as client:
        for query in ("wait=soon", "weight=exact"):
            answer = await client.post(f"/classes?{query}", json=VIOLET)
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"].startswith("/query/w")
        assert (await client.get("/classes/violet")).status_code == 404

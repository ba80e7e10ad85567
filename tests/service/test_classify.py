"""POST /classify through the real app, ONNX Runtime included."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle, Precision
from model.calibration import novelty
from model.head import Float32, logits
from model.preprocess import preprocess
from service.classes import ranking
from service.classes.snapshot import Snapshot
from service.inference.engine import OnnxEngine, TrunkOutput
from tests.service.conftest import Client, Running
from tests.service.tiny import photo, png

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}
RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
TRUNCATED = photo(1, side=64)[:3000]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def classify(client: Client, data: bytes, **query: Any) -> dict[str, Any]:
    answer = await client.post("/classify", content=data, headers=PNG, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def probabilities(result: dict[str, Any]) -> dict[str, float]:
    return {p["class_id"]: p["probability"] for p in result["predictions"]}


async def test_the_answer_is_that_of_the_formulas(client: Client, bundle_dir: Path) -> None:
    bundle = Bundle.load(bundle_dir)
    data = photo(3)
    embedded = OnnxEngine(bundle, threads=1).embed(preprocess(data, bundle.manifest.preprocess)[None])
    scores = logits(embedded.embedding, bundle.weight, bundle.bias)[0].astype(float) - 0.1 * np.array([1, 1, 0])
    expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()

    answer = (await client.post("/classify", content=data, headers=PNG)).json()

    assert set(answer) == {"bundle", "precision", "registry_version", "head", "results", "timing_ms"}
    assert (answer["bundle"], answer["registry_version"], answer["head"]) == (bundle.manifest.bundle_id, 0, "exact")
    assert set(answer["timing_ms"]) == {"decode", "queue", "inference"}
    assert all(value >= 0 for value in answer["timing_ms"].values())
    (result,) = answer["results"]
    assert (result["id"], result["width"], result["height"]) == ("0", 24, 24)
    assert result["novelty"] == pytest.approx(novelty(embedded.teacher_score, bundle.novelty_reference)[0])
    names = [entry.id for entry in bundle.manifest.classes]
    order = np.argsort(-expected)
    assert [p["class_id"] for p in result["predictions"]] == [names[i] for i in order]
    assert [p["probability"] for p in result["predictions"]] == pytest.approx(expected[order].tolist(), rel=1e-4)
    kinds = {"reddish": "seen", "greenish": "seen", "bluish": "unseen"}
    assert {p["class_id"]: p["kind"] for p in result["predictions"]} == kinds
    assert {p["name"] for p in result["predictions"]} == {"Reddish", "Greenish", "Bluish"}


async def test_the_three_forms_of_the_body_give_the_same_answer(client: Client) -> None:
    raw = (await client.post("/classify", content=RED, headers={"content-type": "image/*"})).json()
    form = (await client.post("/classify", files={"images": ("a.png", RED)})).json()
    document = (await client.post("/classify", json={"images": [{"id": "a.png", "data": b64(RED)}]})).json()

    assert [r["id"] for r in form["results"] + document["results"]] == ["a.png", "a.png"]
    assert form["results"] == document["results"]
    assert {**form["results"][0], "id": "0"} == raw["results"][0]
    assert raw["results"][0]["predictions"][0]["class_id"] == "reddish"


async def test_several_images_come_back_in_order(client: Client) -> None:
    form = [("images", ("a", RED)), ("images", ("b", BLUE)), ("images", ("a", RED))]
    results = (await client.post("/classify", files=form)).json()["results"]
    assert [(r["id"], r["predictions"][0]["class_id"]) for r in results] == [
        ("a", "reddish"),
        ("b", "bluish"),
        ("a", "reddish"),
    ]
    document = {"images": [{"data": b64(BLUE)}, {"data": b64(RED)}]}
    results = (await client.post("/classify", json=document)).json()["results"]
    assert [(r["id"], r["predictions"][0]["class_id"]) for r in results] == [("0", "bluish"), ("1", "reddish")]


async def test_an_image_gets_the_same_answer_alone_and_among_others(client: Client) -> None:
    photos = [photo(seed, side=20 + seed) for seed in range(32)]
    together = (await client.post("/classify", files=[("images", (str(i), p)) for i, p in enumerate(photos)])).json()
    for data, result in zip(photos, together["results"], strict=True):
        assert probabilities(result) == pytest.approx(probabilities(await classify(client, data)), abs=1e-4)


async def test_requests_whose_images_are_scored_together_get_their_own_answers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [photo(i) for i in range(6)]
    alone = [await classify(client, data) for data in sent]
    monkeypatch.setattr(ranking, "_MUCH", 0)  # as if there were a thousand classes
    together: list[int] = []
    scored = Snapshot.logits

    def logits(snapshot: Snapshot, z_NZ: Float32, rows: NDArray[np.intp]) -> Float32:
        together.append(len(z_NZ))
        return scored(snapshot, z_NZ, rows)

    monkeypatch.setattr(Snapshot, "logits", logits)
    *at_once, seen = await asyncio.gather(
        *(classify(client, data) for data in sent), classify(client, sent[0], scope="seen")
    )
    assert sum(together) == len(sent) + 1
    for got, own in zip(at_once, alone, strict=True):
        assert probabilities(got) == pytest.approx(probabilities(own), abs=1e-4)
    assert probabilities(seen) == pytest.approx(probabilities(await classify(client, sent[0], scope="seen")), abs=1e-4)


async def test_scope_and_classes_renormalise(client: Client) -> None:
    data = photo(4)
    full = probabilities(await classify(client, data))
    for query, ids in (
        ({"scope": "seen"}, {"reddish", "greenish"}),
        ({"scope": "unseen"}, {"bluish"}),
        ({"classes": "bluish,greenish"}, {"bluish", "greenish"}),
        ({"classes": ["bluish", "greenish"]}, {"bluish", "greenish"}),
        ({"classes": "bluish,greenish", "scope": "seen"}, {"greenish"}),
        ({"scope": "all"}, set(full)),
    ):
        some = probabilities(await classify(client, data, **query))
        total = sum(full[class_id] for class_id in ids)
        assert some == pytest.approx({class_id: full[class_id] / total for class_id in ids})


async def test_top_k_cuts_the_list_but_not_the_probabilities(client: Client) -> None:
    data = photo(4)
    full, first = await classify(client, data), await classify(client, data, top_k=1)
    assert first["predictions"] == full["predictions"][:1]
    assert len((await classify(client, data, top_k=1000))["predictions"]) == 3


async def test_the_seen_penalty_can_be_chosen(client: Client) -> None:
    data = photo(4)
    plain, punished = [probabilities(await classify(client, data, seen_penalty=s)) for s in (0.0, 2.0)]
    odds = [p["reddish"] / p["bluish"] for p in (plain, punished)]
    assert np.log(odds[0] / odds[1]) == pytest.approx(2.0)
    default = probabilities(await classify(client, data))
    assert default == pytest.approx(probabilities(await classify(client, data, seen_penalty=0.1)))


@pytest.mark.parametrize(
    ("data", "status", "name"),
    [
        (b"no image", 415, "unsupported-image"),
        (b"", 415, "unsupported-image"),
        (TRUNCATED, 422, "unreadable-image"),
        (png((1, 2, 3), (101, 100)), 413, "image-too-large"),
        (photo(0, side=80), 413, "image-too-large"),  # more bytes than allowed
    ],
)
async def test_an_image_that_cannot_be_read(running: Running, data: bytes, status: int, name: str) -> None:
    async with running(max_image_pixels=10_000, max_image_bytes=10_000) as client:
        alone = await client.post("/classify", content=data, headers=PNG)
        assert (alone.status_code, alone.json()["type"]) == (status, f"urn:d3gzsl:problem:{name}")

        files = [("images", ("good", RED)), ("images", ("bad", data)), ("images", ("also good", BLUE))]
        answer = await client.post("/classify", files=files)
        assert answer.status_code == 200
        good, bad, also = answer.json()["results"]
        assert set(bad) == {"id", "error"}
        expected = {k: alone.json()[k] for k in ("type", "title", "status", "detail")}
        assert bad == {"id": "bad", "error": expected}
        assert [r["predictions"][0]["class_id"] for r in (good, also)] == ["reddish", "bluish"]


async def test_base64_that_cannot_be_read(client: Client) -> None:
    alone = await client.post("/classify", json={"images": [{"data": "@@@@"}]})
    assert (alone.status_code, alone.json()["errors"][0]["pointer"]) == (400, "/images/0/data")
    answer = await client.post("/classify", json={"images": [{"data": b64(RED)}, {"id": "x", "data": "a"}]})
    good, bad = answer.json()["results"]
    assert (bad["id"], bad["error"]["status"]) == ("x", 400)
    assert good["predictions"][0]["class_id"] == "reddish"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"top_k": "0"}, "/query/top_k"),
        ({"top_k": "1001"}, "/query/top_k"),
        ({"top_k": "many"}, "/query/top_k"),
        ({"scope": "some"}, "/query/scope"),
        ({"seen_penalty": "nan"}, "/query/seen_penalty"),
        ({"seen_penalty": "inf"}, "/query/seen_penalty"),
        ({"seen_penalty": "1e9"}, "/query/seen_penalty"),
        ({"classes": "reddish,nobody"}, "/query/classes/1"),
        ({"classes": "reddish", "scope": "unseen"}, "/query/scope"),
        ({"topk": "1"}, "/query/topk"),
    ],
)
async def test_wrong_parameters_are_named(client: Client, query: dict[str, str], pointer: str) -> None:
    answer = await client.post("/classify", content=RED, headers=PNG, params=query)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ([], ""),
        ({}, "/images"),
        ({"images": []}, "/images"),
        ({"images": [{}]}, "/images/0/data"),
        ({"images": [{"data": 3}]}, "/images/0/data"),
        ({"images": [{"data": "", "id": 3}]}, "/images/0/id"),
        ({"images": [{"data": "", "url": "http://localhost"}]}, "/images/0/url"),
        ({"images": [{"data": ""}], "top/k": 3}, "/top~1k"),
    ],
)
async def test_wrong_documents_are_named(client: Client, document: object, pointer: str) -> None:
    answer = await client.post("/classify", json=document)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_wrong_forms_are_named(client: Client) -> None:
    wrong = await client.post("/classify", files={"image": ("a", RED)})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/image")
    text = await client.post("/classify", files={"images": (None, b"text")})
    assert (text.status_code, text.json()["errors"][0]["pointer"]) == (422, "/images")
    broken = await client.post("/classify", content=b"x", headers={"content-type": "multipart/form-data"})
    assert (broken.status_code, broken.json()["type"]) == (400, "urn:d3gzsl:problem:malformed-body")


@pytest.mark.parametrize(
    ("charset", "status"),
    [("utf-8", 200), ('"UTF-8"', 200), ("utf-7", 415), ("unicode_escape", 415), ("undefined", 415), ("none-such", 415)],
)
async def test_forms_are_in_utf_8(client: Client, charset: str, status: int) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="+2AA-\\ud800.png"\r\n\r\n'
    body = part + RED + b"\r\n--x--\r\n"
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    answer = await client.post("/classify", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    if status == 415:
        assert charset in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/pdf"])
async def test_other_bodies_are_not_taken(client: Client, kind: str) -> None:
    answer = await client.post("/classify", content=RED, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:d3gzsl:problem:unsupported-media-type")


async def test_requests_beyond_the_limits(running: Running) -> None:
    async with running(max_batch_images=2, max_request_bytes=2000) as client:
        many = await client.post("/classify", files=[("images", ("a", RED))] * 3)
        assert (many.status_code, many.json()["type"]) == (413, "urn:d3gzsl:problem:request-too-large")
        announced = await client.post("/classify", content=b"x" * 2001, headers=PNG)
        assert (announced.status_code, announced.json()["type"]) == (413, "urn:d3gzsl:problem:request-too-large")

        async def chunks():
            for _ in range(5):
                yield b"x" * 500

        counted = await client.post("/classify", content=chunks(), headers=PNG)
        assert (counted.status_code, counted.json()["type"]) == (413, "urn:d3gzsl:problem:request-too-large")
        form = await client.post("/classify", files={"images": ("a", b"x" * 3000)})
        assert form.status_code == 413


class HeldEngine:
    """Embeds everything as zeros, but only while it is let."""

    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.free = threading.Event()
        self.calls = 0

    def embed(self, images: Float32) -> TrunkOutput:
        self.calls += 1
        assert self.free.wait(10)
        if (images[:, 0] == 1).all(axis=(1, 2)).any():
            raise RuntimeError("a red image")
        return TrunkOutput(np.zeros((len(images), 4), np.float32), np.zeros(len(images), np.float32))

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        raise AssertionError("no class is registered here")


async def test_a_full_queue_answers_503_with_retry_after(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, queue_size=2, max_batch_images=2) as client:
        waiting = asyncio.create_task(client.post("/classify", files=[("images", ("a", BLUE))] * 2))
        while engine.calls == 0:
            await asyncio.sleep(0.001)
        refused = await client.post("/classify", content=BLUE, headers=PNG)
        engine.free.set()
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:d3gzsl:problem:overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await waiting).status_code == 200
        assert (await client.post("/classify", content=BLUE, headers=PNG)).status_code == 200


async def test_the_deadline_answers_503(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, deadline=0.05) as client:
        late = await client.post("/classify", content=BLUE, headers=PNG)
        engine.free.set()
        assert (late.status_code, late.json()["type"]) == (503, "urn:d3gzsl:problem:deadline-exceeded")
        assert "retry-after" in late.headers


async def test_a_model_that_fails_on_one_image_answers_the_others(running: Running) -> None:
    engine = HeldEngine()
    engine.free.set()
    async with running(engine=engine) as client:
        answer = await client.post("/classify", files=[("images", ("a", RED)), ("images", ("b", BLUE))])
        bad, good = answer.json()["results"]
        assert (bad["error"]["status"], bad["error"]["type"]) == (500, "urn:d3gzsl:problem:inference-failed")
        assert good["id"] == "b"
        assert (await client.get("/readyz")).status_code == 200


async def test_a_client_that_goes_away_frees_its_places(running: Running) -> None:
    engine = HeldEngine()
    async with running(engine=engine, queue_size=1, max_batch_images=1) as client:
        gone = asyncio.Event()
        body = iter([{"type": "http.request", "body": BLUE, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in body:
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: object) -> None: ...

        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/classify",
            "raw_path": b"/classify",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"image/png")],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        abandoned = asyncio.create_task(transport.app(scope, receive, send))
        while engine.calls == 0:
            await asyncio.sleep(0.001)
        assert (await client.post("/classify", content=BLUE, headers=PNG)).status_code == 503
        gone.set()
        async with asyncio.timeout(5):  # while the model is still held
            await abandoned
        engine.free.set()
        assert (await client.post("/classify", content=BLUE, headers=PNG)).status_code == 200

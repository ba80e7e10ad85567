"""Many classes in one request: one version, all or none."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from model.bundle import Precision
from tests.service import tiny
from tests.service.conftest import Client, Running
from tests.service.test_classes import DOCUMENT, IMAGE, best, problem

pytestmark = pytest.mark.anyio

GREY = {"name": "Grey", "attributes": {"red": 0.5, "green": 0.5}}
NEW = {"name": "New", "attributes": [0.9, 0.01, 0.9]}


async def send(client: Client, *classes: object, **fields: Any) -> Any:
    return await client.post("/classes:batch", json={"classes": classes, **fields})


async def version(client: Client) -> int:
    found: int = (await client.get("/registry")).json()["registry_version"]
    return found


async def test_a_batch_is_one_version(client: Client) -> None:
    answer = await send(client, DOCUMENT, {**GREY, "id": "g", "attributes": {"red": 1.5, "green": 0.5}})
    assert answer.status_code == 200
    assert answer.headers["registry-version"] == "1"
    body = answer.json()
    assert body["registry_version"] == await version(client) == 1
    tags = [(await client.get(f"/classes/{class_id}")).headers["etag"] for class_id in ("deep-violet", "g")]
    same = {
        "status": "created",
        "registry_version": 1,
        "examples": 0,
        "like": None,
        "near_duplicates": [],
        "warnings": [],
    }
    assert body["classes"] == [
        {"id": "deep-violet", "etag": tags[0], "filled": [], "out_of_range": [], **same},
        {"id": "g", "etag": tags[1], "filled": ["blue"], "out_of_range": ["red"], **same},
    ]
    assert await best(client) == ("deep-violet", 1)
    (record,) = (await client.get("/registry/versions")).json()["versions"]
    assert (record["operation"], record["changes"], record["class_ids"]) == ("batch", 2, ["deep-violet", "g"])


async def test_a_class_has_the_same_row_from_a_batch_as_alone(running: Running) -> None:
    """Bit for bit, wherever it stands in the batch and however many chunks that takes."""
    many = [{"name": f"c{i}", "attributes": [i / 300, 1 - i / 300, 0.3]} for i in range(300)]
    async with running() as client:
        assert (await send(client, *many, DOCUMENT)).json()["registry_version"] == 1
        query = {"classes": "deep-violet,c7,c299,bluish"}
        together = (await client.post("/classify", params=query, **IMAGE)).json()["results"]
        await client.post("/registry:rollback", json={"version": 0})
        for document in (many[7], many[299], DOCUMENT):
            assert (await client.post("/classes", json=document)).status_code == 201
        alone = (await client.post("/classify", params=query, **IMAGE)).json()["results"]
    assert together == alone


async def test_upsert_creates_replaces_and_leaves(client: Client) -> None:
    await client.put("/classes/deep-violet", json=DOCUMENT)
    await client.put("/classes/grey", json=GREY)
    answer = await send(client, DOCUMENT, {**GREY, "attributes": [0.4, 0.4, 0.4]}, NEW, mode="upsert")
    found = [(c["id"], c["status"], c["registry_version"]) for c in answer.json()["classes"]]
    assert found == [("deep-violet", "unchanged", 1), ("grey", "replaced", 3), ("new", "created", 3)]
    again = await send(client, DOCUMENT, NEW, mode="upsert")
    assert {c["status"] for c in again.json()["classes"]} == {"unchanged"}
    assert await version(client) == again.json()["registry_version"] == 3


async def test_near_duplicates_within_a_batch_are_named(client: Client) -> None:
    body = (await send(client, DOCUMENT, NEW, GREY)).json()
    named = [[n["class_id"] for n in c["near_duplicates"]] for c in body["classes"]]
    assert named == [["new"], ["deep-violet"], []]


async def test_one_bad_class_and_nothing_is_stored(client: Client) -> None:
    answer = await send(
        client,
        DOCUMENT,
        {"name": "x" * 201, "attributes": [0, 0, 1]},
        {"name": "a", "attributes": [0, 0, "1"], "metadata": {"x": "y" * 20_000}},
        {"name": "b", "attributes": {"rde": 1, "blue": 1}},
        {"name": "c", "attributes": [1, 2]},
        {"name": "d", "id": "Not A Slug", "attributes": [0, 0, 1]},
        {**GREY, "id": "deep-violet"},
        "no class",
    )
    assert problem(answer) == (422, "invalid-batch")
    assert [e["pointer"] for e in answer.json()["errors"]] == [
        "/classes/1/name",
        "/classes/2/metadata",
        "/classes/2/attributes/2",
        "/classes/3/attributes/rde",
        "/classes/4/attributes",
        "/classes/5/id",
        "/classes/6/id",
        "/classes/7",
    ]
    assert "7 of 8" in answer.json()["detail"]
    assert await version(client) == 0
    assert (await client.get("/classes/deep-violet")).status_code == 404


async def test_classes_that_are_in_the_way_are_named(client: Client) -> None:
    await client.post("/classes", json=DOCUMENT)
    answer = await send(client, GREY, DOCUMENT, {"name": "Bluish", "attributes": [0, 0, 1]})
    assert problem(answer) == (409, "batch-conflict")
    assert [e["pointer"] for e in answer.json()["errors"]] == ["/classes/1", "/classes/2"]
    answer = await send(client, GREY, {"name": "Reddish", "attributes": [0, 0, 1]}, DOCUMENT, mode="upsert")
    assert problem(answer) == (409, "batch-conflict")
    assert [e["pointer"] for e in answer.json()["errors"]] == ["/classes/1"]
    assert await version(client) == 1


class Exploding:
    """A synthesizer that gives no number for a class with too much red."""

    precision: Precision = "fp32"

    def embed(self, images):
        raise AssertionError("no image is embedded here")

    def synthesize(self, noise, attributes):
        made = tiny.synthesize(noise, attributes)
        made[attributes[:, 0] > 0.95] = float("nan")
        return made


async def test_classes_of_which_none_can_be_made_are_named(running: Running) -> None:
    async with running(engine=Exploding()) as client:
        answer = await send(client, DOCUMENT, {"name": "red", "attributes": [1, 0, 0]}, GREY)
        assert problem(answer) == (422, "invalid-batch")
        assert [e["pointer"] for e in answer.json()["errors"]] == ["/classes/1/attributes"]
        assert await version(client) == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/classes"),
        ({"classes": []}, "/classes"),
        ({"classes": {}}, "/classes"),
        ({"classes": [DOCUMENT], "mode": "replace"}, "/mode"),
        ({"classes": [DOCUMENT], "more": 1}, "/more"),
        ([DOCUMENT], ""),
    ],
)
async def test_what_is_no_batch_is_refused(client: Client, body: object, pointer: str) -> None:
    answer = await client.post("/classes:batch", json=body)
    assert problem(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_too_many_classes_are_refused(running: Running) -> None:
    async with running(max_batch_classes=2) as client:
        assert problem(await send(client, *[DOCUMENT] * 3)) == (413, "batch-too-large")
        assert (await send(client, DOCUMENT, GREY)).status_code == 200


async def test_numbers_that_are_not_finite_have_their_place(client: Client) -> None:
    body = json.dumps({"classes": [DOCUMENT, {"name": "x", "attributes": [0, float("nan"), 1]}]}).encode()
    answer = await client.post("/classes:batch", content=body, headers={"content-type": "application/json"})
    assert problem(answer) == (400, "number-not-finite")
    assert answer.json()["errors"][0]["pointer"] == "/classes/1/attributes/1"


async def test_only_json_is_taken(client: Client) -> None:
    answer = await client.post("/classes:batch", content=b"{}", headers={"content-type": "text/plain"})
    assert problem(answer) == (415, "unsupported-media-type")


async def test_an_answer_names_a_thousand_problems_at_most(running: Running) -> None:
    async with running(max_batch_classes=2000) as client:
        answer = await send(client, *[{"name": "", "attributes": [0, 0, 1]}] * 1200)
    assert len(answer.json()["errors"]) == 1001
    assert answer.json()["errors"][-1]["detail"] == "and 200 more"


class HeldSynthesizer:
    """Makes the rows of classes only once it may."""

    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()

    def embed(self, images: Any) -> Any:
        raise AssertionError("there are no images here")

    def synthesize(self, noise: Any, attributes: Any) -> Any:
        self.begun.set()
        assert self.may.wait(20)
        return tiny.synthesize(noise, attributes)


async def test_a_batch_whose_client_has_gone_is_not_stored(running: Running) -> None:
    engine = HeldSynthesizer()
    many = [{"name": f"c{i}", "attributes": [i / 300, 1 - i / 300, 0.3]} for i in range(300)]
    body = json.dumps({"classes": many}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.to_thread(engine.begun.wait, 20)
        return {"type": "http.disconnect"}

    async def send_none(message: Any) -> None:
        sent.append(message)

    async with running(engine=engine) as client:
        app = client._transport.app  # type: ignore[attr-defined]
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/classes:batch", "raw_path": b"/classes:batch"}
        await app({**scope, "query_string": b"", "headers": headers, "root_path": ""}, receive, send_none)
        assert sent[0]["status"] == 503
        engine.may.set()
        assert (await client.post("/classes", json=NEW)).status_code == 201  # behind what was left of the batch
        assert await version(client) == 1
        assert (await client.get("/classes/c0")).status_code == 404

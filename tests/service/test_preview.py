"""A class tried out: what it is near to, what it would win and take, and that nothing is stored."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.synthesis import class_embeddings
from service.keys import digest
from tests.service import tiny
from tests.service.conftest import Client, Running
from tests.service.test_classes import DOCUMENT, IMAGE, problem
from tests.service.test_overload import service_of
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

PINK = (240, 40, 230)


async def preview(client: Client, document: object, **query: Any) -> Any:
    return await client.post("/classes:preview", params=query, json=document)


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


class World:
    """Classes with their rows and embeddings, in plain NumPy."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.rows = {e.id: (w, b) for e, w, b in zip(bundle.manifest.classes, bundle.weight, bundle.bias, strict=True)}
        self.seen = {e.id for e in bundle.manifest.classes if e.kind == "seen"}

    def embeddings(self, class_id: str, attributes: Any) -> np.ndarray:
        manifest = self.bundle.manifest
        return class_embeddings(
            tiny.synthesize,
            bundle_id=manifest.bundle_id,
            class_id=class_id,
            attributes=attributes,
            vocabulary=manifest.vocabulary,
            head=manifest.head,
        )

    def add(self, class_id: str, attributes: Any) -> None:
        row = self.bundle.head.row(self.embeddings(class_id, attributes))
        self.rows[class_id] = (row.weight, row.bias)

    def winner(self, z: np.ndarray) -> str:
        penalty = self.bundle.manifest.calibration.seen_penalty
        temperature = self.bundle.manifest.calibration.temperature
        scores = {i: (w @ z + b) / temperature - penalty * (i in self.seen) for i, (w, b) in self.rows.items()}
        return max(scores, key=lambda i: scores[i])


def shares(world: World, z_NZ: np.ndarray) -> dict[str, float]:
    winners = [world.winner(z) for z in z_NZ]
    return {i: winners.count(i) / len(winners) for i in set(winners)}


async def test_nothing_is_stored(client: Client) -> None:
    before = (await client.get("/classes")).json()
    answer = await preview(client, {**DOCUMENT, "attributes": {"red": 1.5, "blue": 0.9}})
    assert answer.status_code == 200
    assert answer.headers["registry-version"] == "0"
    body = answer.json()
    assert (body["id"], body["name"], body["exists"], body["registry_version"]) == (
        "deep-violet",
        "Deep Violet",
        False,
        0,
    )
    assert (body["filled"], body["out_of_range"], body["results"]) == (["green"], ["red"], [])
    assert body["attributes"] == [1.5, pytest.approx(1 / 3), 0.9]
    assert (await client.get("/classes")).json() == before
    assert (await client.get("/registry/versions")).json()["versions"] == []
    assert (await client.get("/registry")).json()["registry_version"] == 0


async def test_the_nearest_classes_by_attributes_and_by_row(client: Client, bundle: Bundle) -> None:
    attributes = [0.8, 0.1, 0.5]
    body = (await preview(client, {"name": "x", "attributes": attributes}, neighbours=2)).json()

    def cosine(a: Any, b: Any) -> float:
        return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))

    world = World(bundle)
    world.add("x", attributes)
    weight = world.rows["x"][0]
    expected = [
        {
            "class_id": e.id,
            "name": e.name,
            "kind": e.kind,
            "attribute_cosine": pytest.approx(cosine(attributes, e.attributes), rel=1e-4),
            "row_cosine": pytest.approx(cosine(weight, world.rows[e.id][0]), rel=1e-4),
        }
        for e in bundle.manifest.classes
    ]
    for field, key in (("nearest_by_attributes", "attribute_cosine"), ("nearest_by_row", "row_cosine")):
        assert body[field] == sorted(expected, key=lambda n: -n[key].expected)[:2]


async def test_expected_confusion_is_that_of_synthesised_embeddings(client: Client, bundle: Bundle) -> None:
    """A neighbour so near that they win some of each other's."""
    near, attributes = [0.85, 0.05, 0.9], [0.9, 0.02, 0.86]
    await client.post("/classes", json={"name": "near", "attributes": near})
    body = (await preview(client, {"name": "x", "attributes": attributes})).json()
    world = World(bundle)
    world.add("near", near)
    own = {"x": world.embeddings("x", attributes), "near": world.embeddings("near", near)}
    own["bluish"] = world.embeddings("bluish", (0.0, 0.0, 1.0))
    before = {i: shares(world, own[i]).get(i, 0.0) for i in ("near", "bluish")}
    world.add("x", attributes)

    assert body["confusion"]["samples"] == tiny.HEAD.samples
    won = {w["class_id"]: w["share"] for w in body["confusion"]["won"]}
    assert won == {"x": 0.0, **shares(world, own["x"])}
    assert 0 < won["x"] < 1
    taken = {t["class_id"]: (t["before"], t["after"], t["taken"]) for t in body["confusion"]["taken"]}
    assert set(taken) == {"near", "bluish"}
    for class_id, (was, is_, lost) in taken.items():
        now = shares(world, own[class_id])
        assert (was, is_, lost) == (before[class_id], now.get(class_id, 0.0), now.get("x", 0.0))
    assert taken["near"][2] > 0


async def test_images_are_answered_as_if_it_were_registered(client: Client) -> None:
    images = [IMAGE["content"], png(PINK), b"no image"]
    coded = [{"id": f"i{i}", "data": base64.b64encode(data).decode()} for i, data in enumerate(images)]
    body = (await preview(client, {**DOCUMENT, "images": coded}, top_k=3)).json()
    form = await client.post(
        "/classes:preview",
        params={"top_k": 3},
        data={"class": json.dumps(DOCUMENT)},
        files=[("images", (f"i{i}", data)) for i, data in enumerate(images)],
    )
    assert form.json() == body
    assert [r["id"] for r in body["results"]] == ["i0", "i1", "i2"]
    assert body["results"][2]["error"]["status"] == 415
    assert all("explanation" not in p for p in body["results"][0]["predictions"])
    assert body["results"][0]["predictions"][0]["class_id"] == "deep-violet"

    await client.post("/classes", json=DOCUMENT)
    for data, found in zip(images[:2], body["results"], strict=False):
        real = await client.post("/classify", params={"top_k": 3}, content=data, headers={"content-type": "image/png"})
        assert found["predictions"] == real.json()["results"][0]["predictions"]
        assert found["novelty"] == real.json()["results"][0]["novelty"]


async def test_a_class_that_exists_counts_as_replaced(client: Client) -> None:
    await client.post("/classes", json={**DOCUMENT, "attributes": [0.1, 0.9, 0.9]})
    coded = [{"data": base64.b64encode(IMAGE["content"]).decode()}]
    body = (await preview(client, {**DOCUMENT, "images": coded})).json()
    assert body["exists"]
    assert body["near_duplicates"] == []  # not even of itself
    ids = [p["class_id"] for p in body["results"][0]["predictions"]]
    assert ids.count("deep-violet") == 1
    assert ids[0] == "deep-violet"
    twin = (await preview(client, {**DOCUMENT, "name": "Twin", "attributes": [0.1, 0.9, 0.9]})).json()
    assert [n["class_id"] for n in twin["near_duplicates"]] == ["deep-violet"]
    assert problem(await preview(client, {**DOCUMENT, "id": "reddish"})) == (409, "seen-class")


@pytest.mark.parametrize(
    ("document", "status", "name", "pointer"),
    [
        ({"name": "x"}, 422, "invalid-request", "/attributes"),
        ({"name": "x", "attributes": [1]}, 422, "wrong-attribute-count", "/attributes"),
        ({**DOCUMENT, "images": [{"data": 1}]}, 422, "invalid-request", "/images/0/data"),
        ({**DOCUMENT, "images": {}}, 422, "invalid-request", "/images"),
        ({**DOCUMENT, "picture": ""}, 422, "invalid-request", "/picture"),
        ([], 422, "invalid-request", ""),
    ],
)
async def test_what_cannot_be_tried_out(client: Client, document: object, status: int, name: str, pointer: str) -> None:
    answer = await preview(client, document)
    assert problem(answer) == (status, name)
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_a_class_without_images_needs_no_place(running: Running) -> None:
    async with running() as client:
        admission = service_of(client).batcher.admission
        with admission.admit(1):
            admission.seconds_per_image = 1e6
            assert (await preview(client, DOCUMENT)).status_code == 200
            coded = [{"data": base64.b64encode(IMAGE["content"]).decode()}]
            assert problem(await preview(client, {**DOCUMENT, "images": coded})) == (503, "overloaded")


async def test_a_preview_can_wait_for_a_version(running: Running) -> None:
    async with running(deadline=0.2) as client:
        assert problem(await preview(client, DOCUMENT, min_registry_version=1)) == (503, "version-not-reached")
        await client.post("/classes", json={**DOCUMENT, "name": "Other"})
        assert (await preview(client, DOCUMENT, min_registry_version=1)).json()["registry_version"] == 1


async def test_forms_that_cannot_be_read(running: Running) -> None:
    async with running(max_batch_images=1) as client:
        image = ("images", ("a", IMAGE["content"]))
        text = json.dumps(DOCUMENT)
        for data, files, status in (
            ({}, [image], 422),
            ({"class": "{"}, [image], 400),
            ({"class": text, "other": "x"}, [image], 422),
            ({"class": [text, text]}, [image], 422),
            ({"class": text, "images": "x"}, [image], 422),
            ({"class": text}, [image, image], 413),
        ):
            answer = await client.post("/classes:preview", data=data, files=files)
            assert problem(answer)[0] == status, data
        plain = await client.post("/classes:preview", content=text, headers={"content-type": "text/plain"})
        assert problem(plain) == (415, "unsupported-media-type")


async def test_only_an_admin_may_try_classes_out(running: Running) -> None:
    keys = {role: f"{role}-key" for role in ("classify", "admin")}
    async with running(keys=tuple(f"{role}:{digest(key)}" for role, key in keys.items())) as client:

        async def status(**headers: str) -> int:
            answer = await client.post("/classes:preview", json=DOCUMENT, headers=headers)
            return answer.status_code

        admin = f"Bearer {keys['admin']}"
        assert await status() == 401
        assert await status(authorization=f"Bearer {keys['classify']}") == 403
        assert await status(authorization=admin, origin="http://evil.example") == 403
        assert await status(authorization=admin, host="evil.example") == 421
        assert await status(authorization=admin) == 200

"""Batches of classes with example photos: all or nothing, every fault by its place, the rows of classes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import Client, Running
from tests.service.photos import ORANGE, PHOTOS, UNDESCRIBED, in_json, rows
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

LIME = [png((90, 250, 30)), png((80, 240, 10))]


async def send(client: Client, *classes: object, mode: str = "create") -> Any:
    return await client.post("/classes:batch", json={"mode": mode, "classes": classes})


def problem(response: Any) -> tuple[int, str, list[str]]:
    body = response.json()
    return response.status_code, body["type"].rsplit(":", 1)[-1], [e["pointer"] for e in body["errors"]]


async def test_classes_of_a_batch_are_what_they_are_alone(running: Running, with_photos: Path) -> None:
    classes: list[dict[str, Any]] = [
        {**ORANGE, "examples": in_json(PHOTOS)},
        {"id": "lime", "name": "Lime", "examples": in_json([*LIME, LIME[0]])},
        {"id": "violet", "name": "Violet", "attributes": [0.9, 0, 0.9]},
    ]
    async with running(bundle=with_photos) as client:
        stored = await send(client, *classes)
        assert stored.status_code == 200, stored.text
        items = stored.json()["classes"]
        assert [(i["id"], i["status"], i["examples"]) for i in items] == [
            ("orange", "created", 4),
            ("lime", "created", 2),
            ("violet", "created", 0),
        ]
        together = await rows(client)
        again = await send(client, *classes, mode="upsert")
        assert {i["status"] for i in again.json()["classes"]} == {"unchanged"}
        assert again.json()["registry_version"] == 1
        fewer = await send(client, {**UNDESCRIBED, "examples": in_json(PHOTOS[:2])}, mode="upsert")
        assert [(i["status"], i["examples"]) for i in fewer.json()["classes"]] == [("replaced", 2)]
        assert (await client.get("/classes/orange")).json()["attributes"] is None
        for one in classes:
            await client.delete(f"/classes/{one['id']}")
            assert (await client.post("/classes", json=one)).status_code == 201
        assert await rows(client) == together


async def test_everything_wrong_is_named_by_its_place(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos, max_examples=4) as client:
        unreadable = await send(
            client,
            {**ORANGE, "examples": in_json(PHOTOS)},
            {"name": "Lime", "examples": [*in_json(LIME), {"data": "a"}, *in_json([b"no image"])]},
        )
        assert problem(unreadable) == (422, "invalid-batch", ["/classes/1/examples/2", "/classes/1/examples/3"])
        malformed = await send(
            client,
            {"name": "One", "examples": [{"data": 1}], "attributes": [1]},
            {"name": "Two", "examples": {}},
            {"name": "Three"},
            {"name": "Four", "examples": in_json([png((i, 0, 0)) for i in range(5)])},
            {"name": "Five", "examples": []},
        )
        assert problem(malformed) == (
            422,
            "invalid-batch",
            [
                "/classes/0/attributes",
                "/classes/0/examples/0/data",
                "/classes/1/examples",
                "/classes/2/attributes",
                "/classes/3/examples",
                "/classes/4/attributes",
            ],
        )
        assert (await client.get("/registry")).json()["registry_version"] == 0


async def test_photos_of_all_classes_are_limited(running: Running, with_photos: Path) -> None:
    classes = [{"name": str(i), "examples": in_json(PHOTOS[:2])} for i in range(3)]
    for settings in ({"max_batch_examples": 5}, {"queue_size": 5, "max_batch_images": 5}):
        async with running(bundle=with_photos, **settings) as client:
            refused = await send(client, *classes)
            assert problem(refused) == (413, "request-too-large", [])
            assert "6 example photos; at most 5" in refused.json()["detail"]
            assert (await send(client, *classes[:2], mode="upsert")).status_code == 200


async def test_photos_that_look_like_another_class_are_named(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        mixed = [PHOTOS[0], PHOTOS[1], png((30, 230, 20))]
        stored = await send(
            client, {**ORANGE, "examples": in_json(PHOTOS[:2])}, {"name": "Fruit", "examples": in_json(mixed)}
        )
        first, second = (i["warnings"] for i in stored.json()["classes"])
        alone = await client.put("/classes/fruit", json={"name": "Fruit", "examples": in_json(mixed)})
        assert second == [f"/classes/1{warning}" for warning in alone.json()["warnings"]]
        assert any(warning.startswith("/classes/1/examples/2 (") for warning in second)
        assert all(warning.startswith("/classes/0/examples/") for warning in first)


async def test_a_bundle_without_the_numbers_takes_none(client: Client) -> None:
    refused = await send(client, ORANGE, {**ORANGE, "id": "other", "examples": in_json(PHOTOS[:1])})
    assert problem(refused) == (422, "invalid-batch", ["/classes/1/examples"])

"""Explanations of classes with example photos: what attributes are worth beside them, and the photos themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from service.registry.arrays import read_embeddings
from tests.service import tiny
from tests.service.conftest import Client, Running
from tests.service.photos import ORANGE, PHOTOS, PRIOR, UNDESCRIBED, add, in_json
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

IMAGE: dict[str, Any] = {"content": png((245, 125, 15)), "headers": {"content-type": "image/png"}}


async def explained(client: Client, **query: Any) -> dict[str, Any]:
    params = {"explain": "attributes", "top_attributes": 3, "classes": "orange", **query}
    answer = await client.post("/classify", params=params, **IMAGE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["results"][0]["predictions"][0]["explanation"]
    return found


async def test_photos_are_named_by_their_likeness_and_their_share(running: Running, with_photos: Path) -> None:
    photos = [png((20, 200, 40)), png((245, 125, 15)), png((250, 120, 60))]
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json=ORANGE)
        assert "photos" not in await explained(client)
        ids = []
        for data in photos:
            there = set(ids)
            ids += [e["id"] for e in (await add(client, data)).json()["examples"] if e["id"] not in there]
        evidence = (await explained(client))["photos"]
        assert evidence["count"] == 3
        assert evidence["share"] == pytest.approx(3 / (PRIOR.described + 3))
        assert [n["id"] for n in evidence["nearest"]] == [ids[1], ids[2], ids[0]]
        assert evidence["nearest"][0]["cosine"] == pytest.approx(1)
        assert evidence["nearest"][2]["cosine"] < 0.9
        assert len((await explained(client, top_attributes=1))["photos"]["nearest"]) == 1
        await client.put("/classes/orange", json={**UNDESCRIBED, "examples": in_json(photos)})
        bare = await explained(client)
        assert bare["photos"]["share"] == pytest.approx(3 / (PRIOR.undescribed + 3))
        assert (bare["supporting"], bare["opposing"]) == ([], [])


async def test_a_contribution_is_what_the_attribute_is_worth_beside_the_photos(
    running: Running, with_photos: Path
) -> None:
    async with running(bundle=with_photos) as client:

        async def put(attributes: list[float]) -> float:
            """The log-odds of the class against another."""
            document = {**ORANGE, "attributes": attributes, "examples": in_json(PHOTOS[:2])}
            assert (await client.put("/classes/orange", json=document)).status_code in (200, 201)
            answer = (await client.post("/classify", params={"classes": "orange,bluish"}, **IMAGE)).json()
            p = {q["class_id"]: q["probability"] for q in answer["results"][0]["predictions"]}
            return math.log(p["orange"] / p["bluish"])

        before = await put(ORANGE["attributes"])
        explanation = await explained(client)
        contributions = [*explanation["supporting"], *explanation["opposing"]]
        assert len(contributions) == 3
        for c in contributions:
            changed = list(ORANGE["attributes"])
            changed[tiny.NAMES.index(c["attribute"])] = c["mean"]
            assert before - await put(changed) == pytest.approx(c["contribution"], rel=0.05, abs=0.02)


async def test_photos_are_read_once(running: Running, with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS)})
    read: list[int] = []

    def counted(database: Any, examples: Any, *others: Any, **named: Any) -> Any:
        read.append(len(examples))
        return read_embeddings(database, examples, *others, **named)

    monkeypatch.setattr("service.registry.arrays.read_embeddings", counted)
    async with running(bundle=with_photos) as client:  # another process, which has read none yet
        first = await explained(client)
        assert sum(read) == len(PHOTOS)
        assert await explained(client) == first
        assert sum(read) == len(PHOTOS)

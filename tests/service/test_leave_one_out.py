"""Each photo of a class as if the class did not have it: said exactly, in previews and in warnings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import Client, Running
from tests.service.photos import ORANGE, PHOTOS, UNDESCRIBED, add, in_json
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

GREENISH = png((30, 230, 20))
PNG = {"content-type": "image/png"}


async def classified(client: Client, data: bytes) -> list[dict[str, Any]]:
    answer = await client.post("/classify?top_k=100", content=data, headers=PNG)
    found: list[dict[str, Any]] = answer.json()["results"][0]["predictions"]
    return found


@pytest.mark.parametrize("document", [ORANGE, UNDESCRIBED])
async def test_what_is_said_of_a_photo_is_what_registering_without_it_gives(
    running: Running, with_photos: Path, document: dict[str, Any]
) -> None:
    photos = [*PHOTOS[:3], GREENISH]
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={"id": "lime", "name": "Lime", "examples": in_json([png((90, 250, 30))])})
        tried = await client.post("/classes:preview", json={**document, "examples": in_json(photos)})
        assert tried.status_code == 200, tried.text
        said = tried.json()["examples"]
        assert [one["place"] for one in said] == [0, 1, 2, 3]
        for place, one in enumerate(said):
            without = [*photos[:place], *photos[place + 1 :]]
            stored = await client.put("/classes/orange", json={**document, "examples": in_json(without)})
            assert stored.json()["examples"] == 3
            predictions = await classified(client, photos[place])
            probability = {p["class_id"]: p["probability"] for p in predictions}
            other = next(p for p in predictions if p["class_id"] != "orange")
            assert (one["class_id"], one["name"]) == (other["class_id"], other["name"])
            odds = math.log(probability["orange"] / other["probability"])
            assert one["log_odds"] == pytest.approx(odds, abs=1e-4)
            assert one["recognised"] is (predictions[0]["class_id"] == "orange")


async def test_a_photo_that_looks_like_another_class_is_named_by_its_place(running: Running, with_photos: Path) -> None:
    photos = [*PHOTOS[:2], GREENISH, PHOTOS[2]]
    async with running(bundle=with_photos) as client:
        document = {**ORANGE, "examples": in_json(photos)}
        tried = await client.post("/classes:preview", json=document)
        (warning,) = tried.json()["warnings"]
        assert warning.startswith("/examples/2 (")
        assert warning.endswith("it would be taken for 'Greenish' (greenish)")
        assert (await client.post("/classes", json=document)).json()["warnings"] == [warning]
        assert (await client.put("/classes/orange", json=document)).json()["warnings"] == [warning]
        files = [("examples", (f"{i}.png", data, "image/png")) for i, data in enumerate(photos)]
        form = [("class", (None, json.dumps(ORANGE))), *files]
        assert (await client.put("/classes/orange", files=form)).json()["warnings"] == [warning]
        later = await add(client, PHOTOS[3])
        assert warning.replace("/examples/2", "example") in later.json()["warnings"]
        (stranger,) = (e["id"] for e in later.json()["examples"] if e["id"] in warning)
        assert (await client.delete(f"/classes/orange/examples/{stranger}")).status_code == 204
        assert (await add(client, PHOTOS[3])).json()["warnings"] == []
        again = await add(client, PHOTOS[3], GREENISH)
        assert warning.replace("/examples/2", "/examples/1") in again.json()["warnings"]
        assert "warnings" not in (await client.get("/classes/orange/examples")).json()


async def test_nothing_is_said_where_the_photo_is_all_there_is(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        document = {**UNDESCRIBED, "examples": in_json([GREENISH])}
        tried = (await client.post("/classes:preview", json=document)).json()
        assert (tried["examples"], tried["warnings"], tried["confusion"]["won"]) == ([], [], [])
        assert (await client.post("/classes", json=document)).json()["warnings"] == []
        described = {**ORANGE, "examples": in_json([GREENISH])}
        assert [
            e["recognised"] for e in (await client.post("/classes:preview", json=described)).json()["examples"]
        ] == [False]


async def test_images_are_answered_before_and_after(running: Running, with_photos: Path) -> None:
    probes = [png((245, 125, 15)), png((20, 40, 250)), b"no image"]
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={"id": "lime", "name": "Lime", "examples": in_json([png((90, 250, 30))])})
        document = {**UNDESCRIBED, "examples": in_json(PHOTOS[:3])}
        both = {**document, "images": in_json(probes)}
        tried = await client.post("/classes:preview?top_k=100", json=both)
        assert tried.status_code == 200, tried.text
        files = [("class", (None, json.dumps(UNDESCRIBED)))]
        files += [("examples", (f"{i}.png", data, "image/png")) for i, data in enumerate(PHOTOS[:3])]  # type: ignore[misc]
        files += [("images", (str(i), data, "image/png")) for i, data in enumerate(probes)]  # type: ignore[misc]
        assert (await client.post("/classes:preview?top_k=100", files=files)).json() == tried.json()
        results = tried.json()["results"]
        assert results[2]["error"]["status"] == 415
        today = [await classified(client, data) for data in probes[:2]]
        assert (await client.post("/classes", json=document)).status_code == 201
        for data, before, result in zip(probes[:2], today, results, strict=False):
            assert result["before"] == before
            after = await classified(client, data)
            assert [p["class_id"] for p in result["predictions"]] == [p["class_id"] for p in after]
            assert result["predictions"] == [pytest.approx(p) for p in after]
        assert results[0]["before"][0]["class_id"] == "reddish"
        assert results[0]["predictions"][0]["class_id"] == "orange"


async def test_a_photo_that_cannot_be_read_refuses_the_preview(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        document = {**ORANGE, "examples": in_json([PHOTOS[0], b"no image"]), "images": in_json(PHOTOS[:1])}
        refused = await client.post("/classes:preview", json=document)
        assert refused.status_code == 422
        assert [e["pointer"] for e in refused.json()["errors"]] == ["/examples/1"]
        assert refused.json()["type"].endswith(":invalid-examples")

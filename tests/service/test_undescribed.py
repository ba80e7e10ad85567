"""Classes of which nothing is said: they are what their example photos show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Client, Running, running_app
from tests.service.nursery import Nursery
from tests.service.photos import ORANGE, PHOTOS, PRIOR, UNDESCRIBED, add, in_json, probabilities, rows
from tests.service.processes import command
from tests.service.tiny import HEAD, png, tiny_bundle, trunk

pytestmark = pytest.mark.anyio


def problem(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rsplit(":", 1)[-1]


# --- one class ----------------------------------------------------------------------------------------------------


async def test_the_row_comes_from_the_mean_of_the_seen_classes_and_the_photos(
    running: Running, with_photos: Path
) -> None:
    bundle = Bundle.load(with_photos)
    async with running(bundle=with_photos) as client:
        created = await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:3])})
        assert created.status_code == 201, created.text
        answer = created.json()
        assert (answer["attributes"], answer["filled"], answer["out_of_range"]) == (None, [], [])
        assert (answer["kind"], answer["examples"]) == ("unseen", 3)
        service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
        row, known = service.snapshot.row("orange"), service.snapshot.there("orange")
        photos = service.registrar._log.embeddings(known.entry.examples)
        found = await probabilities(client)
        assert max(found, key=found.__getitem__) == "orange"
    mean = photos.astype(np.float64).sum(axis=0) / (PRIOR.undescribed + 3)  # the seen classes' mean is 0
    covariance = (factor := bundle.head._factor) @ factor.T * 1.25
    weight = np.linalg.solve(covariance, mean)
    scale = 1 + 0.25 * PRIOR.fade / (PRIOR.fade + 3)
    np.testing.assert_allclose(row.weight, scale * weight, rtol=1e-5)
    assert row.bias == pytest.approx(-0.5 * scale * float(weight @ mean), rel=1e-5)


async def test_a_class_is_shown_listed_and_explained_without_a_description(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:2])})
        assert (await client.get("/classes/orange")).json()["attributes"] is None
        listed = {c["id"]: c["attributes"] for c in (await client.get("/classes")).json()["classes"]}
        assert listed == {"orange": None, "reddish": [1, 0, 0], "greenish": [0, 1, 0], "bluish": [0, 0, 1]}
        explained = await client.post("/classify?explain=attributes", content=png((245, 125, 15)))
        best = explained.json()["results"][0]["predictions"][0]
        assert (best["class_id"], best["explanation"]["supporting"], best["explanation"]["opposing"]) == (
            "orange",
            [],
            [],
        )
        assert (await client.patch("/classes/orange", json={"name": "Fruit"})).json()["attributes"] is None


async def test_neighbours_without_a_description_are_near_by_their_rows_only(
    running: Running, with_photos: Path
) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:2])})
        twin = await client.post("/classes", json={"name": "Twin", "examples": in_json(PHOTOS[:2])})
        (near,) = twin.json()["near_duplicates"]
        assert (near["class_id"], near["attribute_cosine"]) == ("orange", None)
        assert near["row_cosine"] == pytest.approx(1)
        tried = await client.post("/classes:preview", json=ORANGE)
        assert tried.status_code == 200, tried.text
        assert {n["class_id"] for n in tried.json()["nearest_by_attributes"]} == {"reddish", "greenish", "bluish"}
        by_row = {n["class_id"]: n["attribute_cosine"] for n in tried.json()["nearest_by_row"]}
        assert by_row["twin"] is None
        assert by_row["reddish"] > 0.5


async def test_a_description_may_be_added_and_taken_away_again(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})
        both = await rows(client)
        await client.put("/classes/orange", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:2])})
        alone = await rows(client)
        assert alone != both
        described = await client.put("/classes/orange", json={**ORANGE, "examples": in_json(PHOTOS[1::-1])})
        assert (described.json()["attributes"], described.json()["examples"]) == (ORANGE["attributes"], 2)
        assert await rows(client) == both


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_the_last_photo_stays(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:2])})
        first, second = (e["id"] for e in (await client.get("/classes/orange/examples")).json()["examples"])
        assert (await client.delete(f"/classes/orange/examples/{first}")).status_code == 204
        refused = await client.delete(f"/classes/orange/examples/{second}")
        assert problem(refused) == (409, "last-example")
        assert "no description" in refused.json()["detail"]
        assert (await client.get("/classes/orange")).json()["examples"] == 1
        assert (await client.delete("/classes/orange")).status_code == 204


async def test_nothing_at_all_describes_no_class(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        for method, path in (("POST", "/classes"), ("PUT", "/classes/orange"), ("POST", "/classes:preview")):
            refused = await client.request(method, path, json={**UNDESCRIBED})
            assert problem(refused) == (422, "invalid-request")
            (error,) = refused.json()["errors"]
            assert (error["pointer"], "photos" in error["detail"]) == ("/attributes", True)


async def test_a_bundle_without_the_numbers_takes_no_class_without_attributes(client: Client) -> None:
    refused = await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:1])})
    assert problem(refused) == (422, "invalid-examples")


# --- what is kept -------------------------------------------------------------------------------------------------


async def test_classes_outlive_the_process_rollback_backup_check_and_adoption(
    with_photos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    settings = Settings(bundle=with_photos, data_dir=data, threads=1)
    async with running_app(settings) as client:
        await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:2])})
        two = await rows(client)
        await add(client, PHOTOS[2])
        await client.put("/classes/twin", json={**ORANGE, "id": "twin", "examples": in_json(PHOTOS)})
        three = await rows(client)
    async with running_app(settings) as client:
        assert await rows(client) == three
        await client.post("/registry:rollback", json={"version": 1})
        assert await rows(client) == two
        await client.post("/registry:rollback", json={"version": 3})
        assert await rows(client) == three

    def registry(*arguments: object) -> Any:
        done = command("registry", *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    assert registry("check", "--bundle", with_photos, "--data-dir", data)["rows"] == 2
    registry("backup", tmp_path / "backup.jsonl", "--data-dir", data)
    registry("restore", tmp_path / "backup.jsonl", "--data-dir", tmp_path / "restored")
    async with running_app(settings.model_copy(update={"data_dir": tmp_path / "restored"})) as client:
        assert await rows(client) == three

    spec = replace(HEAD, photos=PRIOR, unseen_scale=1.5)
    same_trunk = tiny_bundle(tmp_path / "same", spec=spec)
    other_trunk = tiny_bundle(tmp_path / "other", spec=spec, trunk_bytes=trunk(free=True))
    kept = registry("adopt", "--bundle", same_trunk, "--data-dir", data)
    assert (kept["classes"], kept["without_photos"], kept["left_out"]) == (2, [], [])
    async with running_app(Settings(bundle=same_trunk, data_dir=data, threads=1)) as client:
        adopted = await rows(client)
        await client.delete("/classes/orange")
        await client.post("/classes", json={**UNDESCRIBED, "examples": in_json(PHOTOS[:3])})
        # The class is the last one now; the order in which probabilities are added moves their last bit.
        assert await rows(client) == pytest.approx(adopted, rel=1e-14)
    lost = registry("adopt", "--bundle", other_trunk, "--data-dir", data)
    assert (lost["classes"], lost["without_photos"], lost["left_out"]) == (1, ["twin", "orange"], ["orange"])
    async with running_app(Settings(bundle=other_trunk, data_dir=data, threads=1)) as client:
        assert (await client.get("/classes/orange")).status_code == 404
        assert (await client.get("/classes/twin")).json()["examples"] == 0


# --- commands -----------------------------------------------------------------------------------------------------


def test_commands_register_and_show_a_class_of_photos_only(with_photos: Path, tmp_path: Path, nursery: Nursery) -> None:
    folder = tmp_path / "oranges"
    folder.mkdir()
    for i, data in enumerate(PHOTOS[:2]):
        (folder / f"{i}.png").write_bytes(data)
    with nursery.server(with_photos, tmp_path / "live") as server:
        added = command("classes", "add", "Orange", "--photos", folder, "--url", server.url)
        assert added.returncode == 0, added.stderr
        assert added.stdout.startswith("orange is in version 1\n")
        shown = command("classes", "show", "orange", "--url", server.url)
        assert shown.returncode == 0, shown.stderr
        assert "examples" in shown.stdout
        assert "attribute " not in shown.stdout
        (odd := tmp_path / "odd.png").write_bytes(png((30, 230, 20)))
        asked = ("Fruit", "--photos", folder, "--photos", odd, "--url", server.url)
        tried = command("classes", "preview", *asked, "--image", odd)
        assert tried.returncode == 0, tried.stderr
        for words in (
            "recognised without it",
            f"warning: {odd} (",
            "odd.png: greenish ",
            ", fruit 0.",
            "; today greenish ",
        ):
            assert words in tried.stdout
        added = command("classes", "add", *asked)
        assert f"warning: {odd} (" in added.stdout
        assert f"warning: {odd} (" in command("classes", "examples", "add", "orange", odd, "--url", server.url).stdout
        again = command("classes", "add", "Orange", "--photos", folder, "--replace", "--url", server.url, "--json")
        assert json.loads(again.stdout)["examples"] == 2
        for verb in ("add", "preview"):
            refused = command("classes", verb, "Nothing", "--url", server.url)
            assert refused.returncode == 2
            assert "--attributes" in refused.stderr
            assert "--photos" in refused.stderr

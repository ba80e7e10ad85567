"""Example photos of a class: POSTed, listed, taken back, kept, and what they do to answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.synthesis import class_embeddings
from service.errors import StorageError
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Client, Running, running_app
from tests.service.nursery import Nursery
from tests.service.photos import COLOURS, ORANGE, PHOTOS, add, in_json, probabilities, rows
from tests.service.processes import command
from tests.service.tiny import png, synthesize

pytestmark = pytest.mark.anyio

# --- one class ----------------------------------------------------------------------------------------------------


async def test_a_class_with_photos_is_the_posterior_mean(running: Running, with_photos: Path) -> None:
    bundle = Bundle.load(with_photos)
    async with running(bundle=with_photos) as client:
        created = await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})
        assert created.status_code == 201, created.text
        assert created.json()["examples"] == 2
        service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
        row = service.snapshot.row("orange")
        known = service.snapshot.get("orange")
        assert known is not None
        photos = service.registrar._log.embeddings(known.entry.examples)
    described = class_embeddings(
        synthesize,
        bundle_id=bundle.manifest.bundle_id,
        class_id="orange",
        attributes=ORANGE["attributes"],
        vocabulary=bundle.manifest.vocabulary,
        head=bundle.manifest.head,
    ).mean(axis=0, dtype=np.float64)
    mean = (2.0 * described + photos.astype(np.float64).sum(axis=0)) / 4
    covariance = (factor := bundle.head._factor) @ factor.T * 1.25  # the scale of described classes is in it
    weight = np.linalg.solve(covariance, mean)
    scale = 1 + 0.25 * (1 - 2 / 5)
    np.testing.assert_allclose(row.weight, scale * weight, rtol=1e-5)
    assert row.bias == pytest.approx(-0.5 * scale * float(weight @ mean), rel=1e-5)
    assert known.photo_share == pytest.approx(2 / 5)


async def test_a_stored_change_is_no_failure_where_its_photos_cannot_be_read(
    running: Running, with_photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(bundle=with_photos) as client:
        service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
        judge = service.judge_photos

        def without_database(*arguments: Any, **named: Any) -> Any:
            with monkeypatch.context() as patched:
                patched.setattr(service.log, "embeddings", refuse)
                return judge(*arguments, **named)

        def refuse(*_arguments: Any, **_named: Any) -> Any:
            raise StorageError("the database is gone")

        monkeypatch.setattr(type(service), "judge_photos", lambda _self, *a, **named: without_database(*a, **named))
        created = await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})
        assert (created.status_code, created.json()["warnings"]) == (201, [])
        assert (await client.get("/classes/orange")).json()["examples"] == 2
        assert "the database is gone" in caplog.text


async def test_photos_meet_before_the_model(running: Running, with_photos: Path) -> None:
    batches: list[int] = []
    async with running(bundle=with_photos, batch_size=3) as client:
        service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
        service.batcher.on_batch = lambda images, _seconds: batches.append(images)
        photos = [*PHOTOS, png((1, 2, 3))]
        assert (await client.post("/classes", json={**ORANGE, "examples": in_json(photos)})).status_code == 201
        assert batches == [3, 2]
        wrong = [photos[0], b"no image", photos[1], b"none either", png((9, 9, 9))]
        refused = await client.post("/classes", json={**ORANGE, "id": "o2", "examples": in_json(wrong)})
        assert [error["pointer"] for error in refused.json()["errors"]] == ["/examples/1", "/examples/3"]
        assert batches == [3, 2, 2, 1]


async def test_the_description_is_synthesised_beside_the_photos_and_once(
    running: Running, with_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(bundle=with_photos) as client:
        service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
        happened: list[str] = []
        engine, edit = service.registrar._engine, service.registrar._edit
        synthesise = engine.synthesize

        def noted(*arguments: Any) -> Any:
            happened.append("synthesised")
            return synthesise(*arguments)

        def decide(*arguments: Any) -> Any:
            happened.append("decided")
            return edit(*arguments)

        monkeypatch.setattr(engine, "synthesize", noted)
        monkeypatch.setattr(service.registrar, "_edit", decide)
        assert (await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})).status_code == 201
        assert (await add(client, PHOTOS[2])).status_code == 200
        assert happened == ["synthesised", "decided"] * 2
        ahead = service.snapshot.row("orange")
        monkeypatch.setattr(service.registrar, "prepare", lambda _entry: None)
        await client.delete("/classes/orange")
        assert (await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:3])})).status_code == 201
        after = service.snapshot.row("orange")
        assert (ahead.weight.tobytes(), ahead.bias) == (after.weight.tobytes(), after.bias)


async def test_photos_move_answers_towards_the_class(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        assert (await client.post("/classes", json={**ORANGE, "attributes": [0.6, 0.6, 0.6]})).status_code == 201
        before = (await probabilities(client))["orange"]
        for data in PHOTOS:
            assert (await add(client, data)).status_code == 200
        assert (await probabilities(client))["orange"] > before


async def test_photos_are_listed_and_taken_back(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json=ORANGE)
        described = await rows(client)
        added = await add(client, *PHOTOS[:2])
        assert [e["width"] for e in added.json()["examples"]] == [10, 10]
        listed = (await client.get("/classes/orange/examples")).json()
        assert listed["examples"] == added.json()["examples"]
        assert listed["registry_version"] == added.json()["registry_version"] == 2
        assert (await client.get("/classes/orange")).json()["examples"] == 2
        for example in listed["examples"]:
            gone = await client.delete(f"/classes/orange/examples/{example['id']}")
            assert gone.status_code == 204
        assert (await client.get("/classes/orange/examples")).json()["examples"] == []
        assert await rows(client) == described
        missing = await client.delete(f"/classes/orange/examples/{listed['examples'][0]['id']}")
        assert (missing.status_code, missing.json()["type"].rsplit(":", 1)[-1]) == (404, "no-such-example")


async def test_the_same_photo_counts_once(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        created = await client.post("/classes", json={**ORANGE, "examples": in_json([PHOTOS[0]] * 3)})
        assert created.json()["examples"] == 1
        again = await add(client, PHOTOS[0])
        assert again.json()["registry_version"] == created.json()["registry_version"]
        other_file = png(COLOURS[0], size=(30, 30))
        assert len((await add(client, other_file)).json()["examples"]) == 1


async def test_forms_and_put_take_photos(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        files: list[Any] = [("class", (None, json.dumps(ORANGE)))]
        files += [("examples", (f"{i}.png", data, "image/png")) for i, data in enumerate(PHOTOS[:3])]
        created = await client.post("/classes", files=files)
        assert (created.status_code, created.json()["examples"]) == (201, 3), created.text
        by_form = await rows(client)
        same = await client.put("/classes/orange", json={**ORANGE, "examples": in_json(PHOTOS[:3])})
        assert (same.status_code, same.json()["registry_version"]) == (200, 1)
        without = await client.put("/classes/orange", json=ORANGE)
        assert without.json()["examples"] == 0
        again = await client.put("/classes/orange", json={**ORANGE, "examples": in_json(PHOTOS[2::-1])})
        assert again.json()["examples"] == 3
        assert await rows(client) == by_form
        words = await client.patch("/classes/orange", json={"description": "a fruit"})
        assert words.json()["examples"] == 3
        assert await rows(client) == by_form


# --- exactness ----------------------------------------------------------------------------------------------------


async def test_any_order_gives_the_bits_of_a_fresh_registration(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS)})
        fresh = await rows(client)
        for order in list(itertools.permutations(range(4)))[:6]:
            await client.delete("/classes/orange")
            await client.post("/classes", json=ORANGE)
            extra = await add(client, png((1, 2, 3)))
            for i in order:
                assert (await add(client, PHOTOS[i])).status_code == 200
            stranger = extra.json()["examples"][0]["id"]
            assert (await client.delete(f"/classes/orange/examples/{stranger}")).status_code == 204
            assert await rows(client) == fresh


async def test_photos_outlive_the_process_and_a_rollback(with_photos: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=with_photos, data_dir=tmp_path / "data", threads=1)
    async with running_app(settings) as client:
        await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})
        two = await rows(client)
        await add(client, PHOTOS[2])
        three = await rows(client)
        assert two != three
    async with running_app(settings) as client:
        assert await rows(client) == three
        assert (await client.post("/registry:rollback", json={"version": 1})).status_code == 200
        assert await rows(client) == two
        assert (await client.get("/classes/orange")).json()["examples"] == 2
        await add(client, PHOTOS[2])
        assert await rows(client) == three


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_one_photo_that_cannot_be_read_refuses_all(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        refused = await client.post("/classes", json={**ORANGE, "examples": in_json([PHOTOS[0], b"no image"])})
        assert refused.status_code == 422
        assert refused.json()["type"].endswith(":invalid-examples")
        assert [e["pointer"] for e in refused.json()["errors"]] == ["/examples/1"]
        assert (await client.get("/classes/orange")).status_code == 404


async def test_a_class_has_so_many_photos_at_most(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos, max_examples=2) as client:
        await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})
        refused = await add(client, PHOTOS[2])
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/examples")
        assert "at most 2" in refused.json()["errors"][0]["detail"]
        assert len((await client.get("/classes/orange/examples")).json()["examples"]) == 2


async def test_seen_and_unknown_classes_take_none(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        assert (await add(client, PHOTOS[0], class_id="reddish")).status_code == 409
        assert (await add(client, PHOTOS[0], class_id="nobody")).status_code == 404
        bundled = await add(client, PHOTOS[0], class_id="bluish")
        assert (bundled.status_code, len(bundled.json()["examples"])) == (200, 1)


async def test_a_bundle_without_the_numbers_says_so(client: Client) -> None:
    refused = await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:1])})
    assert refused.status_code == 422
    assert "expected none" in refused.json()["errors"][0]["detail"]
    assert (await client.post("/classes", json=ORANGE)).json()["examples"] == 0


async def test_a_tag_that_is_old_stores_nothing(running: Running, with_photos: Path) -> None:
    async with running(bundle=with_photos) as client:
        tag = (await client.post("/classes", json=ORANGE)).headers["etag"]
        assert (await add(client, PHOTOS[0])).status_code == 200
        late = await client.post(
            "/classes/orange/examples", content=PHOTOS[1], headers={"If-Match": tag, "Content-Type": "image/png"}
        )
        assert late.status_code == 412
        assert len((await client.get("/classes/orange/examples")).json()["examples"]) == 1


# --- commands -----------------------------------------------------------------------------------------------------


def test_commands_add_list_and_remove_photos(with_photos: Path, tmp_path: Path, nursery: Nursery) -> None:
    folder = tmp_path / "oranges"
    folder.mkdir()
    for i, data in enumerate(PHOTOS[:3]):
        (folder / f"{i}.png").write_bytes(data)
    (folder / "Thumbs.db").write_bytes(b"no photo")
    with nursery.server(with_photos, tmp_path / "live") as server:

        def ran(*arguments: object) -> dict[str, Any]:
            done = command("classes", *arguments, "--url", server.url, "--json")
            assert done.returncode == 0, done.stderr
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        added = ran("add", "Orange", "--attributes", "[0.9, 0.5, 0.05]", "--photos", folder)
        assert added["examples"] == 3
        (folder / "more.png").write_bytes(PHOTOS[3])
        assert len(ran("examples", "add", "orange", folder / "more.png", folder)["examples"]) == 4
        listed = ran("examples", "list", "orange")["examples"]
        removed = command("classes", "examples", "remove", "orange", listed[0]["id"], "--url", server.url)
        assert (removed.returncode, removed.stdout) == (0, f"removed {listed[0]['id']}\n")
        assert ran("examples", "list", "orange")["examples"] == listed[1:]
        (empty := tmp_path / "empty").mkdir()
        for arguments, words in (
            (("examples", "add", "orange", tmp_path / "missing.png"), "missing.png"),
            (("examples", "add", "orange", empty), "empty folder"),
        ):
            refused = command("classes", *arguments, "--url", server.url)
            assert refused.returncode == 2
            assert words in refused.stderr

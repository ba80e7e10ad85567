"""The registry's versions over HTTP: state, history, the way back, and waiting for one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.service.conftest import Client, Running
from tests.service.test_classes import DOCUMENT, IMAGE, problem

pytestmark = pytest.mark.anyio


async def predictions(client: Client) -> Any:
    return (await client.post("/classify", params={"top_k": 100}, **IMAGE)).json()["results"][0]["predictions"]


async def test_the_registry_has_a_tag(client: Client) -> None:
    answer = await client.get("/registry")
    assert (answer.headers["etag"], answer.headers["registry-version"]) == ('"0"', "0")
    same = await client.get("/registry", headers={"if-none-match": '"0"'})
    assert (same.status_code, same.content) == (304, b"")
    await client.post("/classes", json=DOCUMENT)
    changed = await client.get("/registry", headers={"if-none-match": '"0"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"1"')
    assert changed.json()["classes"] == {"seen": 2, "unseen": 2}


async def test_the_history_says_what_was_done_and_when(client: Client) -> None:
    assert (await client.get("/registry/versions")).json() == {"versions": [], "next_cursor": None}
    before = datetime.now(UTC)
    await client.post("/classes", json=DOCUMENT)
    await client.patch("/classes/bluish", json={"name": "Blue"})
    await client.post("/classes:batch", json={"classes": [{**DOCUMENT, "id": f"c{i}"} for i in range(3)]})
    await client.delete("/classes/c1")
    await client.post("/registry:rollback", json={"version": 1})
    found = (await client.get("/registry/versions")).json()
    assert found["next_cursor"] is None
    assert [
        (v["registry_version"], v["operation"], v["changes"], v["class_ids"], v["rolled_back_to"])
        for v in found["versions"][:4]
    ] == [
        (1, "put", 1, ["deep-violet"], None),
        (2, "describe", 1, ["bluish"], None),
        (3, "batch", 3, ["c0", "c1", "c2"], None),
        (4, "remove", 1, ["c1"], None),
    ]
    last = found["versions"][4]
    assert (last["registry_version"], last["operation"], last["rolled_back_to"]) == (5, "rollback", 1)
    assert set(last["class_ids"]) == {"bluish", "c0", "c2"}
    times = [datetime.fromisoformat(v["time"]) for v in found["versions"]]
    assert before <= times[0]
    assert times == sorted(times)
    assert times[-1] <= datetime.now(UTC)


async def test_the_history_comes_in_pages(client: Client) -> None:
    for i in range(5):
        await client.post("/classes", json={**DOCUMENT, "id": f"c{i}"})
    pages, cursor = [], None
    while True:
        query = {"limit": 2, **({} if cursor is None else {"cursor": cursor})}
        page = (await client.get("/registry/versions", params=query)).json()
        pages.append([v["registry_version"] for v in page["versions"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == [[1, 2], [3, 4], [5]]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "YWJj"}, {"page": 1}):
        answer = await client.get("/registry/versions", params=wrong)
        assert problem(answer) == (422, "invalid-request")
        assert answer.json()["errors"][0]["pointer"] == f"/query/{next(iter(wrong))}"


async def test_going_back_makes_a_new_version_with_the_same_scores(running: Running) -> None:
    async with running() as client:
        await client.post("/classes", json=DOCUMENT)
        await client.delete("/classes/bluish")
        then, listed = await predictions(client), (await client.get("/classes")).json()["classes"]
        await client.put("/classes/deep-violet", json={**DOCUMENT, "attributes": [0.1, 0.9, 0.1]})
        await client.post("/classes", json={"name": "Grey", "attributes": [0.5, 0.5, 0.5]})
        assert await predictions(client) != then

        answer = await client.post("/registry:rollback", json={"version": 2})

        assert answer.status_code == 200
        assert (answer.json()["registry_version"], answer.headers["etag"]) == (5, '"5"')
        assert await predictions(client) == then
        back = (await client.get("/classes")).json()["classes"]
        without = [{k: v for k, v in c.items() if k != "registry_version"} for c in back]
        assert without == [{k: v for k, v in c.items() if k != "registry_version"} for c in listed]
        assert (await client.post("/registry:rollback", json={"version": 0})).json()["registry_version"] == 6
        assert {c["id"] for c in (await client.get("/classes")).json()["classes"]} == {"reddish", "greenish", "bluish"}
    async with running() as client:
        assert (await client.get("/registry")).json()["registry_version"] == 6
        await client.post("/registry:rollback", json={"version": 5})
        assert await predictions(client) == then


async def test_a_version_that_never_was(client: Client) -> None:
    await client.post("/classes", json=DOCUMENT)
    for version in (2, 10**15):
        answer = await client.post("/registry:rollback", json={"version": version})
        assert problem(answer) == (404, "no-such-version")
    for wrong, pointer in (({"version": -1}, "/version"), ({"version": "1"}, "/version"), ({}, "/version"), ([], "")):
        answer = await client.post("/registry:rollback", json=wrong)
        assert problem(answer) == (422, "invalid-request")
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await client.get("/registry")).json()["registry_version"] == 1


async def test_going_back_only_from_where_one_thinks_one_is(client: Client) -> None:
    await client.post("/classes", json=DOCUMENT)
    for stale in ('"0"', 'W/"1"', '"abc"', '"0", "2"'):
        answer = await client.post("/registry:rollback", json={"version": 0}, headers={"if-match": stale})
        assert problem(answer) == (412, "precondition-failed")
    assert problem(await client.post("/registry:rollback", json={"version": 0}, headers={"if-match": "1"})) == (
        422,
        "invalid-request",
    )
    for good, version in (('"0", "1"', 2), ("*", 3)):
        answer = await client.post("/registry:rollback", json={"version": 0}, headers={"if-match": good})
        assert answer.json()["registry_version"] == version


async def test_reads_wait_for_a_version(running: Running) -> None:
    """Another process on the same registry makes it."""
    async with running(deadline=0.4) as here, running(deadline=30.0) as there:
        reads = [
            ("POST", "/classify", IMAGE),
            ("GET", "/classes", {}),
            ("GET", "/classes/bluish", {}),
            ("GET", "/registry", {}),
            ("GET", "/registry/versions", {}),
        ]
        for method, path, body in reads:
            answer = await here.request(method, path, params={"min_registry_version": 1}, **body)
            assert problem(answer) == (503, "version-not-reached"), path
            assert int(answer.headers["retry-after"]) >= 1
        made = (await there.post("/classes", json=DOCUMENT)).json()["registry_version"]
        for method, path, body in reads:
            answer = await here.request(method, path, params={"min_registry_version": made}, **body)
            assert answer.status_code == 200, path
        assert (await here.get("/classes/deep-violet", params={"min_registry_version": 1})).status_code == 200
        for wrong in ("-1", "x", "1.5"):
            answer = await here.get("/classes", params={"min_registry_version": wrong})
            assert problem(answer) == (422, "invalid-request")

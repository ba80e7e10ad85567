"""The class table over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.http.dependencies import MAX_BODY_BYTES
from tests.service.conftest import Client, Running
from tests.service.tiny import NAMES, VIOLET, png

pytestmark = pytest.mark.anyio

IMAGE = {"content": png((230, 0, 230)), "headers": {"content-type": "image/png"}}
DOCUMENT = {"name": "Deep Violet", "attributes": list(VIOLET)}


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "request_id", "errors"}
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["type"].removeprefix("urn:d3gzsl:problem:")


async def best(client: Client) -> tuple[str, int]:
    answer = (await client.post("/classify", **IMAGE)).json()
    return answer["results"][0]["predictions"][0]["class_id"], answer["registry_version"]


async def test_a_registered_class_is_recognised_from_the_next_request_on(client: Client) -> None:
    assert await best(client) == ("bluish", 0)

    answer = await client.post("/classes", json={**DOCUMENT, "description": "a colour", "metadata": {"hex": "#e600e6"}})

    assert answer.status_code == 201
    assert answer.headers["location"] == "/classes/deep-violet"
    assert answer.json() == {
        "id": "deep-violet",
        "name": "Deep Violet",
        "kind": "unseen",
        "attributes": list(VIOLET),
        "text": [],
        "description": "a colour",
        "metadata": {"hex": "#e600e6"},
        "examples": 0,
        "like": None,
        "registry_version": 1,
        "head": "exact",
        "filled": [],
        "out_of_range": [],
        "warnings": [],
        "near_duplicates": [],
    }
    shown = await client.get(answer.headers["location"])
    of_the_change = ("head", "filled", "out_of_range", "warnings", "near_duplicates")
    assert shown.json() == {k: v for k, v in answer.json().items() if k not in of_the_change}
    assert shown.headers["etag"] == answer.headers["etag"]
    assert await best(client) == ("deep-violet", 1)

    removed = await client.delete("/classes/deep-violet")
    assert (removed.status_code, removed.content, removed.headers["registry-version"]) == (204, b"", "2")
    assert await best(client) == ("bluish", 2)


async def test_attributes_by_name(client: Client) -> None:
    answer = await client.post("/classes", json={"name": "x", "id": "x", "attributes": {"blue": 0.9, "red": 1.5}})
    body = answer.json()
    assert body["attributes"] == [1.5, pytest.approx(1 / 3), 0.9]
    assert (body["filled"], body["out_of_range"]) == (["green"], ["red"])


async def test_values_on_another_scale_are_said_wherever_a_class_is_described(client: Client) -> None:
    percents = {"name": "x", "attributes": {"red": 90, "blue": 80}}
    words = ["looks like values on 0..100; the bundle's are on 0..1: divided by 100?"]
    assert (await client.post("/classes", json=percents)).json()["warnings"] == words
    assert (await client.put("/classes/x", json=percents)).json()["warnings"] == words
    assert (await client.post("/classes:preview", json=percents)).json()["warnings"] == words
    batch = {"mode": "upsert", "classes": [percents, DOCUMENT]}
    assert [c["warnings"] for c in (await client.post("/classes:batch", json=batch)).json()["classes"]] == [words, []]


async def test_the_same_class_by_array_and_by_name_has_the_same_row(running: Running) -> None:
    async with running() as client:
        await client.put("/classes/v", json=DOCUMENT)
        first = (await client.post("/classify", **IMAGE)).json()["results"][0]["predictions"]
        named = dict(zip(NAMES, VIOLET, strict=True))
        again = await client.put("/classes/v", json={**DOCUMENT, "attributes": named})
        assert (again.status_code, again.json()["registry_version"]) == (200, 1)
        assert (await client.post("/classify", **IMAGE)).json()["results"][0]["predictions"] == first


async def test_near_duplicates_are_named(client: Client) -> None:
    first = await client.post("/classes", json=DOCUMENT)
    assert first.json()["near_duplicates"] == []
    twin = (await client.post("/classes", json={"name": "Twin", "attributes": [0.9, 0.01, 0.9]})).json()
    (found,) = twin["near_duplicates"]
    assert (found["class_id"], found["name"], found["threshold"]) == ("deep-violet", "Deep Violet", 0.99)
    # Attributes are not scaled in this bundle; both rows come from nearly the same mean.
    expected = (0.81 + 0.81) / (2 * 0.81) ** 0.5 / (2 * 0.81 + 0.0001) ** 0.5
    assert found["attribute_cosine"] == pytest.approx(expected, rel=1e-5)
    assert 0.99 < found["row_cosine"] <= 1
    again = (await client.put("/classes/twin", json={"name": "Twin", "attributes": [0.0, 0.9, 0.9]})).json()
    assert again["near_duplicates"] == []
    seen = (await client.post("/classes", json={"name": "Other red", "attributes": [0.7, 0, 0]})).json()
    assert [n["class_id"] for n in seen["near_duplicates"]] == ["reddish"]


async def test_parameters_that_are_none_are_refused_and_nothing_is_stored(client: Client) -> None:
    """`wait` was one until the head that needed it went; who still gives it is told so."""
    calls = (
        client.post("/classes?wait=exact", json=DOCUMENT),
        client.put("/classes/deep-violet?wiat=exact", json=DOCUMENT),
        client.post("/classes:batch?wait=exact", json={"classes": [DOCUMENT]}),
    )
    for call, name in zip(calls, ("wait", "wiat", "wait"), strict=True):
        answer = await call
        assert problem(answer) == (422, "invalid-request")
        assert [e["pointer"] for e in answer.json()["errors"]] == [f"/query/{name}"]
    assert (await client.get("/classes/deep-violet")).status_code == 404


async def test_ids_are_taken_once(client: Client) -> None:
    assert (await client.post("/classes", json=DOCUMENT)).status_code == 201
    assert problem(await client.post("/classes", json=DOCUMENT)) == (409, "class-exists")
    assert problem(await client.post("/classes", json={**DOCUMENT, "id": "reddish"})) == (409, "class-exists")


async def test_put_creates_replaces_and_repeats(client: Client) -> None:
    created = await client.put("/classes/v", json=DOCUMENT)
    assert (created.status_code, created.headers["location"]) == (201, "/classes/v")
    repeated = await client.put("/classes/v", json=DOCUMENT)
    assert (repeated.status_code, repeated.headers["etag"]) == (200, created.headers["etag"])
    assert repeated.json() == created.json()
    replaced = await client.put("/classes/v", json={**DOCUMENT, "id": "v", "attributes": [0, 1, 0.5]})
    assert (replaced.status_code, replaced.json()["registry_version"]) == (200, 2)
    assert replaced.headers["etag"] != created.headers["etag"]
    bundles_own = await client.put("/classes/bluish", json=DOCUMENT)
    assert bundles_own.status_code == 200


async def test_preconditions(client: Client) -> None:
    path = "/classes/v"
    assert problem(await client.put(path, json=DOCUMENT, headers={"if-match": "*"})) == (412, "precondition-failed")
    tag = (await client.put(path, json=DOCUMENT, headers={"if-none-match": "*"})).headers["etag"]
    again = await client.put(path, json=DOCUMENT, headers={"if-none-match": "*"})
    assert problem(again) == (412, "precondition-failed")
    patched = await client.patch(path, json={"name": "V"}, headers={"if-match": f'"x", {tag}'})
    assert patched.status_code == 200
    for stale in (tag, f"W/{patched.headers['etag']}"):  # weak tags never match here
        assert problem(await client.delete(path, headers={"if-match": stale}))[0] == 412
    assert problem(await client.delete(path, headers={"if-match": "v1"})) == (422, "invalid-request")
    assert (await client.delete(path, headers={"if-match": patched.headers["etag"]})).status_code == 204


async def test_a_reader_that_knows_the_class_gets_304(client: Client) -> None:
    tag = (await client.get("/classes/bluish")).headers["etag"]
    for value in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        same = await client.get("/classes/bluish", headers={"if-none-match": value})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    await client.patch("/classes/bluish", json={"name": "Blue"})
    assert (await client.get("/classes/bluish", headers={"if-none-match": tag})).status_code == 200


async def test_a_reader_that_knows_the_page_gets_304(client: Client) -> None:
    query = {"limit": 2}
    tag = (await client.get("/classes", params=query)).headers["etag"]
    same = await client.get("/classes", params=query, headers={"if-none-match": tag})
    assert (same.status_code, same.content) == (304, b"")
    assert (await client.get("/classes", params={"limit": 3}, headers={"if-none-match": tag})).status_code == 200
    await client.patch("/classes/bluish", json={"name": "Blue"})
    assert (await client.get("/classes", params=query, headers={"if-none-match": tag})).status_code == 200


async def test_patch_changes_words_and_leaves_the_row(client: Client) -> None:
    before = (await client.post("/classify", **IMAGE)).json()["results"][0]["predictions"][0]
    answer = await client.patch("/classes/bluish", json={"name": "Blue", "metadata": {"a": [1]}})
    assert answer.status_code == 200
    assert {k: answer.json()[k] for k in ("name", "description", "metadata", "registry_version")} == {
        "name": "Blue",
        "description": "",
        "metadata": {"a": [1]},
        "registry_version": 1,
    }
    after = (await client.post("/classify", **IMAGE)).json()["results"][0]["predictions"][0]
    assert after == {**before, "name": "Blue"}


async def test_other_classes_keep_their_scores_to_the_last_bit(client: Client) -> None:
    """With the `lda` head, among themselves, whatever comes and goes."""

    async def others() -> list[dict[str, Any]]:
        query = {"classes": "reddish,greenish,bluish"}
        return (await client.post("/classify", params=query, **IMAGE)).json()["results"][0]["predictions"]

    before = await others()
    await client.post("/classes", json=DOCUMENT)
    assert await others() == before
    await client.post("/classes:batch", json={"classes": [{**DOCUMENT, "id": f"c{i}"} for i in range(30)]})
    assert await others() == before
    await client.delete("/classes/c7")
    assert await others() == before


async def test_seen_classes_stay(client: Client) -> None:
    for method, body in (("PUT", DOCUMENT), ("PATCH", {"name": "x"}), ("DELETE", None)):
        answer = await client.request(method, "/classes/reddish", json=body)
        assert problem(answer) == (409, "seen-class")


async def test_unknown_classes(client: Client) -> None:
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        assert problem(await client.request(method, "/classes/nobody", json=body)) == (404, "no-such-class")


async def test_the_list_comes_in_pages_that_changes_do_not_disturb(client: Client) -> None:
    for name in ("delta", "alpha", "charlie", "bravo"):
        await client.post("/classes", json={**DOCUMENT, "name": name})
    expected = ["alpha", "bluish", "bravo", "charlie", "delta", "greenish", "reddish"]
    listed = (await client.get("/classes")).json()
    assert ([c["id"] for c in listed["classes"]], listed["next_cursor"]) == (expected, None)
    first = await client.get("/classes", params={"limit": 3})
    assert first.headers["registry-version"] == "4"
    await client.delete("/classes/bravo")
    await client.post("/classes", json={**DOCUMENT, "name": "aardvark"})
    pages, cursor = [[c["id"] for c in first.json()["classes"]]], first.json()["next_cursor"]
    while cursor is not None:
        page = (await client.get("/classes", params={"limit": 3, "cursor": cursor})).json()
        pages.append([c["id"] for c in page["classes"]])
        cursor = page["next_cursor"]
    assert pages == [["alpha", "bluish", "bravo"], ["charlie", "delta", "greenish"], ["reddish"]]


async def test_the_list_can_be_filtered(client: Client) -> None:
    async def ids(**query: str) -> list[str]:
        return [c["id"] for c in (await client.get("/classes", params=query)).json()["classes"]]

    assert await ids(kind="seen") == ["greenish", "reddish"]
    assert await ids(name="EENISH") == ["greenish"]
    assert await ids(name="ish", kind="unseen") == ["bluish"]
    assert await ids(name="nobody") == []


async def test_names_of_every_script_are_registered_and_found_in_either_form(client: Client) -> None:
    names = {
        "Cafe\u0301": "Café",
        "گربه\u200cسان": "گربه\u200cسان",
        "👩\u200d🚀": "👩\u200d🚀",
        "Blue\u00a0Whale ": "Blue\u00a0Whale",
    }
    ids = {}
    for sent, kept in names.items():
        answer = await client.post("/classes", json={**DOCUMENT, "name": sent})
        assert (answer.status_code, answer.json()["name"]) == (201, kept)
        ids[kept] = answer.json()["id"]
    assert (ids["Café"], ids["Blue\u00a0Whale"]) == ("cafe", "blue-whale")
    assert len(set(ids.values())) == 4

    for wanted, name in (
        ("Café", "Café"),
        ("CAFE\u0301", "Café"),
        ("blue whale", "Blue\u00a0Whale"),
        ("گربه", "گربه\u200cسان"),
    ):
        found = (await client.get("/classes", params={"name": wanted})).json()["classes"]
        assert [c["name"] for c in found] == [name]


async def test_an_id_that_a_class_of_another_name_has_gets_a_suffix(client: Client) -> None:
    for name, class_id in (("C", "c"), ("C#", "c-2"), ("C++", "c-3")):
        preview = await client.post("/classes:preview", json={**DOCUMENT, "name": name})
        assert (preview.json()["id"], preview.json()["exists"]) == (class_id, False)
        answer = await client.post("/classes", json={**DOCUMENT, "name": name})
        assert (answer.json()["id"], answer.headers["location"]) == (class_id, f"/classes/{class_id}")
    # What was sent before is there under its own id, and not a second time.
    assert problem(await client.post("/classes", json={**DOCUMENT, "name": "c#"})) == (409, "class-exists")
    assert problem(await client.post("/classes", json={**DOCUMENT, "name": "x", "id": "c"})) == (409, "class-exists")
    batch = {"mode": "upsert", "classes": [{**DOCUMENT, "name": name} for name in ("C+", "C++", "C&", "C")]}
    answer = await client.post("/classes:batch", json=batch)
    assert [(c["id"], c["status"]) for c in answer.json()["classes"]] == [
        ("c-4", "created"),
        ("c-3", "unchanged"),
        ("c-5", "created"),
        ("c", "unchanged"),
    ]
    batch["classes"].append({**DOCUMENT, "name": "c&"})
    answer = await client.post("/classes:batch", json=batch)
    assert problem(answer) == (422, "invalid-batch")
    assert [e["pointer"] for e in answer.json()["errors"]] == ["/classes/4/id"]


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "1001"}, {"kind": "odd"}, {"cursor": "é"}, {"page": "2"}])
async def test_wrong_parameters_of_the_list_are_named(client: Client, query: dict[str, str]) -> None:
    answer = await client.get("/classes", params=query)
    assert problem(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["pointer"] == f"/query/{next(iter(query))}"


@pytest.mark.parametrize(
    ("change", "name", "pointer"),
    [
        ({"name": ...}, "invalid-request", "/name"),
        ({"name": ""}, "invalid-class-name", "/name"),
        ({"name": "x" * 201}, "invalid-class-name", "/name"),
        ({"name": "a\tb"}, "invalid-class-name", "/name"),
        ({"name": "   "}, "invalid-class-name", "/name"),
        ({"name": 3}, "invalid-class-name", "/name"),
        ({"name": "a\u2028b"}, "invalid-class-name", "/name"),
        ({"name": "\u202egnirts"}, "invalid-class-name", "/name"),
        ({"id": "Not A Slug"}, "invalid-class-id", "/id"),
        ({"id": "a\n"}, "invalid-class-id", "/id"),
        ({"id": "x" * 65}, "invalid-class-id", "/id"),
        ({"attributes": ...}, "invalid-request", "/attributes"),
        ({"attributes": None}, "invalid-attributes", "/attributes"),
        ({"attributes": "1,2,3"}, "invalid-attributes", "/attributes"),
        ({"attributes": [1, 2]}, "wrong-attribute-count", "/attributes"),
        ({"attributes": [1, "2", 3]}, "invalid-attributes", "/attributes/1"),
        ({"attributes": [1, True, 3]}, "invalid-attributes", "/attributes/1"),
        ({"attributes": [1e300, 0, 0]}, "invalid-attributes", "/attributes/0"),
        ({"attributes": {"rde": 1}}, "unknown-attribute", "/attributes/rde"),
        ({"attributes": {"a/b": 1}}, "unknown-attribute", "/attributes/a~1b"),
        ({"attributes": {"red": None}}, "invalid-attributes", "/attributes/red"),
        ({"attributes": {}}, "invalid-attributes", "/attributes"),
        ({"description": "x" * 4001}, "invalid-request", "/description"),
        ({"metadata": []}, "invalid-request", "/metadata"),
        ({"metadata": {"x": "y" * 20_000}}, "metadata-too-large", "/metadata"),
        ({"kind": "seen"}, "invalid-request", "/kind"),
    ],
)
async def test_what_is_wrong_with_a_class_is_named(
    client: Client, change: dict[str, Any], name: str, pointer: str
) -> None:
    document = {k: v for k, v in {**DOCUMENT, **change}.items() if v is not ...}
    for method, path in (("POST", "/classes"), ("PUT", "/classes/v")):
        answer = await client.request(method, path, json=document)
        assert problem(answer) == (422, name)
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await client.get("/registry")).json()["registry_version"] == 0


async def test_everything_wrong_is_named_at_once(client: Client) -> None:
    answer = await client.post("/classes", json={"name": "", "colour": 1, "description": 2})
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/name", "/colour", "/description", "/attributes"}
    answer = await client.post("/classes", json={"name": "x", "attributes": {"red": "a", "gren": 1}})
    assert {e["pointer"] for e in answer.json()["errors"]} == {"/attributes/red", "/attributes/gren"}
    assert "did you mean green" in answer.text
    answer = await client.post("/classes", json={"name": "x" * 201, "id": "A", "attributes": [1]})
    assert problem(answer) == (422, "invalid-request")  # more than one kind of thing is wrong
    assert {e["pointer"] for e in answer.json()["errors"]} == {"/name", "/id", "/attributes"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
async def test_numbers_that_are_not_finite_are_named(client: Client, number: str) -> None:
    for attributes, pointer in ((f"[1, {number}, 0]", "/attributes/1"), (f'{{"red": {number}}}', "/attributes/red")):
        body = f'{{"name": "x", "attributes": {attributes}}}'.encode()
        for method, path in (("POST", "/classes"), ("PUT", "/classes/x")):
            answer = await client.request(method, path, content=body, headers={"content-type": "application/json"})
            assert problem(answer) == (400, "number-not-finite")
            assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]
    assert (await client.get("/registry")).json()["registry_version"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"name": "\\ud800", "attributes": [0, 0, 0]}',
        b'{"name": "x", "name": "y", "attributes": [0, 0, 0]}',
        b'{"name": "x", "attributes": [0, 0, 0], "metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    ],
)
async def test_bodies_that_are_no_proper_json(client: Client, body: bytes) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    for method, path in (("POST", "/classes"), ("PUT", "/classes/x"), ("PATCH", "/classes/bluish")):
        answer = await client.request(method, path, content=body, headers=headers)
        assert problem(answer) == (400, "malformed-body")


async def test_a_body_that_is_too_large(client: Client) -> None:
    body = json.dumps({**DOCUMENT, "description": "x" * MAX_BODY_BYTES}).encode()
    answer = await client.post("/classes", content=body, headers={"content-type": "application/json"})
    assert problem(answer) == (413, "request-too-large")


async def test_a_patch_of_nothing_and_of_attributes_is_refused(client: Client) -> None:
    assert problem(await client.patch("/classes/bluish", json={})) == (422, "invalid-request")
    assert problem(await client.patch("/classes/bluish", json={"name": "x" * 201})) == (422, "invalid-class-name")
    big = {"metadata": {"x": "y" * 20_000}}
    assert problem(await client.patch("/classes/bluish", json=big)) == (422, "metadata-too-large")
    answer = await client.patch("/classes/bluish", json={"attributes": [0, 0, 1]})
    assert answer.json()["errors"][0]["pointer"] == "/attributes"


async def test_put_under_another_id_is_refused(client: Client) -> None:
    answer = await client.put("/classes/v", json={**DOCUMENT, "id": "w"})
    assert (problem(answer), answer.json()["errors"][0]["pointer"]) == ((422, "invalid-class-id"), "/id")
    answer = await client.put("/classes/Not%20A%20Slug", json=DOCUMENT)
    assert (problem(answer), answer.json()["errors"][0]["pointer"]) == ((422, "invalid-class-id"), "/path/class_id")


async def test_classes_outlive_the_process(running: Running) -> None:
    async with running() as client:
        await client.post("/classes", json=DOCUMENT)
        await client.delete("/classes/bluish")
        before = (await client.post("/classify", **IMAGE)).json()
        listed = (await client.get("/classes")).json()
    async with running() as client:
        after = (await client.post("/classify", **IMAGE)).json()
        assert (after["results"], after["registry_version"]) == (before["results"], before["registry_version"])
        assert (await client.get("/classes")).json() == listed


async def test_a_request_keeps_the_classes_it_started_with(running: Running) -> None:
    """The class changes while the image is being decoded."""
    async with running() as client:
        await client.post("/classes", json=DOCUMENT)

        async def slow_body():
            yield IMAGE["content"][:10]
            await client.delete("/classes/deep-violet")
            yield IMAGE["content"][10:]

        answer = (await client.post("/classify", content=slow_body(), headers=IMAGE["headers"])).json()
        assert answer["registry_version"] == 1
        assert answer["results"][0]["predictions"][0]["class_id"] == "deep-violet"
        assert (await best(client))[1] == 2


async def test_every_answer_is_that_of_one_version(client: Client) -> None:
    """Classes come and go while images are classified; the classes in an answer are those of its version."""
    ids = [f"c{i}" for i in range(8)]

    async def change(class_id: str) -> None:
        document = {"name": class_id, "attributes": [0.1, 0.2, 0.3]}
        assert (await client.post("/classes", json={**document, "id": class_id})).status_code == 201
        assert (await client.delete(f"/classes/{class_id}")).status_code == 204

    async def ask() -> dict[str, Any]:
        return (await client.post("/classify", params={"top_k": 1000}, **IMAGE)).json()

    answers, _ = await asyncio.gather(
        asyncio.gather(*(ask() for _ in range(60))), asyncio.gather(*(change(class_id) for class_id in ids))
    )

    assert (await client.get("/registry")).json()["registry_version"] == 2 * len(ids)
    by_version: dict[int, list[dict[str, float]]] = {}
    for answer in answers:
        found = {p["class_id"]: p["probability"] for p in answer["results"][0]["predictions"]}
        assert sum(found.values()) == pytest.approx(1)
        by_version.setdefault(answer["registry_version"], []).append(found)
    for same in by_version.values():
        assert all(found == pytest.approx(same[0], rel=1e-4) for found in same)

"""Classes described by another one: its attributes fill what is not given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.classes import ClassEntry
from service.classes.class_table import KnownClass
from service.classes.like import ClassesToBeLike
from service.classes.snapshot import Snapshot
from service.errors import InvalidRequestError
from tests.service import tiny
from tests.service.conftest import Client, Running
from tests.service.processes import Server, command
from tests.service.tiny import NAMES

pytestmark = pytest.mark.anyio


def errors(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(e["pointer"], e["detail"]) for e in answer.json()["errors"]]


async def test_what_is_not_named_is_that_of_the_other_class(client: Client) -> None:
    answer = await client.post("/classes", json={"name": "Rose", "like": "reddish", "attributes": {"blue": 0.5}})
    assert answer.status_code == 201
    rose = answer.json()
    assert (rose["attributes"], rose["like"], rose["filled"]) == ([1, 0, 0.5], "reddish", ["red", "green"])
    shown = (await client.get("/classes/rose")).json()
    assert (shown["attributes"], shown["like"]) == ([1, 0, 0.5], "reddish")

    whole = await client.post("/classes", json={"name": "Pink", "attributes": [1, 0, 0.5]})
    assert whole.json()["like"] is None
    named = {"name": "Pink", "id": "by-name", "like": "ROSE", "attributes": {"green": 0.25}}
    assert (await client.post("/classes", json=named)).json()["attributes"] == [1, 0.25, 0.5]
    listed = {c["id"]: c["like"] for c in (await client.get("/classes")).json()["classes"]}
    assert (listed["by-name"], listed["pink"], listed["reddish"]) == ("rose", None, None)


async def test_a_later_change_of_the_other_class_changes_nothing(client: Client) -> None:
    await client.put("/classes/a", json={"name": "A", "attributes": [0.2, 0.4, 0.6]})
    await client.put("/classes/b", json={"name": "B", "like": "a", "attributes": {"red": 1}})
    before = await client.get("/classes/b")
    await client.put("/classes/a", json={"name": "A", "attributes": [0, 0, 0.1]})
    await client.delete("/classes/a")
    after = await client.get("/classes/b")
    assert (after.json(), after.headers["etag"]) == (before.json(), before.headers["etag"])
    assert after.json()["attributes"] == [1, 0.4, 0.6]


async def test_a_class_may_be_like_what_it_was(client: Client) -> None:
    await client.put("/classes/a", json={"name": "A", "attributes": [0.2, 0.4, 0.6]})
    again = await client.put("/classes/a", json={"name": "A", "like": "a", "attributes": {"red": 1}})
    assert (again.status_code, again.json()["attributes"]) == (200, [1, 0.4, 0.6])


async def test_without_attributes_it_is_the_same_and_is_named_as_that(client: Client) -> None:
    answer = (await client.post("/classes", json={"name": "Twin", "like": "Greenish"})).json()
    assert (answer["attributes"], answer["filled"], answer["warnings"]) == ([0, 1, 0], [*NAMES], [])
    assert [n["class_id"] for n in answer["near_duplicates"]] == ["greenish"]


async def test_batch_and_preview(client: Client) -> None:
    classes = [
        {"name": "A", "like": "bluish", "attributes": {"red": 0.5}},
        {"name": "B", "attributes": [0.5, 0.5, 0]},
    ]
    stored = (await client.post("/classes:batch", json={"classes": classes})).json()["classes"]
    assert [(c["like"], c["filled"]) for c in stored] == [("bluish", ["green", "blue"]), (None, [])]
    assert (await client.get("/classes/a")).json()["attributes"] == [0.5, 0, 1]
    tried = (await client.post("/classes:preview", json={"name": "C", "like": "a", "attributes": {"red": 0}})).json()
    assert (tried["attributes"], tried["like"], tried["filled"]) == ([0, 0, 1], "a", ["green", "blue"])

    of_this_batch = [{"name": "D", "attributes": [0, 0, 1]}, {"name": "E", "like": "D", "attributes": {"red": 1}}]
    refused = await client.post("/classes:batch", json={"classes": of_this_batch})
    ((pointer, words),) = errors(refused)
    assert (pointer, words) == ("/classes/1/like", "expected the id or the name of a class, got 'D'")
    assert (await client.get("/classes/d")).status_code == 404


@pytest.mark.parametrize("path", ["/classes", "/classes:preview"])
async def test_what_cannot_be_filled_is_refused(client: Client, path: str) -> None:
    await client.post(
        "/classes:batch", json={"classes": [{"id": i, "name": "Same", "attributes": [1, 1, 0]} for i in "ab"]}
    )
    x = {"name": "X", "like": "reddish"}
    for document, pointer, words in (
        ({**x, "like": "redish", "attributes": {"red": 1}}, "/like", "got 'redish'; did you mean reddish, greenish?"),
        ({**x, "like": "zebra"}, "/like", "expected the id or the name of a class, got 'zebra'"),
        ({**x, "like": "same"}, "/like", "expected the id of one class, got a name that 2 classes have: a, b"),
        ({**x, "attributes": [1, 0, 1]}, "/like", "that leave some for 'reddish' to fill, or no like; all 3 are given"),
        ({**x, "attributes": dict.fromkeys(NAMES, 1)}, "/like", "all 3 are given"),
        ({**x, "attributes": {}}, "/attributes", "expected at least one named attribute, got none"),
        ({**x, "attributes": {"rde": 1}}, "/attributes/rde", "did you mean red?"),
        ({**x, "like": ""}, "/like", "at least 1 character"),
        ({**x, "like": ["reddish"]}, "/like", "valid string"),
        (
            {"name": "X"},
            "/attributes",
            "expected attributes, a class in like, or photos in examples",
        ),
    ):
        ((found, said),) = errors(await client.post(path, json=document))
        assert found == pointer
        assert words in said


async def test_everything_wrong_is_named_at_once(client: Client) -> None:
    document = {"name": "", "like": "nobody at all", "attributes": {"rde": 1}}
    found = errors(await client.post("/classes", json=document))
    assert {pointer for pointer, _ in found} == {"/name", "/attributes/rde"}
    document["name"] = "X"
    assert {pointer for pointer, _ in errors(await client.post("/classes", json=document))} == {
        "/like",
        "/attributes/rde",
    }


async def test_what_another_process_registered_can_be_named_at_once(running: Running, tmp_path: Path) -> None:
    async with running() as one, running(poll_interval=60) as other:
        await one.post("/classes", json={"name": "Fresh", "attributes": [0.1, 0.2, 0.3]})
        answer = await other.post("/classes", json={"name": "Y", "like": "fresh", "attributes": {"red": 1}})
        assert answer.json()["attributes"] == [1, 0.2, 0.3]


def test_the_log_keeps_it() -> None:
    entry = ClassEntry(id="x", name="x", kind="unseen", attributes=(1.0,), like="horse")
    assert ClassEntry.from_json(json.loads(json.dumps(entry.to_json()))) == entry
    assert "like" not in ClassEntry(id="x", name="x", kind="unseen", attributes=(1.0,)).to_json()


def test_similar_names_are_looked_for_among_few(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(bundle_dir)
    entries = [ClassEntry(id=f"class-{i}", name=f"Class {i}", kind="unseen", attributes=(0, 0, 1)) for i in range(3000)]
    known = [KnownClass(entry=entry, registry_version=0) for entry in entries]
    rows = [bundle.head.row(np.zeros((1, tiny.Z)))] * len(known)
    table = Snapshot.build(0, known, rows, dimension=tiny.Z)
    compared: list[int] = []

    def count(_word: str, words: list[str], n: int) -> list[str]:
        compared.append(len(words))
        return words[:n]

    monkeypatch.setattr("service.classes.like.difflib.get_close_matches", count)
    others = ClassesToBeLike(table)
    said = []
    for i in range(30):
        with pytest.raises(InvalidRequestError) as caught:
            others.find(f"clas {i}")
        said.append(caught.value.problems[0].detail)
    assert compared == [1000] * 20
    assert "did you mean" in said[0]
    assert "did you mean" not in said[-1]


def ran(*arguments: object) -> str:
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_commands(server: Server, tmp_path: Path) -> None:
    url = ("--url", server.url)
    before = server.request("GET", "/registry").json()["registry_version"]
    try:
        said = ran("classes", "add", "Rose", "--like", "reddish", "--attributes", "blue=0.5", *url)
        assert "2 attributes are as reddish has them" in said
        assert "reddish" in ran("classes", "show", "rose", *url)
        tried = ran("classes", "preview", "Tea rose", "--like", "rose", "--attributes", "green=0.2", *url)
        assert "2 attributes are as rose has them" in tried
        neither = command("classes", "add", "X", *url)
        assert neither.returncode == 2
        assert "a class needs --attributes, --like, --describe or --photos; got none of these" in neither.stderr
        table = tmp_path / "classes.csv"
        table.write_text("class,like,red,green,blue\nTea rose,rose,,0.2,\nTwin,rose,,,\nPlain,,0.1,0.2,0.3\n")
        assert "3 attributes are as rose has them" in ran("classes", "import", table, *url)
        kept = {c["id"]: (c["like"], c["attributes"]) for c in server.request("GET", "/classes").json()["classes"]}
        assert kept["tea-rose"] == ("rose", [1, 0.2, 0.5])
        assert kept["twin"] == ("rose", [1, 0, 0.5])
        assert kept["plain"] == (None, [0.1, 0.2, 0.3])
        table.write_text("class,like,red,green,blue\nOther,,,0.2,0.3\n")
        assert "column 'red': expected a finite number" in command("classes", "import", table, *url).stderr
    finally:
        server.request("POST", "/registry:rollback", json={"version": before})

"""Classes described by text: over HTTP, in the registry, by commands, and what is refused."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.errors import MissingDependencyError
from model.photos import PhotoPrior
from service.inference.text_encoder import open_text_encoder
from service.service import Service
from tests.service import tiny
from tests.service.conftest import Client, Running
from tests.service.nursery import Nursery
from tests.service.processes import command
from tests.service.text_bundle import TEXTS, stored_row, text_bundle

pytestmark = pytest.mark.anyio
ELEPHANT = "a big grey animal with a trunk"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with named attributes and text, which takes photos, too."""
    spec = replace(tiny.HEAD, photos=PhotoPrior(described=2.0, undescribed=1.0, fade=1.0))
    return text_bundle(tmp_path_factory.mktemp("both") / "bundle", spec=spec)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with text alone."""
    return text_bundle(tmp_path_factory.mktemp("alone") / "bundle", named=False)


def problems(answer: Any) -> dict[str, str]:
    return {problem["pointer"]: problem["detail"] for problem in answer.json()["errors"]}


@pytest.mark.parametrize("named", [True, False])
async def test_text_gives_the_row_that_training_gave(
    both: Path, alone: Path, tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unseen class of the bundle, removed and registered again by its text, has the row that the bundle brought."""
    from asgi_lifespan import LifespanManager
    from httpx import ASGITransport

    from service.server.app import create_app
    from service.settings import Settings

    service = Service.open(Settings(bundle=both if named else alone, data_dir=tmp_path, threads=1))
    own = service.snapshot.row("bluish")
    app = create_app(service)
    async with LifespanManager(app), Client(transport=ASGITransport(app=app), base_url="http://localhost") as client:
        assert (await client.delete("/classes/bluish")).status_code == 204
        document: dict[str, Any] = {"id": "bluish", "name": "Bluish", "text": list(TEXTS["bluish"])}
        if named:
            document["attributes"] = list(tiny.COLOURS["bluish"])
        assert (await client.post("/classes", json=document)).status_code == 201
        row = service.snapshot.row("bluish")
    np.testing.assert_allclose(row.weight, own.weight, rtol=1e-5)
    assert row.bias == pytest.approx(own.bias, rel=1e-5)


async def test_a_class_keeps_and_shows_its_text(both: Path, running: Running) -> None:
    async with running(bundle=both) as client:
        made = await client.post("/classes", json={"name": "Elephant", "text": f" {ELEPHANT} "})
        assert made.status_code == 201, made.text
        assert made.json()["text"] == [ELEPHANT]
        assert made.json()["filled"] == ["red", "green", "blue"]
        assert (await client.get("/classes/elephant")).json()["text"] == [ELEPHANT]
        listed = {c["id"]: c["text"] for c in (await client.get("/classes")).json()["classes"]}
        assert listed == {**{name: list(texts) for name, texts in TEXTS.items()}, "elephant": [ELEPHANT]}
        patched = await client.patch("/classes/elephant", json={"description": "seen at the zoo"})
        assert patched.json()["text"] == [ELEPHANT]
        photo = {"content": tiny.photo(1), "headers": {"content-type": "image/png"}}
        ids = [p["class_id"] for p in (await client.post("/classify", **photo)).json()["results"][0]["predictions"]]
        assert "elephant" in ids


async def test_attributes_and_text_go_together_or_alone(both: Path, running: Running, tmp_path: Path) -> None:
    """Each of the three gives another row; without a text the class has the mean text of the training classes."""
    named = {"attributes": {"red": 0.9, "blue": 0.9, "green": 0.0}}
    weights = {}
    for form, document in (("both", {**named, "text": ELEPHANT}), ("named", named), ("text", {"text": ELEPHANT})):
        async with running(bundle=both, data_dir=tmp_path / form) as client:
            answer = await client.post("/classes", json={"name": "x", **document})
            assert answer.status_code == 201, answer.text
            preview = await client.post("/classes:preview", json={"name": "x", **document})
            weights[form] = [n["row_cosine"] for n in preview.json()["nearest_by_row"]]
    assert len({tuple(w) for w in weights.values()}) == 3


async def test_get_attributes_says_what_is_taken(
    both: Path, alone: Path, bundle_dir: Path, running: Running, tmp_path: Path
) -> None:
    taken = {"max_tokens": 12, "max_texts": 20, "max_length": 4000}
    for bundle, names, text in ((both, 3, taken), (alone, 0, taken), (bundle_dir, 3, None)):
        async with running(bundle=bundle, data_dir=tmp_path / bundle.parent.name) as client:
            answer = (await client.get("/attributes")).json()
            assert (len(answer["attributes"]), answer["text"]) == (names, text)


async def test_text_on_a_bundle_without_an_encoder_says_what_it_takes(client: Client) -> None:
    for document in ({"text": ELEPHANT}, {"text": ELEPHANT, "attributes": [1, 0, 0]}):
        answer = await client.post("/classes", json={"name": "x", **document})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:d3gzsl:problem:invalid-text")
        assert "no text encoder" in problems(answer)["/text"]
        assert "3 named attributes" in problems(answer)["/text"]
    neither = await client.post("/classes", json={"name": "x"})
    assert neither.status_code == 422
    assert "expected attributes, a class in like, or photos" in problems(neither)["/attributes"]


async def test_bundle_of_text_alone_says_so(alone: Path, running: Running) -> None:
    async with running(bundle=alone) as client:
        answer = await client.post("/classes", json={"name": "x", "attributes": [1, 0, 0], "text": ELEPHANT})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:d3gzsl:problem:invalid-attributes")
        assert "text alone" in problems(answer)["/attributes"]
        for document in ({}, {"attributes": []}):
            refused = await client.post("/classes", json={"name": "x", **document})
            assert "expected" in problems(refused)["/text"]
        made = await client.post("/classes", json={"name": "x", "text": [ELEPHANT, "the sky"]})
        assert (made.status_code, made.json()["attributes"], made.json()["filled"]) == (201, [], [])
        shown = (await client.get("/classes/x")).json()
        same = await client.put("/classes/x", json={k: shown[k] for k in ("name", "attributes", "text")})
        assert (same.status_code, same.json()["registry_version"]) == (200, 1)
        photo = {"content": tiny.photo(1), "headers": {"content-type": "image/png"}}
        explained = await client.post("/classify?explain=attributes", **photo)
        explanation = explained.json()["results"][0]["predictions"][0]["explanation"]
        assert explanation["supporting"] == explanation["opposing"] == []


async def test_explanations_speak_of_named_attributes_only(both: Path, running: Running) -> None:
    async with running(bundle=both) as client:
        await client.post("/classes", json={"name": "x", "attributes": [0.9, 0.1, 0.4], "text": ELEPHANT})
        photo = {"content": tiny.photo(1), "headers": {"content-type": "image/png"}}
        answer = await client.post("/classify?explain=attributes&classes=x&classes=reddish", **photo)
        for prediction in answer.json()["results"][0]["predictions"]:
            explanation = prediction["explanation"]
            assert {c["attribute"] for c in explanation["supporting"] + explanation["opposing"]} <= set(tiny.NAMES)
            assert explanation["supporting"] or explanation["opposing"]


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a " * 11, "/text", "at most 12 tokens, which is what the text encoder reads, got 13"),
        (["sky", "a " * 20], "/text/1", "got 22"),
        ("", "/text", "empty"),
        (["sky", ""], "/text/1", "empty"),
        ([], "/text", "got an empty list"),
        (3, "/text", "got int"),
        (None, "/text", "got NoneType"),
        ({"a": "sky"}, "/text", "got dict"),
        (["sky", 3], "/text/1", "expected a text, got int"),
        (["sky"] * 21, "/text", "at most 20 texts, got 21"),
        ("qqq zzz", "/text", "words that the text encoder knows"),
        ("sky " * 1500, "/text", "at most 4000 characters, got 5999"),
    ],
)
async def test_refused_texts_are_named(both: Path, running: Running, text: Any, where: str, words: str) -> None:
    async with running(bundle=both) as client:
        answer = await client.post("/classes", json={"name": "x", "text": text})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:d3gzsl:problem:invalid-text")
        assert words in problems(answer)[where]
        assert (await client.get("/registry")).json()["registry_version"] == 0


async def test_everything_that_is_wrong_is_named_at_once(both: Path, running: Running) -> None:
    async with running(bundle=both) as client:
        answer = await client.post("/classes", json={"name": "", "attributes": {"rad": 1}, "text": ["", "sky"]})
        assert {"/name", "/attributes/rad", "/text/0"} <= set(problems(answer))
        batch = await client.post(
            "/classes:batch", json={"classes": [{"name": "a", "text": "sky"}, {"name": "b", "text": "a " * 11}]}
        )
        assert list(problems(batch)) == ["/classes/1/text"]
        assert "got 13" in problems(batch)["/classes/1/text"]


async def test_a_text_has_the_same_bits_in_any_company(both: Path, running: Running, tmp_path: Path) -> None:
    """Alone, in a batch, by PUT, and after a rollback; the digest of the log covers row and text."""
    document = {"id": "x", "name": "X", "text": ["the blue sky", ELEPHANT]}
    others = [{"name": f"o{i}", "text": text} for i, text in enumerate(("red", "a small grey stone and leaves"))]
    rows = []
    for number, register in enumerate(("post", "put", "batch", "rollback")):
        data_dir = tmp_path / str(number)
        async with running(bundle=both, data_dir=data_dir) as client:
            if register == "batch":
                answer = await client.post("/classes:batch", json={"classes": [others[0], document, others[1]]})
            elif register == "put":
                answer = await client.put("/classes/x", json=document)
            else:
                answer = await client.post("/classes", json=document)
            assert answer.status_code in (200, 201), answer.text
            if register == "rollback":
                await client.put("/classes/x", json={**document, "text": "red"})
                assert (await client.post("/registry:rollback", json={"version": 1})).status_code == 200
        rows.append(stored_row(both, data_dir, "x"))
    assert len(set(rows)) == 1


async def test_text_and_photos_go_together(both: Path, running: Running) -> None:
    async with running(bundle=both) as client:
        form = {"class": json.dumps({"id": "x", "name": "X", "text": ELEPHANT})}
        made = await client.post("/classes", data=form, files=[("examples", ("a.png", tiny.photo(1)))])
        assert made.status_code == 201, made.text
        assert (made.json()["examples"], made.json()["text"]) == (1, [ELEPHANT])
        more = await client.post("/classes/x/examples", files=[("images", ("b.png", tiny.photo(2)))])
        assert more.status_code in (200, 201), more.text
        assert (await client.get("/classes/x")).json()["text"] == [ELEPHANT]


async def test_encoding_runs_off_the_event_loop(both: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a text is encoded other requests are answered."""
    from model.text.encoder import TextEncoder

    going, go_on = threading.Event(), threading.Event()
    describe = TextEncoder.describe

    def slow(*arguments: Any) -> Any:
        going.set()
        assert go_on.wait(60)
        return describe(*arguments)

    async with running(bundle=both) as client:
        monkeypatch.setattr(TextEncoder, "describe", slow)
        for path, document in (
            ("/classes", {"name": "a", "text": "sky"}),
            ("/classes:batch", {"classes": [{"name": "b", "text": "sky"}]}),
            ("/classes:preview", {"name": "c", "text": "sky"}),
        ):
            going.clear()
            go_on.clear()
            waiting = asyncio.ensure_future(client.post(path, json=document))
            while not going.is_set():
                await asyncio.sleep(0.01)
            assert (await client.get("/healthz")).status_code == 200
            assert not waiting.done()
            go_on.set()
            assert (await waiting).status_code in (200, 201)


async def test_openapi_says_what_describes_a_class(
    both: Path, alone: Path, bundle_dir: Path, running: Running, tmp_path: Path
) -> None:
    found = {}
    for form, bundle in (("both", both), ("alone", alone), ("named", bundle_dir)):
        async with running(bundle=bundle, data_dir=tmp_path / form) as client:
            found[form] = (await client.get("/openapi.json")).json()["components"]["schemas"]["ClassDocument"]
    assert {form: "text" in schema["properties"] for form, schema in found.items()} == {
        "both": True,
        "alone": True,
        "named": False,
    }
    forms = {form: len(schema["properties"]["attributes"]["anyOf"]) for form, schema in found.items()}
    assert forms == {"both": 2, "alone": 1, "named": 2}


async def test_near_duplicates_know_texts(alone: Path, running: Running) -> None:
    async with running(bundle=alone) as client:
        await client.post("/classes", json={"id": "x", "name": "X", "text": ELEPHANT})
        again = await client.post("/classes", json={"id": "y", "name": "Y", "text": ELEPHANT})
        assert [n["class_id"] for n in again.json()["near_duplicates"]] == ["x"]
        assert again.json()["near_duplicates"][0]["attribute_cosine"] == pytest.approx(1, abs=1e-6)


def test_without_tokenizers_the_service_says_what_to_install(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(both)
    open_text_encoder(bundle, threads=1)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match="extra `text`"):
        open_text_encoder(bundle, threads=1)


def test_commands_know_texts(both: Path, tmp_path: Path, nursery: Nursery) -> None:
    table = tmp_path / "classes.csv"
    table.write_text("class,split,description,red,green,blue\nOwl,unseen,a small grey animal | leaves,0.1,0.2,0.3\n")
    with nursery.server(both, tmp_path / "data") as server:
        to = ["--url", server.url]
        added = command("classes", "add", "Elephant", "--describe", ELEPHANT, "--describe", "grey", *to)
        assert added.returncode == 0, added.stderr
        shown = command("classes", "show", "elephant", "--json", *to)
        assert json.loads(shown.stdout)["text"] == [ELEPHANT, "grey"]
        assert ELEPHANT in command("classes", "show", "elephant", *to).stdout
        previewed = command("classes", "preview", "Calf", "--describe", "a small grey animal", "--json", *to)
        assert json.loads(previewed.stdout)["text"] == ["a small grey animal"]
        imported = command("classes", "import", table, *to)
        assert imported.returncode == 0, imported.stderr
        owl = json.loads(command("classes", "show", "owl", "--json", *to).stdout)
        assert (owl["text"], owl["attributes"]) == (["a small grey animal", "leaves"], [0.1, 0.2, 0.3])
        refused = command("classes", "add", "Nothing", *to)
        assert refused.returncode == 2
        assert "--attributes, --like, --describe or --photos" in refused.stderr
    inspected = command("bundle", "inspect", both)
    assert "text, as 6 numbers, at most 12 tokens" in inspected.stdout

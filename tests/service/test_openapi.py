"""What the OpenAPI document says is what the server does, in both directions."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service.keys import digest
from tests.service.conftest import Client, Running
from tests.service.photos import PHOTOS, in_json

pytestmark = pytest.mark.anyio

TAGS = [
    *("", "*", '"a"', 'W/"a"', '"a", W/"b"', '"a","b"', "a", '"a" "b"', "*, *", '"a,b"', '"a",', "W/a", '""', '"a\tb"'),
]


async def openapi(client: Client) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


def parameter(document: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    (found,) = [p for p in document["paths"][path]["get"]["parameters"] if p["name"] == name]
    schema: dict[str, Any] = found["schema"]
    return next((s for s in schema.get("anyOf", []) if s.get("type") != "null"), schema)


async def test_a_service_without_keys_asks_for_none(running: Running) -> None:
    async with running(keys=f"admin:{digest('changer')}") as client:
        closed = await openapi(client)
    async with running() as client:
        opened = await openapi(client)
    assert "securitySchemes" in closed["components"]
    assert "securitySchemes" not in opened["components"]
    for path, operations in opened["paths"].items():
        for method, operation in operations.items():
            assert "security" not in operation, (method, path)
            assert "401" not in operation["responses"], (method, path)
            # Only changes are refused to pages of other origins.
            changes = method != "get" and path.startswith(("/classes", "/registry"))
            assert ("403" in operation["responses"]) is changes, (method, path)


async def test_cursors_tags_and_attributes_are_as_promised(client: Client) -> None:
    document = await openapi(client)
    for path in ("/classes", "/registry/versions"):
        schema = parameter(document, path, "cursor")
        for cursor in ("", "a b", "%%", "ä"):
            assert len(cursor) < schema["minLength"] or not re.search(schema["pattern"], cursor)
            assert (await client.get(path, params={"cursor": cursor})).status_code == 422
    for path in ("/classes", "/registry", "/classes/{class_id}"):
        for tags in TAGS:
            promised = re.search(parameter(document, path, "If-None-Match")["pattern"], tags) is not None
            answer = await client.get(path.replace("{class_id}", "bluish"), headers={"if-none-match": tags})
            assert (answer.status_code in (200, 304)) is promised, (path, tags)
    numbers, named = document["components"]["schemas"]["ClassDocument"]["properties"]["attributes"]["anyOf"]
    samples: list[Any] = [[], [1], [1, 0, 0], [0] * 4, {}, {"red": 1}, {"rad": 1}]
    for i, attributes in enumerate(samples):
        if isinstance(attributes, list):
            promised = numbers["minItems"] <= len(attributes) <= numbers["maxItems"]
        else:
            promised = len(attributes) >= named["minProperties"] and {*attributes} <= {*named["propertyNames"]["enum"]}
        answer = await client.post("/classes", json={"name": f"x{i}", "attributes": attributes})
        assert (answer.status_code == 201) is promised, attributes


async def test_a_class_needs_a_description_and_a_change_of_words_a_word(running: Running, with_photos: Path) -> None:
    photos = in_json(PHOTOS[:1])
    samples: list[dict[str, Any]] = [
        {},
        {"metadata": {"x": 1}},
        {"examples": []},
        {"examples": photos},
        {"like": "bluish"},
        {"attributes": {"red": 1}},
        {"attributes": [1, 0, 0], "examples": []},
    ]
    async with running(bundle=with_photos) as client:
        document = await openapi(client)

        def promised(schema: str, given: object) -> bool:
            return Draft202012Validator({**document, "$ref": f"#/components/schemas/{schema}"}).is_valid(given)

        for i, sample in enumerate(samples):
            given = {"id": f"x{i}", "name": "x", **sample}
            created = await client.post("/classes", json=given)
            assert (created.status_code == 201) is promised("DescribedDocument", given), given
            previewed = await client.post("/classes:preview", json=given)
            assert (previewed.status_code == 200) is promised("PreviewDocument", given), given
        for words in ({}, {"name": "y"}, {"metadata": {}}, {"name": ""}):
            changed = await client.patch("/classes/bluish", json=words)
            assert (changed.status_code == 200) is promised("ClassWords", words), words


@pytest.mark.parametrize("encoding", ["", "gzip", "GZip", "x-gzip", "identity", "Identity", "br", "gzip, gzip", "zip"])
async def test_encodings_are_as_promised(client: Client, encoding: str) -> None:
    document = await openapi(client)
    (parameter,) = [p for p in document["paths"]["/classify"]["post"]["parameters"] if p["name"] == "Content-Encoding"]
    promised = re.search(parameter["schema"]["pattern"], encoding) is not None
    body = gzip.compress(PHOTOS[0]) if "zip" in encoding.lower() else PHOTOS[0]
    answer = await client.post("/classify", content=body, headers={"content-encoding": encoding})
    assert (answer.status_code == 200) is promised


async def test_advice_about_seen_classes_can_be_followed(client: Client) -> None:
    document = {"id": "reddish", "name": "x", "attributes": [1, 0, 0]}
    created = await client.post("/classes", json=document)
    put = await client.put("/classes/reddish", json=document)
    assert (created.status_code, put.status_code) == (409, 409)
    assert "another id" in created.json()["detail"]
    assert "PUT" not in created.json()["detail"]
    assert "another id" in put.json()["detail"]
    batch = await client.post("/classes:batch", json={"classes": [document]})
    assert "another id" in batch.json()["errors"][0]["detail"]


async def test_a_version_far_ahead_is_refused_at_once(running: Running) -> None:
    async with running(deadline=0.05) as client:
        far = await client.get("/classes", params={"min_registry_version": 10**9})
        near = await client.get("/classes", params={"min_registry_version": 5})
    assert (far.status_code, near.status_code) == (503, 503)
    assert "at most 1000 versions are waited for" in far.json()["detail"]
    assert "after waiting for 0.05 seconds" in near.json()["detail"]


@pytest.mark.anyio
async def test_binary_outputs_and_long_heads_are_in_the_document(client: Client) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        answered = paths[path]["post"]["responses"]["200"]["content"]
        assert set(answered) == {"application/json", "application/octet-stream"}
    for operations in paths.values():
        for operation in operations.values():
            content = operation["responses"]["431"]["content"]
            assert content["application/problem+json"]["schema"]["$ref"].endswith("/ProblemDocument")

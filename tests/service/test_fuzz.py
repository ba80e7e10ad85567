"""Bad input of any kind is answered with a documented problem, never with 500.

What the OpenAPI document lets one make up is in tests/fuzz/api.py, and what reads files, forms and JSON in
tests/fuzz/targets.py; here is what neither sends: any method with any body, type, tensor or header.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http.problems import PROBLEM_TYPES
from service.settings import Settings
from tests.service.conftest import Client, running_app

pytestmark = pytest.mark.anyio

fuzz = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ROUTING = {"urn:d3gzsl:problem:not-found": 404, "urn:d3gzsl:problem:method-not-allowed": 405}
DOCUMENTED = {kind.type: kind.status for kind in PROBLEM_TYPES.values()} | ROUTING
OPENAPI: dict[str, Any] = {}
TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["id", "name", "attributes", "description", "metadata", "images", "data", "kind", "mode", "classes", "version"]
)
DOCUMENTS = st.dictionaries(FIELDS, JSON | st.lists(st.floats(), min_size=3, max_size=3), max_size=6) | JSON
TYPES = st.sampled_from(
    ["image/png", "image/", "application/json", "multipart/form-data; boundary=b", "multipart/form-data", "x", ""]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
PATHS = st.sampled_from(
    [
        "/classify",
        "/classes",
        "/classes/bluish",
        "/classes/reddish",
        "/classes/new",
        "/classes:batch",
        "/classes:preview",
        "/registry",
        "/registry/versions",
        "/registry:rollback",
    ]
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])


@pytest.fixture(scope="module")
async def app(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    chosen = Settings(bundle=bundle_dir, data_dir=tmp_path_factory.mktemp("fuzz"), threads=1, max_request_bytes=50_000)
    async with running_app(chosen) as client:
        OPENAPI.update((await client.get("/openapi.json")).json())
        yield client


def check(answer: httpx.Response) -> None:
    """The answer is a success or a 4xx problem of a known type, and the OpenAPI document promises its status."""
    method, path = answer.request.method, answer.request.url.path
    if method == "HEAD":
        assert answer.content == b""
        assert answer.status_code < 500
        return
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        body = answer.json()
        assert DOCUMENTED[body["type"]] == answer.status_code == body["status"] < 500, body
        if body["type"] in ROUTING:
            return
    operation = OPENAPI["paths"]["/classes/{class_id}" if path.startswith("/classes/") else path][method.lower()]
    assert str(answer.status_code) in operation["responses"], answer.text


@fuzz
@given(METHODS, PATHS, DOCUMENTS)
async def test_any_json(app: Client, method: str, path: str, document: object) -> None:
    content = json.dumps(document).encode()
    check(await app.request(method, path, content=content, headers={"content-type": "application/json"}))


@fuzz
@given(METHODS, PATHS, st.binary(max_size=200), TYPES)
async def test_any_bytes(app: Client, method: str, path: str, body: bytes, kind: str) -> None:
    check(await app.request(method, path, content=body, headers={"content-type": kind}))


V2_FIELDS = st.sampled_from(["id", "name", "shape", "datatype", "data", "parameters", "outputs", "binary_data_size"])
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image_bytes", "pixels"]) | TEXT,
        "shape": st.lists(st.integers(-1, 3), max_size=5) | st.just([1, 3, 8, 8]) | st.lists(st.integers(), max_size=3),
        "datatype": st.sampled_from(["BYTES", "FP32"]) | TEXT,
    },
    optional={"data": JSON | st.lists(JSON, max_size=4), "parameters": st.dictionaries(V2_FIELDS, JSON, max_size=2)},
)
INFERS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, min_size=1, max_size=1) | JSON}, optional={"parameters": JSON, "outputs": JSON}
)


@fuzz
@given(INFERS, st.binary(max_size=12), st.sampled_from([None, -4, 0, 4]) | TEXT, st.booleans())
async def test_any_tensors(
    app: Client, document: dict[str, Any], raw: bytes, shift: int | str | None, own: bool
) -> None:
    if own and isinstance(document["inputs"], list) and isinstance(next(iter(document["inputs"]), None), dict):
        document["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(document).encode()
    length = str(len(head) + shift) if isinstance(shift, int) else shift
    headers = [] if length is None else [(b"inference-header-content-length", length.encode())]
    answer = await app.post("/v2/models/d3gzsl/infer", content=head + raw, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert list(answer.json()) == ["error"]


@fuzz
@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40), METHODS)
async def test_any_precondition_and_host(app: Client, value: str, method: str) -> None:
    for header in ("if-match", "if-none-match", "host", "origin", "authorization", "content-length"):
        raw = [(header.encode(), value.encode("latin-1")), (b"content-type", b"application/json")]
        check(await app.request(method, "/classes/bluish", headers=raw, content=b'{"name": "x"}'))

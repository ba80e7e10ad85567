"""Errors of every kind, as clients see them, and what the OpenAPI document promises about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from model import errors as base
from model.errors import D3GZSLError
from service import errors as own
from service.errors import StorageError
from service.http.problems import PROBLEM_TYPES, problem_type_of
from service.keys import digest
from service.server.app import create_app
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Client, Running
from tests.service.tiny import VIOLET, png

RED = {"content": png((255, 0, 0)), "headers": {"content-type": "image/png"}}
ROUTES = [
    ("POST", "/classify"),
    ("GET", "/classes"),
    ("GET", "/classes/{class_id}"),
    ("POST", "/classes"),
    ("PUT", "/classes/{class_id}"),
    ("PATCH", "/classes/{class_id}"),
    ("DELETE", "/classes/{class_id}"),
    ("GET", "/classes/{class_id}/examples"),
    ("POST", "/classes/{class_id}/examples"),
    ("DELETE", "/classes/{class_id}/examples/{example_id}"),
    ("GET", "/attributes"),
    ("GET", "/bundle/examples"),
    ("GET", "/bundle/examples/{name}"),
    ("POST", "/classes:batch"),
    ("POST", "/classes:preview"),
    ("GET", "/registry"),
    ("GET", "/registry/versions"),
    ("POST", "/registry:rollback"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{model}"),
    ("GET", "/v2/models/{model}/ready"),
    ("GET", "/v2/models/{model}/versions/{version}"),
    ("GET", "/v2/models/{model}/versions/{version}/ready"),
    ("POST", "/v2/models/{model}/infer"),
    ("POST", "/v2/models/{model}/versions/{version}/infer"),
]


def subclasses(cls: type[D3GZSLError]) -> Iterator[type[D3GZSLError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_of_a_request_has_a_status_of_its_own() -> None:
    at_start_only = {own.SettingsError, base.BundleError, base.DataError, base.MissingDependencyError}
    abstract = {base.ImageError, own.AccessError, own.ClassError, own.UnavailableError}
    mapped = [e for e in subclasses(D3GZSLError) if e.__module__ in (base.__name__, own.__name__)]
    for error in set(mapped) - at_start_only - abstract:
        assert any(cls in PROBLEM_TYPES for cls in error.__mro__[:-4]), error
    names = [kind.name for kind in PROBLEM_TYPES.values()]
    assert len(set(names)) == len(names)


def test_the_nearest_base_decides() -> None:
    assert problem_type_of(StorageError("x")) is PROBLEM_TYPES[own.RegistryError]
    assert problem_type_of(base.DataError("x")) is PROBLEM_TYPES[base.InvalidInputError]
    assert problem_type_of(ValueError("x")).status == 500


@pytest.mark.anyio
async def test_unknown_paths_and_methods(client: Client) -> None:
    for path in ("/nope", "/classes/", "/classes/a/b", "/classes:nope"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:d3gzsl:problem:not-found"), path
    answer = await client.delete("/classify")
    assert (answer.status_code, answer.json()["type"]) == (405, "urn:d3gzsl:problem:method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.anyio
async def test_a_method_that_is_not_there_is_told_which_are(client: Client) -> None:
    for path, allowed in {
        "/classes": {"GET", "HEAD", "POST"},
        "/classes/bluish": {"GET", "HEAD", "PUT", "PATCH", "DELETE"},
        "/registry": {"GET", "HEAD"},
        "/registry/versions": {"GET", "HEAD"},
        "/registry:rollback": {"POST"},
        "/classes:batch": {"POST"},
        "/docs": {"GET", "HEAD"},
        "/classify": {"POST"},
        "/docs/assets/swagger-ui.css": {"GET", "HEAD"},
    }.items():
        answer = await client.request("PURGE", path)
        assert (answer.status_code, answer.json()["type"]) == (405, "urn:d3gzsl:problem:method-not-allowed")
        assert set(answer.headers["allow"].split(", ")) == allowed, path


@pytest.mark.anyio
async def test_head_is_get_without_the_body(client: Client) -> None:
    pages = (
        "/classes",
        "/classes/bluish",
        "/attributes",
        "/registry",
        "/registry/versions",
        "/healthz",
        "/readyz",
        "/version",
        "/docs",
        "/",
    )
    for path in (*pages, "/openapi.json", "/classes/nobody", "/nope", "/classify"):
        head, get = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        kept = ("content-type", "content-length", "etag", "location", "allow", "registry-version")
        assert [head.headers.get(name) for name in kept] == [get.headers.get(name) for name in kept], path
    tag = (await client.head("/classes/bluish")).headers["etag"]
    assert (await client.head("/classes/bluish", headers={"if-none-match": tag})).status_code == 304


@pytest.mark.anyio
async def test_requests_have_ids(client: Client) -> None:
    assert (await client.get("/nope", headers={"x-request-id": "abc-1"})).json()["request_id"] == "abc-1"
    assert (await client.get("/healthz", headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    made = [
        (await client.get("/nope", headers={"x-request-id": bad})).json()["request_id"]
        for bad in (b"a b", b"\xff", b"a" * 129, b"")
    ]
    assert len(set(made)) == len(made)
    assert all(len(request_id) == 32 for request_id in made)


@pytest.mark.anyio
async def test_a_bug_is_answered_without_its_words(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as client:
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        monkeypatch.setattr(transport, "raise_app_exceptions", False)
        service: Service = transport.app.state.service  # type: ignore[attr-defined]
        monkeypatch.setattr(type(service), "snapshot", property(lambda _: {}["secret"]))
        answer = await client.get("/classes")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:d3gzsl:problem:internal-error")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert "secret" not in answer.text


@pytest.mark.anyio
async def test_a_disk_that_refuses_changes_nothing(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as client:
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        service: Service = transport.app.state.service  # type: ignore[attr-defined]

        def full(*_: object, **__: object) -> int:
            raise StorageError("/secret/registry.sqlite3: disk full")

        with monkeypatch.context() as patched:
            patched.setattr(service.log, "appending", full)
            answer = await client.post("/classes", json={"name": "v", "attributes": list(VIOLET)})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:d3gzsl:problem:registry-unavailable")
        assert "secret" not in answer.text
        assert "retry-after" in answer.headers
        assert (await client.get("/classes/v")).status_code == 404
        assert (await client.post("/classify", **RED)).json()["registry_version"] == 0
        assert (await client.post("/classes", json={"name": "v", "attributes": list(VIOLET)})).status_code == 201


@pytest.mark.anyio
async def test_health_and_build(client: Client) -> None:
    assert (await client.get("/healthz")).json() == {"status": "live"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    version = (await client.get("/version")).json()
    assert version["backbone"] == "tiny.onnx"
    assert version["bundle"] == (await client.get("/registry")).json()["bundle"]
    registry = (await client.get("/registry")).json()
    assert registry["registry_version"] == 0
    assert registry["classes"] == {"seen": 2, "unseen": 1}
    assert registry["database"] == "sqlite"
    attributes = (await client.get("/attributes")).json()["attributes"]
    assert attributes[0] == {"name": "red", "min": 0.0, "max": 1.0, "mean": pytest.approx(1 / 3)}
    assert [a["name"] for a in attributes] == ["red", "green", "blue"]


@pytest.mark.anyio
async def test_a_dead_worker_is_not_ready_but_live(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as client:
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        service: Service = transport.app.state.service  # type: ignore[attr-defined]
        await service.batcher.stop()
        for answer in (await client.get("/readyz"), await client.post("/classify", **RED)):
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:d3gzsl:problem:not-ready")
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.anyio
async def test_docs_need_no_other_server(client: Client) -> None:
    page = (await client.get("/docs")).text
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"docs/assets/{asset}" in page
        answer = await client.get(f"/docs/assets/{asset}")
        assert answer.status_code == 200
        assert len(answer.content) > 100_000


@pytest.fixture(scope="module")
def document(bundle_dir: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    keys = f"admin:{digest('changer')}"
    settings = Settings(bundle=bundle_dir, data_dir=tmp_path_factory.mktemp("docs"), threads=1, keys=keys)
    service = Service.open(settings)
    app = create_app(service)
    service.close()
    return app.openapi()


def test_openapi_has_every_route(document: dict[str, Any]) -> None:
    found = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert found == set(ROUTES)


def test_openapi_references_all_exist(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    names = [part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]]
    assert names
    assert set(names) <= set(schemas)
    assert "HTTPValidationError" not in schemas
    assert "$defs" not in text


def test_openapi_has_the_three_bodies_and_problems_everywhere(document: dict[str, Any]) -> None:
    body = document["paths"]["/classify"]["post"]["requestBody"]
    assert set(body["content"]) == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
    for method, path in ROUTES:
        operation = document["paths"][path][method.lower()]
        assert operation["summary"]
        if method in ("POST", "PUT", "PATCH"):
            assert operation["requestBody"]["required"]
        for status, response in operation["responses"].items():
            assert response["description"], (method, path, status)
            if int(status) >= 400:
                v2 = path.startswith("/v2") and status != "431"  # which is answered before the path is looked at
                assert set(response["content"]) == {"application/json" if v2 else "application/problem+json"}
                HTTPStatus(int(status))
        public = path in ("/healthz", "/readyz", "/version", "/v2/health/live", "/v2/health/ready")
        assert ("401" in operation["responses"]) is not public
        assert ("security" in operation) is not public

from __future__ import annotations

import pytest

from service.http.access import host_allowed, same_origin
from service.keys import digest
from tests.service.conftest import Client, Running
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

RED = {"content": png((255, 0, 0)), "headers": {"content-type": "image/png"}}
CLASS = {"name": "Grey", "attributes": [0.5, 0.5, 0.5]}
KEYS = f"classify:{digest('asker')},admin:{digest('changer')}"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("Service.Example:80", True),
        ("service.example.evil.org", False),
        ("evil.org", False),
        ("192.0.2.1", False),
        ("", False),
        ("[::1", False),
        ("localhost@evil.org", False),
    ],
)
def test_host_names(host: str, allowed: bool) -> None:
    assert host_allowed(host, ["service.example"]) is allowed
    assert host_allowed(host, ["*"])


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("http://a.example:80", "a.example", True),
        ("http://a.example:8080", "a.example", False),
        ("http://evil.org", "localhost:8000", False),
        ("http://localhost:3000", "localhost:8000", False),
        ("null", "localhost", False),
        ("", "", False),
        ("http://[::1", "localhost", False),
        ("file://localhost", "localhost", False),
    ],
)
def test_origins(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


async def test_without_keys_everything_is_open(client: Client) -> None:
    assert (await client.post("/classify", **RED)).status_code == 200
    assert (await client.post("/classes", json=CLASS)).status_code == 201


async def test_keys_and_roles(running: Running) -> None:
    async with running(keys=KEYS) as client:
        for method, path in (("GET", "/classes"), ("GET", "/attributes"), ("GET", "/registry"), ("POST", "/classify")):
            answer = await client.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == "urn:d3gzsl:problem:key-needed"
            assert (await client.request(method, path, headers=bearer("wrong"))).status_code == 401
        for key in ("asker", "changer"):
            assert (await client.get("/classes", headers=bearer(key))).status_code == 200
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            path = "/classes" if method == "POST" else "/classes/grey"
            assert (await client.request(method, path, json=CLASS)).status_code == 401
            refused = await client.request(method, path, json=CLASS, headers=bearer("asker"))
            assert (refused.status_code, refused.json()["type"]) == (403, "urn:d3gzsl:problem:role-needed")
        assert (await client.post("/classes", json=CLASS, headers=bearer("changer"))).status_code == 201
        for path in ("/healthz", "/readyz", "/version", "/", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path


EVERYTHING = [
    ("GET", "/classes"),
    ("GET", "/classes/bluish"),
    ("GET", "/attributes"),
    ("GET", "/registry"),
    ("GET", "/registry/versions"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/"),
    ("GET", "/v2"),
    ("GET", "/v2/models/d3gzsl"),
    ("POST", "/v2/models/d3gzsl/infer"),
    ("POST", "/classify"),
    ("POST", "/classes"),
    ("POST", "/classes:batch"),
    ("POST", "/classes:preview"),
    ("PUT", "/classes/grey"),
    ("PATCH", "/classes/bluish"),
    ("DELETE", "/classes/bluish"),
    ("POST", "/registry:rollback"),
]


@pytest.mark.parametrize("keys", ["", KEYS])
async def test_everything_but_health_needs_an_allowed_host(running: Running, keys: str) -> None:
    async with running(allowed_hosts="zoo.example", keys=keys) as client:
        for method, path in EVERYTHING:
            for host in ("rebound.example", ""):
                refused = await client.request(method, path, json=CLASS, headers={"host": host, **bearer("changer")})
                assert refused.status_code == 421, path
                assert "D3GZSL_ALLOWED_HOSTS" in refused.text
        assert refused.json()["type"] == "urn:d3gzsl:problem:host-not-allowed"
        named = {"host": "zoo.example:80", **bearer("changer")}
        assert (await client.get("/classes", headers=named)).status_code == 200
        assert (await client.post("/classes", json=CLASS, headers=named)).status_code == 201
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path, headers={"host": "10.0.0.7:8000"})).status_code == 200


async def test_changes_by_pages_of_other_origins_are_refused(client: Client) -> None:
    refused = await client.post("/classes", json=CLASS, headers={"origin": "http://evil.example"})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:d3gzsl:problem:other-origin")
    assert (await client.delete("/classes/bluish", headers={"origin": "null"})).status_code == 403
    assert (await client.post("/classes", json=CLASS, headers={"origin": "http://localhost"})).status_code == 201


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("path", ["/classes:batch", "/registry:rollback", "/classes"])
async def test_changes_need_json(client: Client, path: str, kind: str) -> None:
    """But for a class, which may come as a form with photos."""
    refused = await client.post(path, content=b"{}", headers={"content-type": kind})
    if (path, kind) == ("/classes", "multipart/form-data"):
        assert refused.status_code == 400
    else:
        assert (refused.status_code, refused.json()["type"]) == (415, "urn:d3gzsl:problem:unsupported-media-type")


async def test_metrics_are_given_under_any_address_and_no_other_name(running: Running) -> None:
    async with running() as client:
        for host in ("10.0.0.7:8000", "[fd00::7]:8000", "10.0.0.7"):
            assert (await client.get("/metrics", headers={"host": host})).status_code == 200, host
            assert (await client.get("/classes", headers={"host": host})).status_code == 421, host
        for host in ("rebound.example", "10.0.0.7.rebound.example", "", "1"):
            assert (await client.get("/metrics", headers={"host": host})).status_code == 421, host
    async with running(keys=KEYS) as client:
        assert (await client.get("/metrics", headers={"host": "10.0.0.7"})).status_code == 401

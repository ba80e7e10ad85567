from __future__ import annotations

import logging

import pytest

from service.errors import SettingsError
from service.inference.fairness import Rates
from service.keys import digest
from service.settings import load_settings
from tests.service.conftest import Running
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

GREY = {"name": "Grey", "attributes": [0.5, 0.5, 0.5]}
PAGE = "https://zoo.example"


def test_a_bucket_gives_what_is_left_and_says_how_long_to_wait() -> None:
    now = 0.0
    rates = Rates(rate=2.0, burst=3, clock=lambda: now)
    assert [rates.wait("a") for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert rates.wait("b") == 0
    now = 0.5
    assert [rates.wait("a"), rates.wait("a")] == [0, 0.5]
    now = 100.0
    assert [rates.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_bucket_against_a_plain_count() -> None:
    """At any moment no more than the burst plus the rate times the time has been granted, and no less where asked."""
    now, granted = 0.0, 0
    rates = Rates(rate=8.0, burst=4, clock=lambda: now)
    for step in range(500):
        now = step / 64
        granted += rates.wait("a") == 0
        assert granted == min(step + 1, 4 + int(now * 8))


def test_only_so_many_clients_are_remembered() -> None:
    rates = Rates(rate=1.0, burst=1, clock=lambda: 0.0)
    for i in range(10_001):
        assert rates.wait(str(i)) == 0
    assert rates.wait("10000") == 1
    assert rates.wait("0") == 0


async def test_who_asks_too_often_is_told_when_to_come_back(running: Running) -> None:
    keys = f"admin:{digest('one')},admin:{digest('other')}"
    async with running(keys=keys, rate_limit=0.01, rate_burst=3) as client:
        first = {"authorization": "Bearer one"}
        for _ in range(3):
            assert (await client.get("/classes", headers=first)).status_code == 200
        refused = await client.get("/classes", headers=first)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:d3gzsl:problem:too-many-requests")
        assert 0 < int(refused.headers["retry-after"]) <= 100
        assert (await client.get("/classes", headers={"authorization": "Bearer other"})).status_code == 200
        statuses = [
            (await client.get("/classes", headers={"authorization": f"Bearer {i}"})).status_code for i in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]  # unknown keys share the bucket of their address
        assert (await client.get("/healthz")).status_code == 200


async def test_the_document_says_429_only_where_it_is_answered(running: Running) -> None:
    async with running() as client:
        document = (await client.get("/openapi.json")).json()
        assert all("429" not in o["responses"] for path in document["paths"].values() for o in path.values())
    async with running(rate_limit=100.0) as client:
        document = (await client.get("/openapi.json")).json()
        assert "429" in document["paths"]["/classify"]["post"]["responses"]


async def test_pages_of_named_origins_may_use_it(running: Running) -> None:
    async with running(cors_origins=PAGE) as client:
        asked = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "if-match"}
        allowed = await client.options("/classes", headers=asked)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        made = await client.post("/classes", json=GREY, headers={"origin": PAGE})
        assert (made.status_code, made.headers["access-control-allow-origin"]) == (201, PAGE)
        assert "Registry-Version" in made.headers["access-control-expose-headers"]
        for origin in ("https://evil.example", "https://zoo.example.evil.org", "http://zoo.example"):
            other = await client.options("/classes", headers={**asked, "origin": origin})
            assert (other.status_code, "access-control-allow-origin" in other.headers) == (400, False)
            assert (await client.post("/classes", json=GREY, headers={"origin": origin})).status_code == 403


async def test_by_default_no_other_page_reads_answers(running: Running) -> None:
    async with running() as client:
        answer = await client.get("/classes", headers={"origin": PAGE})
        assert "access-control-allow-origin" not in answer.headers
        for path in ("/classes", "/nowhere", "/docs", "/healthz", "/v2"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["x-frame-options"] == "DENY", path
            assert headers["referrer-policy"] == "no-referrer", path
            assert headers["cross-origin-resource-policy"] == "same-origin", path
            assert "default-src 'none'" in headers["content-security-policy"], path
            assert "'unsafe-inline'" not in headers["content-security-policy"].partition("style-src")[0], path


async def test_the_address_is_the_proxys_word_only_where_it_is_trusted(running: Running) -> None:
    """httpx's transport calls from 127.0.0.1."""
    for trusted, buckets in (("", 1), ("10.0.0.0/8", 1), ("127.0.0.0/8", 3), ("*", 3)):
        async with running(rate_limit=0.001, rate_burst=1, trusted_proxies=trusted) as client:
            sent = [{"x-forwarded-for": f"203.0.113.{i}"} for i in range(3)]
            statuses = [(await client.get("/registry", headers=headers)).status_code for headers in sent]
            assert statuses.count(200) == buckets, trusted


async def test_under_a_prefix_with_a_proxy_that_cuts_it_and_one_that_does_not(running: Running) -> None:
    async with running(root_path="/zoo") as client:
        made = await client.post("/classes", json=GREY)
        assert made.headers["location"] == "/zoo/classes/grey"
        for path in ("/classes/grey", "/zoo/classes/grey", "/zoo/docs/assets/swagger-ui.css", "/zoo/healthz"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/zoo/nowhere")).status_code == 404
        counted = (await client.get("/zoo/metrics")).text
        for route in ("/classes/{class_id}", "/docs/assets/", "none"):
            assert f'route="{route}"' in counted, route
        assert 'route="/zoo' not in counted
        document = (await client.get("/zoo/openapi.json")).json()
        assert document["servers"] == [{"url": "/zoo"}]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cors_origins", "*", "expected an origin"),
        ("cors_origins", "https://zoo.example/", "expected an origin"),
        ("cors_origins", "zoo.example", "expected an origin"),
        ("trusted_proxies", "proxy", "expected an address"),
        ("trusted_proxies", "10.0.0.1/8", "host bits"),
        ("root_path", "zoo", "pattern"),
        ("root_path", "/zoo/", "pattern"),
    ],
)
def test_settings_that_cannot_be(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**{name: value})
    (problem,) = caught.value.problems
    assert problem.pointer == f"--{name.replace('_', '-')}"
    assert said in problem.detail


async def test_who_changed_what_is_told(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(keys=f"admin:{digest('k')} id=ada") as client:
        headers = {"authorization": "Bearer k"}
        with caplog.at_level(logging.INFO, "d3gzsl.audit"):
            await client.post("/classes", json=GREY, headers=headers)
            await client.post("/registry:rollback", json={"version": 0}, headers=headers)
        history = (await client.get("/registry/versions", headers=headers)).json()["versions"]
        assert [(v["operation"], v["author"]) for v in history] == [("put", "key ada"), ("rollback", "key ada")]
    told = [record.getMessage() for record in caplog.records if record.name == "d3gzsl.audit"]
    assert told == [f"version {i} of the registry, by key ada: 1 classes changed: grey" for i in (1, 2)]
    async with running() as client:
        await client.post("/classes", json=GREY)
        history = (await client.get("/registry/versions")).json()["versions"]
        assert history[-1]["author"] == "127.0.0.1"


async def test_many_images_are_one_request(running: Running) -> None:
    async with running(rate_limit=0.001, rate_burst=1) as client:
        files = [("images", (f"{i}.png", png((i, 0, 0)), "image/png")) for i in range(5)]
        assert len((await client.post("/classify", files=files)).json()["results"]) == 5

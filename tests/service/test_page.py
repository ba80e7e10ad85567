"""GET / and the files of the page, as every client gets them; tests/browser/ walks it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from asgi_lifespan import LifespanManager
from starlette.applications import Starlette
from starlette.routing import Mount

from service.http.routes.page import FOLDER, page_files
from service.server.app import create_app
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Client, Running
from tests.service.tiny import png

pytestmark = pytest.mark.anyio

MOST_BYTES = 120_000
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
ASSETS = [name for name in FILES if name != "index.html"]


def linked(html: str) -> list[str]:
    """What a page loads."""
    return re.findall(r'(?:src|href)="([^"#]+)"', html)


async def test_the_page_is_at_the_root_and_loads_from_nowhere_else(client: Client) -> None:
    answer = await client.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = linked(answer.text)
    assert links
    for link in links:
        assert not re.match(r"[a-z]+:|/", link), f"{link} does not hold under a prefix"
        assert (await client.get(f"/{link}")).status_code == 200, link


async def test_what_the_page_may_do_is_said_strictly(client: Client) -> None:
    for path in ("/", *(f"/page/{name}" for name in ASSETS)):
        headers = (await client.get(path)).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    html = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", html) == []
    for name in FILES:
        text = (FOLDER / name).read_text()
        text = text.replace("http://www.w3.org/2000/svg", "").replace("http://ADDRESS/classify", "")
        assert (
            re.findall(r"https?://[^\s\"']*|innerHTML|outerHTML|insertAdjacentHTML|\beval\(|@import|url\(", text) == []
        ), name


def test_the_page_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) <= MOST_BYTES


@pytest.mark.parametrize("name", ASSETS)
async def test_each_file_has_its_type_and_tag(client: Client, name: str) -> None:
    answer = await client.get(f"/page/{name}")
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    assert (answer.status_code, answer.headers["content-type"]) == (200, kinds[Path(name).suffix])
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["cache-control"] == "no-cache"
    tag = answer.headers["etag"]
    same = await client.get(f"/page/{name}", headers={"if-none-match": f'"other", W/{tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert "content-security-policy" in same.headers
    assert (await client.get(f"/page/{name}", headers={"if-none-match": '"other"'})).status_code == 200
    head = await client.head(f"/page/{name}")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)


def test_tags_follow_the_contents(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    file = tmp_path / "scripts" / "a.js"
    file.write_text("1")
    before = page_files(tmp_path)["scripts/a.js"]
    file.write_text("2")
    after = page_files(tmp_path)["scripts/a.js"]
    assert before.etag != after.etag
    assert (before.content, after.content) == (b"1", b"2")


@pytest.mark.parametrize(
    "path", ["/page/nothing.js", "/page/", "/page/index.html", "/page/../settings.py", "/page/%2e%2e/routes/page.py"]
)
async def test_no_other_file_is_answered(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:d3gzsl:problem:not-found")


async def test_the_page_takes_no_other_method(client: Client) -> None:
    for path in ("/", "/page/icon.svg"):
        answer = await client.post(path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_the_page_needs_no_key(running: Running) -> None:
    async with running(keys=f"admin:{'0' * 64}") as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/page/scripts/app.js")).status_code == 200
        assert (await client.get("/bundle/examples")).status_code == 401
        assert (await client.get("/bundle/examples/red.png")).status_code == 401


async def test_under_a_prefix(bundle_dir: Path, tmp_path: Path) -> None:
    app = create_app(Service.open(Settings(bundle=bundle_dir, data_dir=tmp_path, threads=1)))
    outer = Starlette(routes=[Mount("/zoo", app=app)])
    transport = httpx.ASGITransport(app=outer)
    async with LifespanManager(app), Client(transport=transport, base_url="http://localhost") as client:
        page = await client.get("/zoo/")
        assert page.status_code == 200
        for link in linked(page.text):
            assert (await client.get(f"/zoo/{link}")).status_code == 200, link


async def test_under_root_path(running: Running) -> None:
    async with running(root_path="/zoo") as client:
        bare = await client.get("/zoo")
        assert (bare.status_code, bare.headers["location"]) == (307, "/zoo/")
        for prefix in ("/zoo/", "/"):  # whether or not the proxy cuts it off
            page = await client.get(prefix)
            for link in linked(page.text):
                assert (await client.get(prefix + link)).status_code == 200, link


# --- what the page needs of the API -----------------------------------------------------------------------------------


async def test_the_bundles_examples(client: Client) -> None:
    assert (await client.get("/bundle/examples")).json() == {
        "examples": [
            {"name": "red.png", "class_id": "reddish", "class_name": "Reddish", "known": True, "attributes": None}
        ]
    }
    image = await client.get("/bundle/examples/red.png")
    assert (image.content, image.headers["content-type"]) == (png((255, 0, 0)), "image/png")
    assert image.headers["content-security-policy"] == "default-src 'none'; sandbox"
    tag = image.headers["etag"]
    same = await client.get("/bundle/examples/red.png", headers={"if-none-match": tag})
    assert (same.status_code, same.content) == (304, b"")
    missing = await client.get("/bundle/examples/manifest.json")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:d3gzsl:problem:not-found")
    assert "manifest.json" in missing.json()["detail"]


async def test_examples_of_classes_that_are_not_there(running: Running, tmp_path: Path) -> None:
    async with running(bundle=None, data_dir=tmp_path / "demo") as client:
        (example,) = [
            e
            for e in (await client.get("/bundle/examples")).json()["examples"]
            if e["name"] == "blue-dotted-circle.jpg"
        ]
        assert example["known"] is False
        document = {"id": example["class_id"], "name": example["class_name"], "attributes": example["attributes"]}
        version = (await client.post("/classes", json=document)).json()["registry_version"]
        found = await client.get("/bundle/examples", params={"min_registry_version": version})
        assert {e["name"]: e["known"] for e in found.json()["examples"]}["blue-dotted-circle.jpg"] is True


async def test_how_many_photos_a_class_may_have(client: Client) -> None:
    assert (await client.get("/attributes")).json()[
        "max_examples"
    ] == 0  # this bundle was exported without their numbers


async def test_the_history_newest_first(client: Client) -> None:
    for i in range(5):
        await client.post("/classes", json={"id": f"c{i}", "name": f"c{i}", "attributes": [0.1 * i, 0.5, 0.5]})
    pages, cursor = [], {}
    while True:
        page = (await client.get("/registry/versions", params={"order": "newest", "limit": 2, **cursor})).json()
        pages.append([(v["registry_version"], v["class_ids"]) for v in page["versions"]])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [[(5, ["c4"]), (4, ["c3"])], [(3, ["c2"]), (2, ["c1"])], [(1, ["c0"])]]
    wrong = await client.get("/registry/versions", params={"order": "random"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/query/order")

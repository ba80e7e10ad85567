from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from service.errors import SettingsError
from service.keys import ACTIONS, Keys, digest, key_of, moment
from service.settings import Settings
from tests.service.conftest import Client, Running
from tests.service.nursery import Nursery
from tests.service.processes import command

PUBLIC = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/version", "/docs", "/openapi.json", "/"}
PUBLIC |= {"/page/{path:path}"}  # files of the page at /
"""What is answered without a key, whoever asks."""
HASH = digest("k")


def ran(*arguments: object, **variables: str) -> str:
    result = command(*arguments, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def failed(*arguments: object, **variables: str) -> str:
    result = command(*arguments, **variables)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    return " ".join(result.stderr.split())


def test_what_a_line_says() -> None:
    plain = key_of(f"admin:{HASH}")
    assert (plain.id, plain.name, plain.actions, plain.expires) == (HASH[:8], "", ACTIONS["admin"], None)
    full = key_of(f"classify:{HASH} expires=2027-01-31 id=door-1 'name=front door' actions=classify")
    assert (full.id, full.name, full.actions) == ("door-1", "front door", {"classify"})
    assert full.expires == datetime(2027, 2, 1, tzinfo=UTC)
    assert key_of(full.line()) == full
    assert key_of(plain.line()) == plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("id=", "1 to 32"),
        ("id=a/b", "1 to 32"),
        ("name=a,b", "without comma"),
        (f"name={'a' * 101}", "at most 100"),
        ("expires=soon", "expected a date"),
        ("expires=2027-13-01", "expected a date"),
        ("actions=classes", "for the role classify"),
        ("actions=", "for the role classify"),
        ("id=a id=b", "given twice"),
        ("owner=me", "got 'owner=me'"),
        ("'name=open", "No closing quotation"),
    ],
)
def test_what_a_line_may_not_say(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        key_of(f"classify:{HASH} {words}")


def test_moments() -> None:
    now = datetime(2026, 11, 27, 12, 0, 0, 5, UTC)
    assert moment("90d", now=now) == datetime(2027, 2, 25, 12, tzinfo=UTC)
    assert moment("2026-11-27T10:00") == datetime(2026, 11, 27, 10, tzinfo=UTC)
    assert moment("2026-11-27T10:00+02:00") == datetime(2026, 11, 27, 8, tzinfo=UTC)


def test_two_keys_with_one_id_are_refused() -> None:
    settings = Settings(keys=f"classify:{HASH} id=a,admin:{digest('other')} id=a")
    with pytest.raises(SettingsError) as caught:
        Keys.from_settings(settings)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.detail) == ("D3GZSL_KEYS, key 2", "another key has the id a already")


def test_keys_are_read_again_and_never_end_in_none(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"admin:{digest('old')}")
    settings = Settings(keys_file=file)
    keys = Keys.from_settings(settings)
    assert not keys.changed(settings)
    file.write_text(f"admin:{digest('new')}\nclassify:{digest('asker')}")
    assert keys.changed(settings)
    keys.reload(settings)
    assert [known and known.role for known in map(keys.find, ("old", "new", "asker"))] == [None, "admin", "classify"]
    for text, words in (("nonsense", "expected classify:<sha256>"), ("# none", "everybody could change classes")):
        file.write_text(text)
        with pytest.raises(SettingsError, match=words):
            keys.reload(settings)
        assert keys.find("new") is not None
        assert not keys.changed(settings)  # told once
    file.unlink()
    assert keys.changed(settings)


def routes(client: Client) -> Iterator[tuple[str, str, bool]]:
    """Method, path and whether it changes something, of every operation of the app that needs a key."""
    app: Any = client._transport.app  # type: ignore[attr-defined]
    parts = [route.original_router.routes if hasattr(route, "original_router") else [route] for route in app.routes]
    for route in (route for part in parts for route in part if isinstance(route, APIRoute)):
        if route.path not in PUBLIC:
            path = route.path.format(class_id="bluish", example_id="0" * 64, model="d3gzsl", version="1", name="a.png")
            for method in sorted(route.methods):
                yield method, path, method != "GET" and not path.endswith(("/infer", "/classify"))


@pytest.mark.anyio
async def test_no_operation_without_the_key_for_it(running: Running, tmp_path: Path) -> None:
    """Over the whole table of routes, so that a new one cannot be forgotten."""
    file = tmp_path / "keys"
    known = f"admin:{digest('changer')}\nclassify:{digest('asker')}\n"
    ended = f"admin:{digest('late')} expires=2026-01-01\n"
    file.write_text(known + ended + f"admin:{digest('revoked')}\n")
    async with running(keys_file=file) as client:
        app: Any = client._transport.app  # type: ignore[attr-defined]
        service = app.state.service
        assert (await client.get("/registry", headers={"authorization": "Bearer revoked"})).status_code == 200
        file.write_text(known + ended)
        service.follow_keys()
        before = (await client.get("/registry", headers={"authorization": "Bearer asker"})).json()
        found = list(routes(client))
        assert len(found) >= 20
        assert sum(changing for *_, changing in found) >= 8
        for method, path, changing in found:
            for sent in ({}, *({"authorization": f"Bearer {key}"} for key in ("wrong", "late", "revoked", ""))):
                refused = await client.request(method, path, json={"name": "Grey"}, headers=sent)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
            if changing:
                asked = {"authorization": "Bearer asker"}
                refused = await client.request(method, path, json={"name": "Grey"}, headers=asked)
                assert refused.status_code == 403, (method, path)
        after = (await client.get("/registry", headers={"authorization": "Bearer asker"})).json()
        assert after == before
        late = await client.get("/classes", headers={"authorization": "Bearer late"})
        assert "has expired" in late.json()["detail"]


@pytest.mark.anyio
async def test_a_key_may_do_less_than_its_role(running: Running) -> None:
    lines = [f"admin:{digest('editor')} actions=classes+read", f"classify:{digest('camera')} actions=classify"]
    grey = {"name": "Grey", "attributes": [0.5, 0.5, 0.5]}
    async with running(keys=",".join(lines)) as client:
        for key, method, path, status in (
            ("editor", "POST", "/classes", 201),
            ("editor", "GET", "/classes", 200),
            ("editor", "POST", "/registry:rollback", 403),
            ("editor", "POST", "/classify", 403),
            ("camera", "GET", "/classes", 403),
            ("camera", "GET", "/metrics", 403),
            ("camera", "POST", "/classes", 403),
        ):
            answer = await client.request(method, path, json=grey, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == status, (key, path, answer.text)
        assert "with classify" in answer.json()["detail"]


def test_keys_are_listed_and_revoked(bundle_dir: Path, tmp_path: Path, nursery: Nursery) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours")
    until = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
    admin = json.loads(ran("keys", "new", "--role", "admin", "--name", "Ada", "--keys-file", file, "--json"))
    made = ("keys", "new", "--id", "door", "--expires", until, "--keys-file", file)
    door = json.loads(ran(*made, "--actions", "classify", "--json"))
    assert "has a key with the id door already" in failed(*made)
    assert "expected a date" in failed("keys", "new", "--expires", "soon")
    listed = json.loads(ran("keys", "list", "--keys-file", file, "--json"))
    assert [(k["id"], k["name"], k["role"], k["expired"]) for k in listed] == [
        (digest(admin["key"])[:8], "Ada", "admin", False),
        ("door", "", "classify", False),
    ]
    assert "all of the role" in ran("keys", "list", D3GZSL_KEYS_FILE=str(file))
    with nursery.server(bundle_dir, tmp_path / "data", "--keys-file", str(file)) as server:
        assert "reddish" in ran("classes", "list", "--url", server.url, "--key", admin["key"])
        assert "has no key with the id gate" in failed("keys", "revoke", "gate", "--keys-file", file)
        ran("keys", "revoke", admin["id"], "--keys-file", file)
        deadline = time.monotonic() + 60
        while command("classes", "list", "--url", server.url, "--key", admin["key"]).returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "The key's role does not allow this" in failed(
            "classes", "list", "--url", server.url, "--key", door["key"]
        )
    assert file.read_text().startswith("# ours\n")
    assert file.read_text().count("\n") == 2

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager

from service import service
from service.inference.engine import Engine
from service.registry.database import Database
from service.server.app import create_app
from service.service import Service
from service.settings import Settings
from tests.service.photos import PRIOR
from tests.service.processes import Server, serving
from tests.service.tiny import HEAD, tiny_bundle

Client = httpx.AsyncClient
FILL, RELEASE = Database._fill, service.release_freed_memory
Running = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(autouse=True)
def _no_outer_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the settings that they make themselves, whatever the machine's environment holds."""
    for name in [name for name in os.environ if name.startswith("D3GZSL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def with_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes example photos."""
    spec = replace(HEAD, photos=PRIOR, unseen_scale=1.25)
    return tiny_bundle(tmp_path_factory.mktemp("photos") / "tiny", spec=spec)


@pytest.fixture(autouse=True, scope="session")
def _what_was_looked_at_is_not_looked_at_again() -> Iterator[None]:
    """Each start of a service collects garbage, and looked at what all before it had left: half of a test's time."""

    def release() -> None:
        RELEASE()
        gc.freeze()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service, "release_freed_memory", release)
        yield


@pytest.fixture(autouse=True, scope="session")
def _tables_of_a_registry_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The migrations are a third of a start; afterwards a new SQLite file is a copy of the first one."""
    first = tmp_path_factory.mktemp("registry") / "first.db"

    def filled(database: Database, path: Path) -> None:
        if not first.exists():
            FILL(database, path)
            shutil.copyfile(path, first)
        else:
            shutil.copyfile(first, path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "_fill", filled)
        yield


@pytest.fixture
def migrated_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of every registry are made by the migrations."""
    monkeypatch.setattr(Database, "_fill", FILL)


@pytest.fixture
def running(bundle_dir: Path, tmp_path: Path) -> Running:
    """`running(engine=None, **settings)`: an async context with a client of the real app, its registry in tmp_path."""

    @asynccontextmanager
    async def run(*, engine: Engine | None = None, **settings: Any) -> AsyncIterator[Client]:
        chosen = Settings(**{"bundle": bundle_dir, "data_dir": tmp_path / "data", "threads": 1, **settings})
        async with running_app(chosen, engine) as client:
            yield client

    return run


@asynccontextmanager
async def running_app(settings: Settings, engine: Engine | None = None) -> AsyncIterator[Client]:
    app = create_app(Service.open(settings, engine=engine))
    async with (
        LifespanManager(app),
        Client(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client,
    ):
        yield client


@pytest.fixture
async def client(running: Running) -> AsyncIterator[Client]:
    """A client of the app on the tiny bundle with a fresh registry."""
    async with running() as client:
        yield client


@pytest.fixture(scope="session")
def server(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`d3gzsl serve` in a process of its own."""
    with serving(bundle_dir, tmp_path_factory.mktemp("live")) as started:
        yield started

"""The registry in PostgreSQL: the same log, the same bits, the same refusals as in SQLite."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from model.bundle import Bundle
from service.classes.edits import Create
from service.classes.registrar import Registrar
from service.errors import ClassExistsError, RegistryError, StorageError
from service.registry.database import _REST, CURRENT_REVISION, Database, database_url
from service.registry.log import ChangeLog
from service.registry.tables import metadata
from service.registry.watch import watch
from tests.service import tiny
from tests.service.postgres import Postgres, postgres_server
from tests.service.processes import serving
from tests.service.test_registrar import FakeEngine, equal, history_of, scores, unseen

Opening = Callable[[], ChangeLog]
NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture
def url(server: Postgres) -> str:
    return server.database()


@pytest.fixture
def opening(url: str, bundle: Bundle) -> Iterator[Opening]:
    with ExitStack() as stack:

        def open_log() -> ChangeLog:
            database = Database(database_url(NOWHERE, url), busy_timeout=2)
            stack.callback(database.close)
            return ChangeLog(
                database,
                bundle_id=bundle.manifest.bundle_id,
                dimension=tiny.Z,
                vocabulary=bundle.manifest.vocabulary.names,
            )

        yield open_log


def test_a_database_without_an_encoding_answers_in_text(server: Postgres) -> None:
    url = server.database("--encoding", "SQL_ASCII", "--locale", "C", "--template", "template0")
    database = Database(database_url(NOWHERE, url), busy_timeout=2)
    try:
        with database.reading() as connection:
            assert connection.execute(sa.select(sa.literal("Stör 🐟"))).scalar_one() == "Stör 🐟"
    finally:
        database.close()


def test_the_same_changes_give_the_same_bits_as_in_sqlite(opening: Opening, bundle: Bundle, tmp_path: Path) -> None:
    file = Database(database_url(tmp_path, None))
    in_file = Registrar(
        bundle,
        FakeEngine(),
        ChangeLog(file, bundle_id=bundle.manifest.bundle_id, dimension=tiny.Z, vocabulary=tiny.NAMES),
    )
    in_server = Registrar(bundle, FakeEngine(), opening())
    for registrar in (in_file, in_server):
        history_of(registrar)
        registrar.rollback(4)
    assert equal(in_file.snapshot, in_server.snapshot)
    assert equal(Registrar(bundle, FakeEngine(), opening()).snapshot, in_file.snapshot)
    without_time = [
        [(v.version, v.operation, v.changes, v.class_ids, v.source) for v in registrar.versions()]
        for registrar in (in_file, in_server)
    ]
    assert without_time[0] == without_time[1]
    with file.reading() as one, in_server._log.database.reading() as other:
        digests = [list(c.scalars(sa.text("SELECT digest FROM versions ORDER BY version"))) for c in (one, other)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 7
    file.close()


def test_text_and_numbers_come_back_as_they_went(opening: Opening, bundle: Bundle) -> None:
    entry = unseen("yak", (0.1, 1 / 3, 1e-300), description="Yák 🐂 \\ \x7f", metadata={"a": [1, None, {"b": "\x00"}]})
    Registrar(bundle, FakeEngine(), opening()).create(entry)
    known = Registrar(bundle, FakeEngine(), opening()).snapshot.get("yak")
    assert known is not None
    assert known.entry == entry


def test_versions_are_gapless_under_many_writers(opening: Opening, bundle: Bundle) -> None:
    registrars = [Registrar(bundle, FakeEngine(), opening()) for _ in range(4)]
    refused: list[str] = []

    def write(registrar: Registrar, name: str) -> None:
        for i in range(6):
            registrar.apply_batch([Create(entry=unseen(f"{name}-{i}-{j}")) for j in range(2)])
            try:
                registrar.create(unseen(f"wanted-by-all-{i}"))
            except ClassExistsError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=write, args=(r, f"writer{i}")) for i, r in enumerate(registrars)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    snapshots = [registrar.catch_up() for registrar in registrars]
    assert {snapshot.registry_version for snapshot in snapshots} == {4 * 6 + 6}
    assert len(refused) == 3 * 6
    assert all(equal(snapshot, snapshots[0]) for snapshot in snapshots)
    z = np.ones((1, tiny.Z), dtype=np.float32)
    assert len({snapshot.logits(z, snapshot.rows).tobytes() for snapshot in snapshots}) == 1
    assert scores(Registrar(bundle, FakeEngine(), opening()).snapshot) == scores(snapshots[0])


def test_a_commit_is_announced(opening: Opening, bundle: Bundle) -> None:
    log = opening()
    watching = watch(log.database)
    watching.wait(10)  # connects
    heard = threading.Event()
    thread = threading.Thread(target=lambda: (watching.wait(30), heard.set()))
    thread.start()
    assert not heard.wait(0.2)
    Registrar(bundle, FakeEngine(), log).create(unseen("violet"))
    assert heard.wait(10)
    thread.join()
    watching.close()


def test_the_migrations_make_the_tables_that_the_code_uses(opening: Opening) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with opening().database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == CURRENT_REVISION


def test_processes_that_start_together_make_the_tables_once(opening: Opening) -> None:
    failed: list[BaseException] = []

    def start() -> None:
        try:
            opening()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_writer_that_holds_the_lock_too_long_is_not_waited_for(opening: Opening, bundle: Bundle, url: str) -> None:
    registrar = Registrar(bundle, FakeEngine(), opening())
    engine = sa.create_engine(database_url(NOWHERE, url))
    with engine.begin() as other:
        other.execute(sa.text("SELECT * FROM registry FOR UPDATE"))
        with pytest.raises(StorageError, match="lock timeout"):
            registrar.create(unseen("violet"))
    engine.dispose()
    assert registrar.catch_up().registry_version == 0
    assert registrar.create(unseen("violet")).registry_version == 1


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(RegistryError) as caught:
        Database(database_url(NOWHERE, "postgresql://me:secret@127.0.0.1:1/none"), busy_timeout=2)
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_changes_go_on_after_the_server_came_back(opening: Opening, bundle: Bundle, server: Postgres) -> None:
    registrar = Registrar(bundle, FakeEngine(), opening())
    registrar.create(unseen("violet"))
    server.stop()
    try:
        with pytest.raises(StorageError):
            registrar.create(unseen("lime"))
        assert registrar.snapshot.get("violet") is not None
    finally:
        server.start()
    assert registrar.create(unseen("lime")).registry_version == 2


def test_a_server_that_hangs_is_given_up_in_seconds(
    opening: Opening, bundle: Bundle, url: str, server: Postgres
) -> None:
    registrar = Registrar(bundle, FakeEngine(), opening())
    registrar.create(unseen("violet"))
    with server.hanging():
        for name in ("lime", "grey"):
            began = time.monotonic()
            with pytest.raises(StorageError):
                registrar.create(unseen(name))
            assert time.monotonic() - began < 10
    time.sleep(_REST)
    assert registrar.catch_up().registry_version == 1
    assert registrar.create(unseen("lime")).registry_version == 2


def test_a_service_ends_in_peace_though_its_server_hangs(
    opening: Opening, bundle: Bundle, bundle_dir: Path, url: str, server: Postgres, tmp_path: Path
) -> None:
    """Told to stop with a change at work, it ends by itself.

    One that outlasts the grace period says so of its requests, and has the status 1 where it must be ended.
    """
    with serving(bundle_dir, tmp_path, "--database-url", url) as service:
        violet = {"name": "Violet", "attributes": [0.9, 0, 0.9]}
        assert service.request("POST", "/classes", json=violet).status_code == 201
        statuses: list[int] = []

        def change() -> None:
            with suppress(httpx.HTTPError):
                statuses.append(service.request("POST", "/classes", json={**violet, "name": "Lime"}).status_code)

        with server.hanging():
            thread = threading.Thread(target=change)
            thread.start()
            thread.join(0.5)  # so that the change has begun
            assert thread.is_alive()
            service.process.send_signal(signal.SIGTERM)
            status = service.process.wait(120)
            thread.join()
        said = service.log.text
    assert status in (0, -signal.SIGTERM), said
    assert statuses in ([503], []), said
    assert "1 requests at work have 20 seconds to end" in said
    assert "have not ended within" not in said
    time.sleep(_REST)
    assert Registrar(bundle, FakeEngine(), opening()).snapshot.registry_version == 1


def test_a_commit_that_was_given_up_is_not_made_later(
    opening: Opening, bundle: Bundle, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stops when everything was written but the commit, which it finds when it goes on."""
    registrar = Registrar(bundle, FakeEngine(), opening())
    announce = Database.announce
    with ExitStack() as stack:

        def stop_then(*arguments: Any) -> None:
            announce(*arguments)
            time.sleep(0.2)  # so that the server waits for the commit
            stack.enter_context(server.hanging())

        with monkeypatch.context() as patched:
            patched.setattr(Database, "announce", stop_then)
            with pytest.raises(StorageError):
                registrar.create(unseen("violet"))
    time.sleep(_REST)
    assert registrar.catch_up().registry_version == 0
    assert Registrar(bundle, FakeEngine(), opening()).snapshot.get("violet") is None
    assert registrar.create(unseen("violet")).registry_version == 1

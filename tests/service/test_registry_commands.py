"""`d3gzsl registry`: adoption, backup, restore, check."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from service.classes.registrar import Registrar
from service.errors import RegistryError, UnknownVersionError
from service.registry.change import Change
from service.registry.database import FILE, Database, database_url, registry_dir
from service.registry.log import ChangeLog
from service.service import Service
from service.settings import Settings
from tests.service import tiny
from tests.service.postgres import Postgres, postgres_server
from tests.service.processes import command
from tests.service.test_registrar import FakeEngine, history_of, scores, unseen


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the same vocabulary and another trunk, and so another id."""
    return tiny.tiny_bundle(tmp_path_factory.mktemp("other") / "other", trunk_bytes=tiny.trunk(free=True))


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


def open_registrar(bundle_dir: Path, data: Path, url: str | None = None) -> Registrar:
    bundle = Bundle.load(bundle_dir)
    log = ChangeLog(
        Database(database_url(data, url)),
        bundle_id=bundle.manifest.bundle_id,
        dimension=tiny.Z,
        vocabulary=bundle.manifest.vocabulary.names,
    )
    return Registrar(bundle, FakeEngine(), log)


def close(registrar: Registrar) -> None:
    registrar._log.close()


@pytest.fixture
def data(bundle_dir: Path, tmp_path: Path) -> Path:
    """A data directory with a registry of 7 versions."""
    registrar = open_registrar(bundle_dir, tmp_path / "data")
    history_of(registrar)
    registrar.remove("bluish")
    close(registrar)
    return tmp_path / "data"


def table(bundle_dir: Path, data: Path, url: str | None = None) -> tuple[int, dict[str, bytes]]:
    registrar = open_registrar(bundle_dir, data, url)
    try:
        return registrar.snapshot.registry_version, scores(registrar.snapshot)
    finally:
        close(registrar)


def succeeds(*arguments: object) -> Any:
    result = command("registry", *arguments, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    result = command("registry", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("d3gzsl: ")
    return result.stderr


# --- adopt ------------------------------------------------------------------------------------------------------------


def test_a_service_refuses_to_start_on_anothers_registry_until_it_is_adopted(
    bundle_dir: Path, other_dir: Path, data: Path
) -> None:
    former, identity = (Bundle.load(d).manifest.bundle_id for d in (bundle_dir, other_dir))
    with pytest.raises(RegistryError, match=rf"belongs to the bundle {former}, not to {identity}.*registry adopt"):
        Service.open(Settings(bundle=other_dir, data_dir=data, threads=1))

    answer = succeeds("adopt", "--bundle", other_dir, "--data-dir", data)
    assert answer == {
        "version": 8,
        "former": former,
        "bundle": identity,
        "classes": 4,
        "superseded": [],
        "without_photos": [],
        "left_out": [],
    }

    registrar = open_registrar(other_dir, data)
    fresh = open_registrar(other_dir, data.parent / "fresh")
    for known in registrar.snapshot.classes:
        if known.row_at is not None:
            fresh.create(known.entry)
    fresh.remove("bluish")  # as it was removed from the registry that was adopted
    adopted, expected = registrar.snapshot, fresh.snapshot
    assert scores(adopted).keys() == scores(expected).keys() == {"reddish", "greenish", "violet", *GREYS}
    for class_id in scores(expected):
        np.testing.assert_allclose(adopted.row(class_id).weight, expected.row(class_id).weight, rtol=1e-5)
    assert adopted.get("violet").entry.name == "Purple"
    close(fresh)
    close(registrar)
    with pytest.raises(RegistryError, match=f"belongs to the bundle {identity}"):
        open_registrar(bundle_dir, data)
    assert "already" in refused("adopt", "--bundle", other_dir, "--data-dir", data)


GREYS = ("grey0", "grey1", "grey2")


def test_after_an_adoption_there_is_no_way_back_to_the_other_bundles_versions(other_dir: Path, data: Path) -> None:
    succeeds("adopt", "--bundle", other_dir, "--data-dir", data)
    registrar = open_registrar(other_dir, data)
    adopted = scores(registrar.snapshot)
    for version in (1, 7):
        with pytest.raises(UnknownVersionError, match="another bundle"):
            registrar.rollback(version)
    registrar.create(unseen("lime"))
    assert set(scores(registrar.rollback(0))) == {"reddish", "greenish", "bluish"}
    assert scores(registrar.rollback(8)) == adopted
    assert [v.operation for v in registrar.versions(after=7)] == ["adopt", "put", "rollback", "rollback"]
    close(registrar)
    assert table(other_dir, data)[1] == adopted
    assert succeeds("check", "--bundle", other_dir, "--data-dir", data)["ok"]


def test_a_bundle_with_other_attributes_cannot_adopt(bundle_dir: Path, other_dir: Path, data: Path) -> None:
    with sqlite3.connect(data / "registry.sqlite3") as connection:
        connection.execute("""UPDATE registry SET vocabulary = '["red", "green", "yellow"]'""")
    connection.close()
    before = table(bundle_dir, data)
    assert "'yellow' for 'blue'" in refused("adopt", "--bundle", other_dir, "--data-dir", data)
    assert table(bundle_dir, data) == before


def test_a_class_that_the_new_bundle_has_seen_is_left_out_and_named(
    bundle_dir: Path, other_dir: Path, tmp_path: Path
) -> None:
    registrar = open_registrar(bundle_dir, tmp_path)
    registrar.create(unseen("violet"))
    with registrar._log.appending() as log:  # as if the former bundle had not known the class
        row = registrar.snapshot.row("violet")
        log.append("put", [Change(operation="put", class_id="reddish", entry=unseen("reddish"), row=row)])
    close(registrar)
    answer = succeeds("adopt", "--bundle", other_dir, "--data-dir", tmp_path)
    assert (answer["classes"], answer["superseded"]) == (1, ["reddish"])
    registrar = open_registrar(other_dir, tmp_path)
    assert registrar.snapshot.get("reddish").entry.kind == "seen"
    close(registrar)


def test_a_service_that_runs_meanwhile_keeps_its_classes_and_refuses_changes(
    bundle_dir: Path, other_dir: Path, data: Path
) -> None:
    registrar = open_registrar(bundle_dir, data)
    before = scores(registrar.snapshot)
    succeeds("adopt", "--bundle", other_dir, "--data-dir", data)
    with pytest.raises(RegistryError, match="belongs to the bundle"):
        registrar.create(unseen("lime"))
    assert scores(registrar.snapshot) == before
    close(registrar)


# --- backup and restore -----------------------------------------------------------------------------------------------


def test_a_backup_brings_everything_back(bundle_dir: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    running = open_registrar(bundle_dir, data)  # a service may be running
    assert succeeds("backup", file, "--data-dir", data)["version"] == 7
    close(running)
    assert succeeds("restore", file, "--data-dir", tmp_path / "new")["changes"] == 9
    assert table(bundle_dir, tmp_path / "new") == table(bundle_dir, data)
    old, new = (open_registrar(bundle_dir, d) for d in (data, tmp_path / "new"))
    assert old.versions() == new.versions()
    assert scores(old.rollback(3)) == scores(new.rollback(3))
    close(old)
    close(new)
    assert succeeds("check", "--bundle", bundle_dir, "--data-dir", tmp_path / "new")["ok"]


def test_a_backup_moves_a_registry_between_databases(
    bundle_dir: Path, data: Path, tmp_path: Path, server: Postgres
) -> None:
    there, back, url = tmp_path / "there.jsonl", tmp_path / "back.jsonl", server.database()
    succeeds("backup", there, "--data-dir", data)
    succeeds("restore", there, "--database-url", url)
    succeeds("backup", back, "--database-url", url)
    assert table(bundle_dir, data, url) == table(bundle_dir, data)
    assert back.read_bytes() == there.read_bytes()


def test_a_registry_with_contents_is_replaced_only_when_told_to(bundle_dir: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    succeeds("backup", file, "--data-dir", data)
    running = open_registrar(bundle_dir, data)
    expected = scores(running.snapshot)
    running.create(unseen("lime"))
    assert "8 versions already" in refused("restore", file, "--data-dir", data)
    assert running.catch_up().registry_version == 8

    succeeds("restore", file, "--data-dir", data, "--replace")

    assert running.catch_up().registry_version == 7  # who runs meanwhile notices, and reads all of it again
    assert scores(running.snapshot) == expected
    assert running.create(unseen("lime")).registry_version == 8
    close(running)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[:5] + lines[6:], "damaged: expected sha256"),
        (lambda lines: [line.replace(b"Purple", b"Purply") for line in lines], "damaged: expected sha256"),
        (lambda lines: [b'{"format": "something"}\n', *lines[1:]], "not a backup"),
        (lambda lines: [*lines[:3], b"no json\n", *lines[4:]], "not a backup"),
        (lambda lines: [*lines, lines[-1]], "nothing behind"),
        (lambda lines: [], "cut off|not a backup"),
    ],
)
def test_a_damaged_backup_changes_nothing(bundle_dir: Path, data: Path, tmp_path: Path, damage, words) -> None:
    file = tmp_path / "backup.jsonl"
    succeeds("backup", file, "--data-dir", data)
    file.write_bytes(b"".join(damage(file.read_bytes().splitlines(keepends=True))))
    before = table(bundle_dir, data)
    said = refused("restore", file, "--data-dir", data, "--replace")
    assert any(word in said for word in words.split("|")), said
    assert table(bundle_dir, data) == before


def test_a_backup_is_not_written_over_a_file(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    file.write_text("mine")
    assert "exists already" in refused("backup", file, "--data-dir", data)
    assert file.read_text() == "mine"
    succeeds("backup", file, "--data-dir", data, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.jsonl", "data"]


@pytest.mark.parametrize("name", ["backup", "check", "adopt"])
def test_a_registry_that_is_not_there_is_not_made(name: str, tmp_path: Path) -> None:
    file = [tmp_path / "file"] if name == "backup" else []
    assert "there is no registry" in refused(name, *file, "--data-dir", tmp_path / "none")
    assert list(tmp_path.glob("none/*")) == []


# --- check ------------------------------------------------------------------------------------------------------------


def test_a_whole_registry_is_whole(bundle_dir: Path, data: Path) -> None:
    report = succeeds("check", "--bundle", bundle_dir, "--data-dir", data)
    assert report.pop("largest_difference") < 1e-5
    assert report == {
        "bundle": Bundle.load(bundle_dir).manifest.bundle_id,
        "version": 7,
        "changes": 9,
        "classes": 6,
        "rows": 4,
        "findings": [],
        "ok": True,
    }


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE head_rows SET bias = bias + 1e-6 WHERE position = 1", "version 1 is not as it was written"),
        ("UPDATE changes SET document = replace(document, 'Purple', 'Purply') WHERE version = 5", "version 5 is not"),
        ("UPDATE versions SET operation = 'batch' WHERE version = 2", "version 2 is not as it was written"),
        ("UPDATE versions SET digest = 'x' WHERE version = 3", "version 3 is not|version 4 is not"),
        ("UPDATE changes SET row_position = 1 WHERE class_id = 'grey1'", "a row that is not theirs"),
        ("UPDATE registry SET position = position + 1", "the last change is at position 9, expected 10"),
        ("INSERT INTO head_rows VALUES (77, x'00', 0)", "rows belong to no change: positions 77"),
    ],
)
def test_what_is_wrong_is_found(bundle_dir: Path, data: Path, damage: str, words: str) -> None:
    with sqlite3.connect(data / "registry.sqlite3") as connection:
        connection.execute(damage)
    connection.close()
    result = command("registry", "check", "--bundle", bundle_dir, "--data-dir", data)
    assert result.returncode == 1, result.stderr
    assert all(word in result.stdout for word in words.split("|")), result.stdout


def test_a_row_that_the_bundle_would_not_make_is_found(bundle_dir: Path, tmp_path: Path) -> None:
    registrar = open_registrar(bundle_dir, tmp_path)
    registrar.create(unseen("violet"))
    with registrar._log.appending() as log:
        row = registrar.snapshot.row("violet")
        log.append("put", [Change(operation="put", class_id="lime", entry=unseen("lime", (0.0, 1.0, 0.0)), row=row)])
    close(registrar)
    result = command("registry", "check", "--bundle", bundle_dir, "--data-dir", tmp_path)
    assert (result.returncode, result.stdout.count("\n")) == (1, 1)
    assert "the row of 'lime' is" in result.stdout


def test_every_bundle_has_a_data_directory_of_its_own(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    all_bundles, own, other = tmp_path / "d3gzsl", Bundle.load(bundle_dir).manifest.bundle_id, "0" * 32
    settings = Settings(bundle=bundle_dir, threads=1)
    assert registry_dir(settings, own) == all_bundles / own
    Service.open(settings).close()
    assert (all_bundles / own / FILE).exists()
    assert succeeds("check", "--bundle", bundle_dir)["ok"]
    succeeds("backup", tmp_path / "backup.jsonl", "--bundle", bundle_dir)
    assert registry_dir(settings, other) == all_bundles / other
    assert registry_dir(Settings(data_dir=tmp_path / "chosen"), own) == tmp_path / "chosen"

    # A registry from before lies directly there, and stays that of its bundle.
    (all_bundles / own / FILE).rename(all_bundles / FILE)
    assert registry_dir(settings, own) == all_bundles
    assert registry_dir(settings, other) == all_bundles / other
    (all_bundles / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(RegistryError, match=r"cannot be read: .*--data-dir"):
        registry_dir(settings, own)

"""Texts of classes in the registry: adoption by a bundle with another encoder, the check, and back-ups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle
from model.classes import ClassEntry
from service.classes.integrity import check_integrity
from service.errors import RegistryError
from service.inference.class_rows import compute_row
from service.inference.engine import OnnxEngine
from service.inference.text_encoder import open_text_encoder
from service.registry.adoption import adopt_registry
from service.registry.database import Database, database_url
from service.registry.log import ChangeLog
from service.service import Service
from service.settings import Settings
from tests.model import tiny_text
from tests.service.processes import command
from tests.service.text_bundle import stored_row, text_bundle, with_encoder

ELEPHANT = "a big grey animal with a trunk"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with named attributes and text."""
    return text_bundle(tmp_path_factory.mktemp("both") / "bundle")


def registered(bundle: Path, data_dir: Path, **entry: Any) -> Database:
    """A registry of a bundle with one class that is described by text."""
    service = Service.open(Settings(bundle=bundle, data_dir=data_dir, threads=1))
    assert service.text_encoder is not None
    text = service.text_encoder.describe([ELEPHANT], ["/text"])
    named = (0.5, 0.5, 0.5) if len(service.bundle.manifest.vocabulary) else ()
    service.registrar.create(ClassEntry(id="x", name="X", kind="unseen", attributes=named, text=text, **entry))
    service.close()
    return Database(database_url(data_dir, None))


def adopt(database: Database, path: Path) -> Any:
    bundle = Bundle.load(path)
    engine, encoder = OnnxEngine(bundle, threads=1), open_text_encoder(bundle, threads=1)
    describe: Callable[[Any], Any] | None = None
    if encoder is not None:
        describe = lambda text: encoder.describe(text.sentences, ["/text"] * len(text.sentences))  # noqa: E731
    return adopt_registry(
        database,
        bundle,
        lambda entry, photos: compute_row(bundle, engine, entry, photos=lambda _: photos),
        describe=describe,
    )


def test_adoption_encodes_texts_anew(both: Path, tmp_path: Path) -> None:
    database = registered(both, tmp_path / "data")
    other = text_bundle(tmp_path / "other", encoder=with_encoder(graph=tiny_text.graph(seed=5)))
    assert adopt(database, other).classes == 1
    database.close()
    _, _, vector = stored_row(other, tmp_path / "data", "x")
    bundle = Bundle.load(other)
    encoder = open_text_encoder(bundle, threads=1)
    assert encoder is not None
    assert vector == encoder.describe([ELEPHANT], ["/text"]).vector
    own = open_text_encoder(Bundle.load(both), threads=1)
    assert own is not None
    assert vector != own.describe([ELEPHANT], ["/text"]).vector


def test_adoption_without_an_encoder_is_refused_and_changes_nothing(
    both: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    database = registered(both, tmp_path / "data")
    with pytest.raises(RegistryError, match=r"'x' is described by text, and the bundle .* has no text encoder"):
        adopt(database, bundle_dir)
    short = text_bundle(tmp_path / "short", encoder=with_encoder(spec=replace(tiny_text.SPEC, max_tokens=8)))
    with pytest.raises(RegistryError, match=r"the text of the class 'x' does not fit .*(\n.*)*got 9"):
        adopt(database, short)
    database.close()
    assert stored_row(both, tmp_path / "data", "x")[1] != 0


def test_check_synthesises_from_the_text(both: Path, tmp_path: Path) -> None:
    database = registered(both, tmp_path / "data")
    bundle = Bundle.load(both)
    engine, manifest = OnnxEngine(bundle, threads=1), bundle.manifest
    log = ChangeLog(
        database, bundle_id=manifest.bundle_id, dimension=manifest.head.dimension, vocabulary=manifest.vocabulary.names
    )
    report = check_integrity(
        log, bundle, lambda entry, photos: compute_row(bundle, engine, entry, photos=lambda _: photos), tolerance=1e-5
    )
    assert report.findings == ()
    assert report.rows == 1
    log.close()


def test_backup_keeps_texts(both: Path, tmp_path: Path) -> None:
    registered(both, tmp_path / "data").close()
    before = stored_row(both, tmp_path / "data", "x")
    saved = command("registry", "backup", tmp_path / "saved", "--bundle", both, "--data-dir", tmp_path / "data")
    assert saved.returncode == 0, saved.stderr
    restored = command("registry", "restore", tmp_path / "saved", "--bundle", both, "--data-dir", tmp_path / "new")
    assert restored.returncode == 0, restored.stderr
    assert stored_row(both, tmp_path / "new", "x") == before

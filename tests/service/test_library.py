"""A bundle as an object: the answers of a service to the last bit, classes that stay or go, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from model.errors import BundleError
from service.client import Client, ConflictError, RefusedInputError
from service.errors import RegistryError
from service.library import Classifier
from service.settings import EMBEDDED_BUNDLE
from tests.service.nursery import Nursery
from tests.service.processes import ROOT
from tests.service.tiny import VIOLET, png, tiny_bundle, trunk

EXAMPLES = sorted((EMBEDDED_BUNDLE / "examples").glob("*.jpg"))
BLUE_DOTTED_CIRCLE = {
    "name": "blue dotted circle",
    "attributes": {"shape_circle": 1, "colour_blue": 1, "texture_dotted": 1, "pointed": 0, "warm": 0},
}
VIOLET_CLASS = {"name": "Violet", "attributes": VIOLET}


@pytest.fixture(autouse=True)
def passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "passing"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def said(client: Client) -> dict[str, Any]:
    """What a client is told about every example image, one at a time, and about the class table."""
    answers = {
        file.name: client.classify(file, top_k=1000, explain="attributes").model_dump(exclude={"timing_ms"})
        for file in EXAMPLES[:4]
    }
    described = {**BLUE_DOTTED_CIRCLE, "name": "another"}
    answers["preview"] = client.preview_class(described, images=EXAMPLES[:1]).model_dump()
    answers["classes"] = {c.id: c.model_dump() for c in client.classes()}
    return answers


def test_the_answers_are_those_of_a_service_to_the_last_bit(tmp_path: Path, nursery: Nursery) -> None:
    with (
        nursery.server(None, tmp_path / "registry", "--threads", "1") as server,
        Client(server.url) as client,
        Classifier.load(threads=1) as classifier,
    ):
        assert said(classifier) == said(client)
        added = [one.add_class(BLUE_DOTTED_CIRCLE).model_dump() for one in (classifier, client)]
        assert added[0] == added[1]
        after = said(classifier)
        assert after == said(client)
        assert after[EXAMPLES[0].name]["registry_version"] == 1


def test_a_class_is_known_from_the_next_call_on(bundle_dir: Path) -> None:
    with Classifier.load(bundle_dir, threads=1) as classifier:
        image = png((230, 0, 230))
        before = classifier(image, top_k=1)
        assert (before.predictions[0].class_id, before.id) == ("bluish", "0")
        assert classifier.add_class(VIOLET_CLASS).registry_version == 1
        assert classifier(image, top_k=1).predictions[0].class_id == "violet"
        assert classifier(("mine", image), scope="seen").id == "mine"
        with pytest.raises(ConflictError, match="exists"):
            classifier.add_class(VIOLET_CLASS)
        with pytest.raises(RefusedInputError, match="not an image"):
            classifier(b"nothing")


def test_classes_are_kept_in_a_registry_and_else_forgotten(bundle_dir: Path, tmp_path: Path, passing: Path) -> None:
    kept = tmp_path / "kept"
    for registry, found in ((None, 0), (None, 0), (kept, 0), (kept, 1)):
        with Classifier.load(bundle_dir, registry=registry, threads=1) as classifier:
            assert classifier.registry().registry_version == found
            if not found:
                classifier.add_class(VIOLET_CLASS)
    assert [*passing.iterdir()] == []
    other = tiny_bundle(tmp_path / "other", trunk_bytes=trunk(batch="M"))
    with pytest.raises(RegistryError, match="belongs to"):
        Classifier.load(other, registry=kept, threads=1)


def test_two_in_one_program_know_nothing_of_each_other(bundle_dir: Path) -> None:
    with Classifier.load(bundle_dir, threads=1) as one, Classifier.load(bundle_dir, threads=1) as other:
        one.add_class(VIOLET_CLASS)
        assert (one.registry().classes.unseen, other.registry().classes.unseen) == (2, 1)


def test_the_environment_has_no_say(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3GZSL_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("D3GZSL_KEYS", "admin:nothing")
    monkeypatch.setenv("D3GZSL_BUNDLE", str(tmp_path / "none"))
    monkeypatch.setenv("D3GZSL_MAX_IMAGE_BYTES", "1")
    with Classifier.load(bundle_dir, threads=1) as classifier:
        classifier.add_class(VIOLET_CLASS)
        assert classifier(png((255, 0, 0))).predictions[0].class_id == "reddish"
    assert not (tmp_path / "elsewhere").exists()


def test_threads_may_share_one(bundle_dir: Path) -> None:
    found: list[str] = []
    with Classifier.load(bundle_dir, threads=1) as classifier:

        def ask() -> None:
            found.extend(classifier(png((255, 0, 0))).predictions[0].class_id for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["reddish"] * 40


def test_a_closed_one_says_so(bundle_dir: Path) -> None:
    classifier = Classifier.load(bundle_dir, threads=1)
    classifier.close()
    classifier.close()
    with pytest.raises(RuntimeError, match="closed"):
        classifier(png((255, 0, 0)))


def test_what_cannot_be_loaded_leaves_nothing_behind(tmp_path: Path, passing: Path) -> None:
    before = threading.active_count()
    with pytest.raises(BundleError, match="no bundle at"):
        Classifier.load(tmp_path / "none")
    assert threading.active_count() == before
    assert [*passing.iterdir()] == []


def test_a_program_that_closes_nothing_ends_in_silence(bundle_dir: Path, passing: Path) -> None:
    code = (
        "from service import Classifier\n"
        f"classifier = Classifier.load({str(bundle_dir)!r}, threads=1)\n"
        f"classifier.add_class({VIOLET_CLASS!r})\n"
        f"print(classifier({png((230, 0, 230))!r}).predictions[0].name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(passing)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Violet\n", "")
    assert [*passing.iterdir()] == []

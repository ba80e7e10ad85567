"""A bundle whose training found no score that tells unseen classes apart: answers have no novelty."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.service.conftest import Running
from tests.service.processes import command
from tests.service.test_v2 import INFER, base64_input
from tests.service.tiny import png, tiny_bundle

RED = png((255, 0, 0))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("novelty") / "tiny", novelty=None)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "red.png").write_bytes(RED)
    return tmp_path / "in" / "red.png"


@pytest.mark.anyio
async def test_the_answer_says_null(running: Running, without: Path, bundle_dir: Path) -> None:
    sent = {"content": RED, "headers": {"content-type": "image/png"}}
    async with running(bundle=without) as client:
        (found,) = (await client.post("/classify", **sent)).json()["results"]
    assert found["novelty"] is None
    async with running(bundle=bundle_dir) as client:
        (usual,) = (await client.post("/classify", **sent)).json()["results"]
    assert isinstance(usual["novelty"], float)
    assert {**found, "novelty": 0} == {**usual, "novelty": 0}


@pytest.mark.anyio
async def test_the_open_inference_protocol_has_no_such_output(running: Running, without: Path) -> None:
    async with running(bundle=without) as client:
        metadata = (await client.get("/v2/models/d3gzsl")).json()
        names = [output["name"] for output in metadata["outputs"]]
        assert names == ["class_id", "label", "kind", "probability"]
        asked = {"inputs": [base64_input([RED])]}
        answer = await client.post(INFER, json=asked)
        assert [output["name"] for output in answer.json()["outputs"]] == names
        refused = await client.post(INFER, json={**asked, "outputs": [{"name": "novelty"}]})
        assert refused.status_code == 422
        assert "expected one of class_id, label, kind, probability, got 'novelty'" in refused.json()["error"]


def test_commands_show_a_dash(without: Path, photo: Path) -> None:
    said = command("classify", photo, "--bundle", without)
    assert said.returncode == 0, said.stderr
    assert "–" in said.stdout
    found = json.loads(command("classify", photo, "--bundle", without, "--json").stdout)
    assert found["results"][0]["novelty"] is None


def test_a_file_of_many_has_nulls(without: Path, photo: Path, tmp_path: Path) -> None:
    done = command("classify", photo.parent, "--bundle", without, "--out", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (row["status"], row["novelty"]) == ("ok", None)
    assert row["class_id"]

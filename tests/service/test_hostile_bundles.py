"""Hostile bundles: each kind is refused with one line before anything of it runs, within 10 s and 1 GB."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from model.bundle import Bundle
from model.errors import BundleError
from model.guards.graphs import check_graph, read_graph
from service.inference import trial
from service.inference.engine import OnnxEngine, served_graphs
from service.inference.trial import trial_begun
from tests.service.conftest import Running
from tests.service.hostile import KINDS, after_features, overflowing
from tests.service.processes import ROOT, command
from tests.service.tiny import png

SECONDS, BYTES = 10, 10**9
BACKBONES = ROOT.parent / "shared" / "data" / "backbones"


@pytest.fixture
def hostile(bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))


_VERIFY_ALL = """
import json, re, resource, sys
from pathlib import Path
from tests.service.processes import command
own = Path("/proc/self/status")  # what resource says of a process begins with what its parent had
for folder in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = command("bundle", "verify", folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({
        "status": found.returncode, "out": found.stdout, "err": found.stderr,
        "seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "bytes": 1024 * max(after.ru_maxrss, int(re.search(r"VmHWM:\\s+(\\d+)", own.read_text())[1])),
    }))
"""


@pytest.fixture(scope="module")
def verified(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `bundle verify` says of every kind, in a process that has loaded nothing large before."""
    folders = {}
    for number, (kind, (change, _)) in enumerate(KINDS.items()):
        folders[kind] = shutil.copytree(bundle_dir, tmp_path_factory.mktemp(f"hostile{number}") / "bundle")
        change(folders[kind])
    done = subprocess.run(
        [sys.executable, "-c", _VERIFY_ALL, *folders.values()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(folders, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_bundle_is_refused_with_one_line(verified: dict[str, dict[str, Any]], kind: str) -> None:
    refused = verified[kind]
    assert (refused["status"], refused["out"]) == (2, "")
    assert refused["err"].startswith("d3gzsl: ")
    assert refused["err"].count("\n") == 1, refused["err"]
    assert KINDS[kind][1] in refused["err"]
    assert len(refused["err"]) < 1000
    assert refused["seconds"] < SECONDS
    assert refused["bytes"] < BYTES


def test_a_graph_that_needs_too_much_memory_ends_its_trial_only(hostile: Path) -> None:
    """What no shape betrays: the sizes are right one by one, and too many of them live at once."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], [f"part{i}"]) for i in range(12)]
    nodes.append(helper.make_node("Sum", [f"part{i}" for i in range(12)], ["extra"]))
    after_features(*nodes, weights={"size": np.array([60_000_000])})(hostile)
    refused = command("bundle", "verify", hostile)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "trunk.onnx" in refused.stderr
    assert "emory" in refused.stderr


@pytest.mark.parametrize("arguments", [["serve", "--port", "0", "--bundle"], ["classify", "README.md", "--bundle"]])
def test_no_command_loads_what_verify_refuses(hostile: Path, tmp_path: Path, arguments: list[str]) -> None:
    KINDS["a loop without end"][0](hostile)
    refused = command(*arguments, hostile, D3GZSL_DATA_DIR=str(tmp_path / "data"))
    assert refused.returncode == 2
    assert "the operator Loop is not allowed" in refused.stderr


def test_a_graph_is_tried_once_in_a_process(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(bundle_dir)
    OnnxEngine(bundle, threads=1)
    monkeypatch.setattr(subprocess, "Popen", None)  # a second trial would call it
    OnnxEngine(bundle, threads=1)


def test_a_trial_that_was_begun_is_waited_for(bundle_dir: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KINDS["a loop without end"][0](hostile)
    for folder, fault in ((bundle_dir, None), (hostile, "the operator Loop is not allowed")):
        monkeypatch.setattr(trial, "_passed", set())
        bundle = Bundle.load(folder)
        with trial_begun(*served_graphs(bundle)), monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", None)  # a second trial would call it
            if fault is None:
                OnnxEngine(bundle, threads=1)
            else:
                with pytest.raises(BundleError, match=fault):
                    OnnxEngine(bundle, threads=1)


def test_a_trial_that_nobody_waits_for_is_ended(bundle_dir: Path, tmp_path: Path) -> None:
    begun = served_graphs(Bundle.load(bundle_dir))
    with trial_begun(*begun):
        (process,) = [running._process for running in trial._begun]
    assert process.returncode is not None
    assert trial._begun == []
    with trial_begun(replace(begun[0], file=tmp_path / "none.onnx")):
        assert trial._begun == []


def backbones() -> list[Path]:
    return [*(ROOT / "service" / "demo_bundle").glob("*.onnx"), *sorted(BACKBONES.glob("*.onnx"))]


@pytest.mark.parametrize("file", backbones(), ids=lambda file: file.name)
def test_graphs_of_real_networks_are_allowed(file: Path) -> None:
    model = read_graph(file.read_bytes(), file.name)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {
        value.name: (2, *(size.dim_value for size in value.type.tensor_type.shape.dim[1:]))
        for value in model.graph.input
        if value.name not in weights
    }
    check_graph(model, file.name, inputs=inputs)


@pytest.mark.anyio
async def test_an_answer_without_predictions_is_an_error(hostile: Path, running: Running, tmp_path: Path) -> None:
    """A black image has the embedding 0, whose scores are finite; the scores of a white one are beyond all floats."""
    overflowing(hostile)
    black, white = png((0, 0, 0)), png((255, 255, 255))
    async with running(bundle=hostile) as client:
        alone = await client.post("/classify", content=white, headers={"content-type": "image/png"})
        assert (alone.status_code, alone.json()["type"]) == (500, "urn:d3gzsl:problem:inference-failed")
        assert "registry check" in alone.json()["detail"]
        form = [("images", ("black.png", black, "image/png")), ("images", ("white.png", white, "image/png"))]
        both = (await client.post("/classify", files=form)).json()["results"]
        assert len(both[0]["predictions"]) == 3
        assert both[1]["error"]["type"] == "urn:d3gzsl:problem:inference-failed"
    for name, image in (("black.png", black), ("white.png", white)):
        (tmp_path / name).write_bytes(image)
    local = command("classify", tmp_path / "black.png", tmp_path / "white.png", "--bundle", hostile, "--json")
    first, second = json.loads(local.stdout)["results"]
    assert len(first["predictions"]) == 3
    assert "not finite" in second["error"]["detail"]

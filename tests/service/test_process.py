"""`d3gzsl serve` as a process: it outlives `kill -9`, refuses what does not fit, and never loads torch."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.service import Service
from service.settings import Settings
from tests.service.processes import ROOT, Server, command, d3gzsl, environment, serving
from tests.service.tiny import VIOLET, png, tiny_bundle, trunk

Run = Callable[..., subprocess.CompletedProcess[str]]
VIOLET_IMAGE = {"content": png((230, 0, 230)), "headers": {"content-type": "image/png"}}


def classify(server: Server) -> list[dict[str, object]]:
    answer = server.request("POST", "/classify", **VIOLET_IMAGE)
    assert answer.status_code == 200, answer.text
    predictions: list[dict[str, object]] = answer.json()["results"][0]["predictions"]
    return predictions


def test_a_registered_class_outlives_kill_9(bundle_dir: Path, tmp_path: Path) -> None:
    with serving(bundle_dir, tmp_path / "data") as server:
        assert classify(server)[0]["class_id"] == "bluish"
        document = {"name": "Violet", "attributes": {"red": VIOLET[0], "blue": VIOLET[2], "green": 0}}
        assert server.request("POST", "/classes", json=document).status_code == 201
        before = classify(server)
        server.process.send_signal(signal.SIGKILL)
        assert server.process.wait(10) == -signal.SIGKILL
    assert before[0]["class_id"] == "violet"

    with serving(bundle_dir, tmp_path / "data") as server:
        assert classify(server) == before
        shown = server.request("GET", "/classes/violet")
        assert (shown.status_code, shown.json()["registry_version"]) == (200, 1)


def test_an_installed_uvloop_is_left_alone(bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text(
        "def new_event_loop(): raise SystemExit('uvloop was taken')\nLoop = new_event_loop\n"
    )
    with serving(bundle_dir, tmp_path / "data", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}") as server:
        assert classify(server)[0]["class_id"] == "bluish"


def test_it_ends_in_peace_when_told_to(bundle_dir: Path, tmp_path: Path) -> None:
    with serving(bundle_dir, tmp_path) as server:
        assert server.request("GET", "/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) in (0, -signal.SIGTERM)


def refused(*arguments: object, run: Run = command, **variables: str) -> str:
    """What `d3gzsl serve` says when it does not start: one line or more, no traceback, status 2."""
    result = run("serve", "--port", "0", *arguments, **variables)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("d3gzsl: "), result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def broken(bundle_dir: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    return Path(shutil.copytree(bundle_dir, tmp_path / "broken"))


@pytest.mark.parametrize("name", ["trunk.onnx", "synthesizer.onnx", "head.npz", "bank.npz", "examples/red.png"])
def test_a_bundle_with_a_flipped_byte_is_refused_by_name(broken: Path, name: str, tmp_path: Path) -> None:
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(data)
    said = refused("--bundle", broken, "--data-dir", tmp_path, run=d3gzsl if name == "trunk.onnx" else command)
    assert f"{name} is damaged or changed: expected sha256 " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["manifest.json", "trunk.onnx", "bank.npz"])
def test_a_bundle_with_a_missing_file_is_refused_by_name(broken: Path, name: str, tmp_path: Path) -> None:
    (broken / name).unlink()
    run = d3gzsl if name == "trunk.onnx" else command
    assert f"{name} is missing" in refused("--bundle", broken, "--data-dir", tmp_path, run=run)


def test_a_bundle_of_another_schema_version_is_refused(broken: Path, tmp_path: Path) -> None:
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    said = refused("--bundle", broken, "--data-dir", tmp_path, run=d3gzsl)
    assert "schema version 99; this version of d3gzsl reads 1" in said


def test_a_bundle_whose_graph_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "odd", trunk_bytes=trunk(size=16))
    said = refused("--bundle", bundle, "--data-dir", tmp_path)
    assert "trunk.onnx: 'image' is" in said
    assert "expected float32 [N, 3, 8, 8]" in said


def test_no_bundle_at_all_is_refused(tmp_path: Path) -> None:
    assert "no bundle at" in refused("--bundle", tmp_path / "none", "--data-dir", tmp_path)


def test_the_registry_of_another_bundle_is_refused(bundle_dir: Path, tmp_path: Path) -> None:
    Service.open(Settings(bundle=bundle_dir, data_dir=tmp_path, threads=1)).close()
    with sqlite3.connect(tmp_path / "registry.sqlite3") as connection:
        connection.execute("UPDATE registry SET bundle_id = 'another'")
    connection.close()
    said = refused("--bundle", bundle_dir, "--data-dir", tmp_path)
    assert "belongs to the bundle another, not to" in said
    assert "--data-dir" in said


def test_settings_that_cannot_be_are_refused(bundle_dir: Path, tmp_path: Path) -> None:
    start = ("--bundle", bundle_dir, "--data-dir", tmp_path)
    assert "D3GZSL_BATCH_SIZE: " in refused(*start, D3GZSL_BATCH_SIZE="none")
    assert "D3GZSL_ALLOW_ANONYMOUS=1" in refused(*start, "--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1, port {port}" in refused(*start, "--port", port)


def test_the_service_never_loads_torch(bundle_dir: Path, tmp_path: Path) -> None:
    """Start, classify and register in a fresh interpreter; nothing of training or torch, and no onnx, may be there."""
    script = """
import asyncio, sys, httpx
from base64 import b64decode
from asgi_lifespan import LifespanManager
from service.server.app import create_app
from service.cli import app as commands
from service.service import Service
from service.settings import load_settings
violet = b64decode(sys.argv[1])
async def main():
    app = create_app(Service.open(load_settings()))
    async with LifespanManager(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            headers = {"content-type": "image/png"}
            assert (await client.post("/classify", content=violet, headers=headers)).status_code == 200
            added = await client.post("/classes", json={"name": "violet", "attributes": [0.9, 0, 0.9]})
            assert added.status_code == 201
            assert (await client.post("/classify", content=violet, headers=headers)).status_code == 200

asyncio.run(main())
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "training", "onnx"}))
"""
    result = subprocess.run(
        [sys.executable, "-c", script, base64.b64encode(png((230, 0, 230))).decode()],
        env=environment(D3GZSL_BUNDLE=str(bundle_dir), D3GZSL_DATA_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"

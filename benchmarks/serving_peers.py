"""Starting what is compared: our service, and each peer in an environment of its own."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
SHARED = ("numpy>=2,<3", "pillow", "simplejpeg", "onnxruntime")
NEEDS = {
    "fastapi": None,  # runs in the project's own environment, which has torch
    "fastapi-onnx": ("fastapi", "uvicorn", *SHARED),
    "litserve": ("litserve", *SHARED),
    "bentoml": ("bentoml", *SHARED),
    "mlserver": ("mlserver", *SHARED),
}
_LISTENING = re.compile(r"on (http://\S+)")

Ask = Callable[[bytes], dict[str, Any]]
"""Arguments of `httpx.Client.post` for an image."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running service.

    Attributes:
        url: where it is.
        ask: how it takes an image.
        ready_s: seconds from its start to ready.
        pid: its first process.
    """

    url: str
    ask: Ask
    ready_s: float
    pid: int


@contextmanager
def ours(bundle: Path, work: Path, *, threads: int, batch: int, flags: tuple[str, ...] = ()) -> Iterator[Target]:
    """`d3gzsl serve`; each bundle has a registry of its own."""
    where = ["--bundle", str(bundle), "--data-dir", str(work / f"registry-{bundle.name}"), "--port", "0"]
    sizes = ["--threads", str(threads), "--batch-size", str(batch), "--workers", "1"]
    log = work / f"service-{bundle.name}.log"
    log.write_text("")
    command = [sys.executable, "-m", "service.cli", "serve", *where, *sizes, *flags]
    with _process(command, log, {}) as (process, began):
        while (found := _LISTENING.search(log.read_text())) is None:
            _check(process, log)
            time.sleep(0.01)
        url = found[1]
        _ready(url + "/readyz", process, log)
        ready_s = time.perf_counter() - began
        yield Target(url=f"{url}/classify", ask=raw, ready_s=ready_s, pid=process.pid)


@contextmanager
def peer(
    name: str, bundle: Path, work: Path, *, threads: int, batch: int, weights: Path | None, uv: str
) -> Iterator[Target]:
    """A peer, in an environment that is made for it the first time."""
    python = environment(name, work, uv)
    port = _free_port()
    variables = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{PEERS}",
        "PEER_BUNDLE": str(bundle),
        "PEER_THREADS": str(threads),
        "PEER_BATCH": str(batch),
        "PEER_PORT": str(port),
        "PEER_WEIGHTS": str(weights),
    }
    url = f"http://127.0.0.1:{port}"
    command, ready, path, ask = _how(name, python, port, work, batch)
    log = work / f"{name}.log"
    with _process(command, log, variables) as (process, began):
        _ready(url + ready, process, log)
        yield Target(url=url + path, ask=ask, ready_s=time.perf_counter() - began, pid=process.pid)


def environment(name: str, work: Path, uv: str) -> Path:
    """The interpreter for a peer."""
    needs = NEEDS[name]
    if needs is None:
        return Path(sys.executable)
    folder = work / f"env-{name}"
    if not (folder / "made").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([uv, "venv", "-q", "--clear", "--python", version, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(folder), *needs], check=True)
        (folder / "made").write_text("")
    return folder / "bin" / "python"


def versions(name: str, work: Path, uv: str) -> str:
    """What of a peer is installed."""
    needs = NEEDS[name]
    if needs is None:
        return ""
    listed = subprocess.run(
        [uv, "pip", "freeze", "--python", str(work / f"env-{name}")], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return next((line for line in listed if line.startswith(f"{needs[0]}==")), "")


def raw(data: bytes) -> dict[str, Any]:
    """The file as the body."""
    return {"content": data, "headers": {"content-type": "image/jpeg"}}


def _free_port() -> int:
    """The first of three free ports in a row, which no system gives to clients."""
    for port in random.sample(range(20_000, 30_000), 100):
        try:
            for each in range(port, port + 3):
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        return port
    raise RuntimeError("no ports are free")


def _how(name: str, python: Path, port: int, work: Path, batch: int) -> tuple[list[str], str, str, Ask]:
    """Command, path of readiness, path of inference, form of the body."""
    plain = {"fastapi": "fastapi_torch.py", "fastapi-onnx": "fastapi_onnx.py"}
    if name in plain:
        return [str(python), str(PEERS / plain[name])], "/ready", "/classify", raw
    if name == "litserve":

        def ask(data: bytes) -> dict[str, Any]:
            return {"json": {"image": base64.b64encode(data).decode()}}

        return [str(python), str(PEERS / "litserve_app.py")], "/health", "/predict", ask
    if name == "bentoml":
        command = [str(python), "-m", "bentoml", "serve", "bentoml_app:Service", "--port", str(port)]
        return [*command, "--working-dir", str(PEERS)], "/readyz", "/classify", _listed
    settings = {
        "name": "d3gzsl",
        "implementation": "mlserver_app.Runtime",
        "max_batch_size": batch,
        "max_batch_time": 0.02,
    }
    folder = work / "mlserver"
    folder.mkdir(exist_ok=True)
    (folder / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    (folder / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0}))

    def infer(data: bytes) -> dict[str, Any]:
        image = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [base64.b64encode(data).decode()]}
        return {"json": {"inputs": [image]}}

    command = [str(python.with_name("mlserver")), "start", str(folder)]
    return command, "/v2/models/d3gzsl/ready", "/v2/models/d3gzsl/infer", infer


def _listed(data: bytes) -> dict[str, Any]:
    return {"json": {"images": [base64.b64encode(data).decode()]}}


@contextmanager
def _process(
    command: list[str], log: Path, variables: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A process whose output goes into a file, since a full pipe would stop it; ended with all its children."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("D3GZSL_", "PEER_"))}
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**kept, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, began
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        _check(process, log)
        time.sleep(0.02)


def _check(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the process ended with {process.returncode}:\n{log.read_text()[-3000:]}")

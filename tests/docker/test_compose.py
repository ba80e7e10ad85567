"""`docker-compose up`: the built image classifies, registers, and keeps what was registered over a restart."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.bundle import read_manifest
from model.manifest import Example
from service.service import EMBEDDED_BUNDLE
from tests.model import tiny

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
MAX_IMAGE_BYTES = 700_000_000


def compose_command() -> list[str] | None:
    """`docker compose` or, before it, `docker-compose`; None where no engine answers."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        return None
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    compose = shutil.which("docker-compose")
    return None if compose is None else [compose]


@dataclass
class Deployment:
    command: list[str]
    environment: dict[str, str]
    url: str
    bundle: Path

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def container(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments, self.compose("ps", "-q", "service").strip()],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def inspect(self) -> dict[str, Any]:
        (fields,) = json.loads(self.container("inspect"))
        return fields

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 120
        while (health := self.inspect()["State"]["Health"])["Status"] != "healthy":
            assert time.monotonic() < deadline, json.dumps(health) + self.compose("logs")
            time.sleep(0.5)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, trust_env=False, **arguments)

    def best(self, example: Example) -> str:
        """Class id of the first prediction for an example of the bundle."""
        kind = "image/png" if example.file.endswith(".png") else "image/jpeg"
        image = (self.bundle / example.file).read_bytes()
        answer = self.request("POST", "/classify", content=image, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
        best: str = answer.json()["results"][0]["predictions"][0]["class_id"]
        return best


@pytest.fixture(scope="module", params=["embedded", "mounted"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    command = compose_command()
    if command is None:
        pytest.skip("no Docker engine with compose answers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bundle = EMBEDDED_BUNDLE
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("D3GZSL_", "COMPOSE_"))}
    environment |= {
        "COMPOSE_PROJECT_NAME": f"d3gzsl-test-{os.getpid()}-{request.param}",
        "D3GZSL_PUBLISHED_PORT": str(port),
    }
    if request.param == "mounted":
        bundle = tmp_path_factory.mktemp("mounted") / "tiny"
        tiny.write(bundle)
        environment["D3GZSL_BUNDLE_DIR"] = str(bundle)
    deployment = Deployment(command=command, environment=environment, url=f"http://127.0.0.1:{port}", bundle=bundle)
    try:
        deployment.compose("up", "-d", "--build")
        deployment.wait_until_healthy()
        yield deployment
    finally:
        subprocess.run([*command, "down", "--volumes"], cwd=ROOT, env=environment, capture_output=True, check=False)


def test_it_classifies_registers_and_remembers(deployment: Deployment) -> None:
    manifest = read_manifest(deployment.bundle)
    known = [e for e in manifest.examples if e.attributes is None]
    (stranger, *_) = [e for e in manifest.examples if e.attributes is not None]
    right = sum(deployment.best(example) == example.class_id for example in known)
    assert right > len(known) / 2
    assert deployment.best(stranger) != stranger.class_id

    described = {"id": stranger.class_id, "name": stranger.name, "attributes": list(stranger.attributes or ())}
    answer = deployment.request("POST", "/classes", json=described)
    assert answer.status_code == 201, answer.text
    assert deployment.best(stranger) == stranger.class_id

    deployment.compose("restart")
    deployment.wait_until_healthy()
    answer = deployment.request("GET", f"/classes/{stranger.class_id}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["attributes"] == described["attributes"]
    assert deployment.best(stranger) == stranger.class_id


def test_it_is_published_on_this_machine_only(deployment: Deployment) -> None:
    bindings = deployment.inspect()["NetworkSettings"]["Ports"]["8000/tcp"]
    assert [b["HostIp"] for b in bindings] == ["127.0.0.1"]


def test_the_container_can_do_little(deployment: Deployment) -> None:
    fields = deployment.inspect()
    assert fields["Config"]["User"] not in ("", "0", "root")
    assert fields["HostConfig"]["ReadonlyRootfs"] is True
    assert fields["HostConfig"]["CapDrop"] == ["ALL"]
    assert {m["Destination"] for m in fields["Mounts"] if m["RW"]} == {"/data"}


def test_the_image_is_small_and_holds_neither_torch_nor_compiler(deployment: Deployment) -> None:
    done = subprocess.run(
        ["docker", "image", "inspect", deployment.inspect()["Image"]], capture_output=True, text=True, check=True
    )
    (image,) = json.loads(done.stdout)
    assert image["Size"] <= MAX_IMAGE_BYTES
    code = (
        "import importlib.util as u, shutil; "
        "print([n for n in ('torch', 'torchvision', 'pip') if u.find_spec(n)], shutil.which('gcc'), shutil.which('cc'))"
    )
    assert deployment.compose("exec", "-T", "service", "python3", "-c", code).strip() == "[] None None"


def test_its_log_has_no_warning(deployment: Deployment) -> None:
    log = deployment.compose("logs", "--no-color")
    assert "serving bundle" in log
    # On a busy machine requests may be slow; `uvicorn.error` is the name of a logger.
    bad = re.compile(r" (WARNING|ERROR|CRITICAL) (?!\S+: slow request)|Traceback|Warning:")
    assert not [line for line in log.split("\n") if bad.search(line)]

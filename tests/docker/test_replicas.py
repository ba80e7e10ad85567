"""`docker/replicas.yml`: two services on one PostgreSQL behind nginx answer alike, and one of them may go away."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from model.bundle import read_manifest
from service.service import EMBEDDED_BUNDLE
from tests.docker.test_compose import ROOT, compose_command

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


@dataclass
class Replicas:
    command: list[str]
    environment: dict[str, str]
    url: str

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, "-f", "docker/replicas.yml", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, trust_env=False, **arguments)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 180
        while True:
            try:
                if all(self.request("GET", "/readyz").status_code == 200 for _ in range(6)):  # both take turns
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, self.compose("logs")
            time.sleep(0.5)


@pytest.fixture(scope="module")
def replicas() -> Iterator[Replicas]:
    command = compose_command()
    if command is None:
        pytest.skip("no Docker engine with compose answers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("D3GZSL_", "COMPOSE_", "POSTGRES_"))}
    environment |= {"COMPOSE_PROJECT_NAME": f"d3gzsl-test-{os.getpid()}-replicas", "D3GZSL_PUBLISHED_PORT": str(port)}
    started = Replicas(command, environment, f"http://127.0.0.1:{port}")
    try:
        started.compose("up", "-d", "--build")
        started.wait_until_ready()
        yield started
    finally:
        down = [*command, "-f", "docker/replicas.yml", "down", "--volumes"]
        subprocess.run(down, cwd=ROOT, env=environment, capture_output=True, check=False)


def test_a_class_is_known_everywhere_and_outlives_a_service(replicas: Replicas) -> None:
    manifest = read_manifest(EMBEDDED_BUNDLE)
    (stranger, *_) = [e for e in manifest.examples if e.attributes is not None]
    described = {"id": stranger.class_id, "name": stranger.name, "attributes": list(stranger.attributes or ())}
    registered = replicas.request("POST", "/classes", json=described)
    assert registered.status_code == 201, registered.text
    version = registered.json()["registry_version"]

    def ask() -> dict[str, Any]:
        image = (EMBEDDED_BUNDLE / stranger.file).read_bytes()
        answer = replicas.request(
            "POST",
            f"/classify?min_registry_version={version}",
            content=image,
            headers={"content-type": "image/png" if stranger.file.endswith(".png") else "image/jpeg"},
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["results"][0]
        return found

    answers = [ask() for _ in range(8)]
    assert answers[0]["predictions"][0]["class_id"] == stranger.class_id
    assert all(answer == answers[0] for answer in answers)
    replicas.compose("kill", "one")
    assert [ask() for _ in range(8)] == answers
    replicas.compose("start", "one")
    replicas.compose("kill", "two")
    replicas.wait_until_ready()
    assert [ask() for _ in range(8)] == answers

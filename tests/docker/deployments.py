"""What the tests of containers share: an engine, a project of Compose, requests to what runs in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.bundle import read_manifest
from model.manifest import Example

ROOT = Path(__file__).parents[2]


def compose_command() -> list[str] | None:
    """`docker compose` or, before it, `docker-compose`; None where no engine answers."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        return None
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    compose = shutil.which("docker-compose")
    return None if compose is None else [compose]


def has_image(name: str) -> bool:
    """Whether the engine has an image; base images cannot be fetched everywhere."""
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


def docker(*arguments: str) -> str:
    """Standard output of a command of the engine."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass
class Project:
    """A project of Compose.

    Attributes:
        command: what runs Compose, with profiles.
        environment: of every call.
        url: of what answers.
    """

    command: list[str]
    environment: dict[str, str]
    url: str
    ports: dict[str, int] = field(default_factory=dict)

    def compose(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def containers(self, service: str) -> list[str]:
        """Ids of the containers of a service."""
        return self.compose("ps", "-q", service).split()

    def inspect(self, service: str = "service") -> dict[str, Any]:
        """What the engine knows of the one container of a service."""
        (container,) = self.containers(service)
        (fields,) = json.loads(docker("inspect", container))
        return fields

    def wait_until_healthy(self, service: str = "service") -> None:
        deadline = time.monotonic() + 180
        for container in self.containers(service):
            while (state := json.loads(docker("inspect", container))[0]["State"])["Health"]["Status"] != "healthy":
                assert time.monotonic() < deadline, json.dumps(state) + self.compose("logs", service)
                time.sleep(0.5)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, trust_env=False, **arguments)

    def classify(self, image: Path, query: str = "", **arguments: Any) -> httpx.Response:
        kind = {"content-type": "image/png" if image.suffix == ".png" else "image/jpeg"}
        kind |= arguments.pop("headers", {})
        return self.request("POST", f"/classify{query}", content=image.read_bytes(), headers=kind, **arguments)

    def best(self, bundle: Path, example: Example) -> str:
        """Class id of the first prediction for an example of the bundle."""
        answer = self.classify(bundle / example.file)
        assert answer.status_code == 200, answer.text
        best: str = answer.json()["results"][0]["predictions"][0]["class_id"]
        return best


@contextmanager
def project(name: str, *profiles: str, port: str = "D3GZSL_PUBLISHED_PORT", **environment: str) -> Iterator[Project]:
    """A project with ports of its own, which is taken down with its volumes; skips where no engine answers.

    Args:
        name: of the project, made unique for this process.
        profiles: of the compose file.
        port: the variable of the port that `url` has.
        environment: more variables.
    """
    command = compose_command()
    if command is None:
        pytest.skip("no Docker engine with compose answers")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("D3GZSL_", "COMPOSE_"))}
    published = ("PUBLISHED", "REPLICAS", "GPU", "PROMETHEUS", "GRAFANA")
    ports = {f"D3GZSL_{name}_PORT": free_port() for name in published}
    variables |= {variable: str(number) for variable, number in ports.items()} | environment
    variables["COMPOSE_PROJECT_NAME"] = f"d3gzsl-test-{os.getpid()}-{name}"
    with_profiles = [*command, *(word for profile in profiles for word in ("--profile", profile))]
    made = Project(with_profiles, variables, f"http://127.0.0.1:{ports[port]}", ports)
    try:
        yield made
    finally:
        down = [*with_profiles, "down", "--volumes", "--timeout", "3"]
        subprocess.run(down, cwd=ROOT, env=variables, capture_output=True, check=False)


def stranger(bundle: Path) -> tuple[Example, dict[str, Any]]:
    """An example of a class that the bundle does not know, and the document that registers the class."""
    found = next(e for e in read_manifest(bundle).examples if e.attributes is not None)
    return found, {"id": found.class_id, "name": found.name, "attributes": list(found.attributes or ())}

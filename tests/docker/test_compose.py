"""`docker compose up`: the built image classifies, registers, keeps what was registered, and ends without a loss."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from model.bundle import read_manifest
from service.keys import digest, new_key
from service.settings import EMBEDDED_BUNDLE
from tests.docker.deployments import ROOT, Project, docker, project, stranger
from tests.model import tiny
from tests.pages import inline
from tests.test_readme import NEW, PHOTOGRAPHED, TRY_IT, UNSEEN, classify_photo, curls, ids, shell

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200), pytest.mark.usefixtures("built")]

MAX_IMAGE_BYTES = 700_000_000
FORMER = "38d59d1a8451ec86b3fbbaa9925f905523926817"
"""A commit whose registries have the tables of before example photos."""


@dataclass
class Deployment:
    project: Project
    bundle: Path


@pytest.fixture(scope="module", params=["embedded", "mounted"])
def deployment(
    built: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    bundle, environment = EMBEDDED_BUNDLE, {}
    if request.param == "mounted":
        bundle = tmp_path_factory.mktemp("mounted") / "tiny"
        tiny.write(bundle)
        environment["D3GZSL_BUNDLE_DIR"] = str(bundle)
    with project(request.param, **environment) as running:
        running.compose("up", "-d", "--no-build")
        running.wait_until_healthy()
        yield Deployment(running, bundle)


def test_what_the_readme_tries_is_answered(deployment: Deployment) -> None:
    if deployment.bundle != EMBEDDED_BUNDLE:
        pytest.skip("the lines of the README are about the embedded bundle")
    classify_unseen, classify_before, register, classify_after, register_photo = curls(TRY_IT)
    (remove,) = [code for code in inline(TRY_IT) if code.startswith("curl ")]
    assert ids(json.loads(shell(classify_unseen, deployment.project)))[0] == UNSEEN
    assert NEW not in ids(json.loads(shell(classify_before, deployment.project)))
    assert json.loads(shell(register, deployment.project))["id"] == NEW
    assert ids(json.loads(shell(classify_after, deployment.project)))[0] == NEW
    assert json.loads(shell(register_photo, deployment.project))["examples"] == 1
    assert ids(json.loads(shell(classify_photo(classify_after), deployment.project)))[0] == PHOTOGRAPHED
    assert shell(remove, deployment.project) == ""
    assert NEW not in ids(json.loads(shell(classify_after, deployment.project)))


def test_it_classifies_registers_and_remembers(deployment: Deployment) -> None:
    running, bundle = deployment.project, deployment.bundle
    known = [e for e in read_manifest(bundle).examples if e.attributes is None]
    unknown, described = stranger(bundle)
    right = sum(running.best(bundle, example) == example.class_id for example in known)
    assert right > len(known) / 2
    assert running.best(bundle, unknown) != unknown.class_id

    answer = running.request("POST", "/classes", json=described)
    assert answer.status_code == 201, answer.text
    assert running.best(bundle, unknown) == unknown.class_id

    running.compose("down")
    running.compose("up", "-d")
    running.wait_until_healthy()
    answer = running.request("GET", f"/classes/{unknown.class_id}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["attributes"] == described["attributes"]
    assert running.best(bundle, unknown) == unknown.class_id


def test_it_is_published_on_this_machine_only(deployment: Deployment) -> None:
    bindings = deployment.project.inspect()["NetworkSettings"]["Ports"]["8000/tcp"]
    assert [b["HostIp"] for b in bindings] == ["127.0.0.1"]


def test_the_container_can_do_little(deployment: Deployment) -> None:
    fields = deployment.project.inspect()
    assert fields["Config"]["User"] not in ("", "0", "root")
    assert fields["HostConfig"]["ReadonlyRootfs"] is True
    assert fields["HostConfig"]["CapDrop"] == ["ALL"]
    assert {m["Destination"] for m in fields["Mounts"] if m["RW"]} == {"/data"}


def test_the_image_is_small_and_holds_neither_torch_nor_compiler(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        ["docker", "image", "inspect", deployment.project.inspect()["Image"]],
        capture_output=True,
        text=True,
        check=True,
    )
    (image,) = json.loads(done.stdout)
    with capsys.disabled():
        sys.stdout.write(f"\nthe image of the service has {image['Size'] / 1e6:.0f} MB\n")
    assert image["Size"] <= MAX_IMAGE_BYTES
    code = (
        "import importlib.util as u, shutil; "
        "print([n for n in ('torch', 'torchvision', 'pip') if u.find_spec(n)], shutil.which('gcc'), shutil.which('cc'))"
    )
    assert deployment.project.compose("exec", "-T", "service", "python3", "-c", code).strip() == "[] None None"


def test_its_log_has_no_warning(deployment: Deployment) -> None:
    log = deployment.project.compose("logs", "--no-color")
    assert "serving bundle" in log
    # On a busy machine requests may be slow; `uvicorn.error` is the name of a logger.
    bad = re.compile(r" (WARNING|ERROR|CRITICAL) (?!\S+: slow request)|Traceback|Warning:")
    assert not [line for line in log.split("\n") if bad.search(line)]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_come_by_a_secret_file(tmp_path: Path) -> None:
    key, file = new_key(), tmp_path / "keys.txt"
    file.write_text(f"classify:{digest(key)}\n")
    file.chmod(0o644)
    with project("keys", D3GZSL_KEYS_FILE=str(file)) as running:
        running.compose("up", "-d", "--no-build")
        running.wait_until_healthy()
        assert running.request("GET", "/classes").status_code == 401
        assert running.request("GET", "/classes", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert digest(key) not in json.dumps(running.inspect()["Config"])


# --- the end ----------------------------------------------------------------------------------------------------------


@dataclass
class Asker:
    """Asks again and again, each time on a connection of its own, until nobody takes connections any more."""

    url: str
    image: bytes
    name: str
    end: threading.Event
    answered: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)

    def run(self) -> None:
        """Note the ids of requests that were answered, and of those whose connection broke."""
        while not self.end.is_set():
            request_id = f"{self.name}-{len(self.answered) + len(self.broken)}"
            headers = {"content-type": "image/jpeg", "host": "localhost", "x-request-id": request_id}
            try:
                answer = httpx.post(
                    f"{self.url}/classify", content=self.image, headers=headers, timeout=60, trust_env=False
                )
            except httpx.ConnectError:
                return
            except httpx.TransportError:
                self.broken.append(request_id)
                continue
            self.answered.append(request_id)
            self.statuses.add(answer.status_code)


def begun(address: str, image: bytes) -> HTTPConnection:
    """A request of which half the body has been sent."""
    connection = HTTPConnection(address, 8000, timeout=60)
    connection.putrequest("POST", "/classify", skip_host=True)
    for name, value in (("Host", "localhost"), ("Content-Type", "image/jpeg"), ("Content-Length", str(len(image)))):
        connection.putheader(name, value)
    connection.endheaders(image[: len(image) // 2])
    return connection


def logged(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_a_stop_under_load_loses_no_request_that_was_taken() -> None:
    """A request that is in the log was taken, and its client has the answer. What was not taken was never begun."""
    example, _ = stranger(EMBEDDED_BUNDLE)
    image = (EMBEDDED_BUNDLE / example.file).read_bytes()
    with project("stop") as running:
        running.compose("up", "-d", "--no-build")
        running.wait_until_healthy()
        (container,) = running.containers("service")
        (network,) = running.inspect()["NetworkSettings"]["Networks"].values()
        address = network["IPAddress"]  # the published port has a proxy of Docker's before it
        end = threading.Event()
        askers = [Asker(f"http://{address}:8000", image, f"asker{i}", end) for i in range(8)]
        with ThreadPoolExecutor(9) as pool:
            try:
                asking = [pool.submit(asker.run) for asker in askers]
                deadline = time.monotonic() + 60
                while not all(asker.answered for asker in askers):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                at_work = [begun(address, image) for _ in range(3)]
                stopping = pool.submit(docker, "stop", "--time", "30", container)
                while "stopping:" not in logged(container):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                answers = []
                for connection in at_work:
                    connection.send(image[len(image) // 2 :])
                    answers.append(connection.getresponse().status)
                    connection.close()
                for future in (*asking, stopping):
                    future.result(timeout=60)
            finally:
                end.set()
        state = json.loads(docker("inspect", container))[0]["State"]
        log = logged(container)
    assert answers == [200] * 3
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)  # it ended by itself; 137 would be Docker's patience
    assert set().union(*(asker.statuses for asker in askers)) == {200}
    taken = set(re.findall(r"asker\d+-\d+", log))
    assert taken == {request_id for asker in askers for request_id in asker.answered}
    assert not taken & {request_id for asker in askers for request_id in asker.broken}
    assert "given up" not in log


# --- upgrade ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def former(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An image of the service as it was, and the bundle of that time."""
    archive = subprocess.run(["git", "archive", "--format=tar", FORMER], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"this clone has no commit {FORMER}")
    tree = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tree, filter="data")
    # The code of then with the packages of today, whose layer is there already.
    shutil.rmtree(tree / "requirements")
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    image = f"d3gzsl-test-former-{os.getpid()}"
    docker("build", "--quiet", "--tag", image, "--file", str(ROOT / "docker" / "service.Dockerfile"), str(tree))
    try:
        yield image, tree / "service" / "demo_bundle"
    finally:
        subprocess.run(["docker", "image", "rm", image], capture_output=True, check=False)


def test_a_volume_of_the_former_image_is_served_and_keeps_its_answers(former: tuple[str, Path]) -> None:
    image, bundle = former
    example, described = stranger(bundle)
    with project("upgrade", D3GZSL_BUNDLE_DIR=str(bundle)) as running:
        running.compose("up", "-d", "--no-build", D3GZSL_IMAGE=image)
        running.wait_until_healthy()
        assert running.request("POST", "/classes", json=described).status_code == 201
        other = {**described, "id": "gone", "name": "gone"}
        assert running.request("POST", "/classes", json=other).status_code == 201
        assert running.request("DELETE", "/classes/gone").status_code == 204
        before = running.classify(bundle / example.file).json()
        assert before["registry_version"] == 3
        assert before["results"][0]["predictions"][0]["class_id"] == example.class_id

        running.compose("up", "-d", "--no-build")
        running.wait_until_healthy()
        assert docker("inspect", "--format", "{{.Config.Image}}", *running.containers("service")).strip() != image
        after = running.classify(bundle / example.file).json()
        assert (after["bundle"], after["registry_version"]) == (before["bundle"], 3)
        ranked = [(p["class_id"], p["probability"]) for p in after["results"][0]["predictions"]]
        assert ranked == [(p["class_id"], p["probability"]) for p in before["results"][0]["predictions"]]
        kept = running.request("GET", "/registry/versions").json()
        assert sorted(v["registry_version"] for v in kept["versions"]) == [1, 2, 3]
        assert running.request("POST", "/registry:rollback", json={"version": 2}).status_code == 200
        assert running.request("GET", "/classes/gone").status_code == 200

"""`d3gzsl serve --workers N` as real processes: one port, one registry, none missing for long."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.server.supervisor import bind, number_of_workers, url_of, worker_settings
from service.settings import Settings
from tests.service.processes import Server, d3gzsl, serving
from tests.service.tiny import VIOLET, png

VIOLET_IMAGE: dict[str, Any] = {"content": png((230, 0, 230)), "headers": {"content-type": "image/png"}}


def children(server: Server) -> set[int]:
    """Processes of the service, without the one of `multiprocessing` that keeps its resources."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line}


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that the tests may share."""
    with two_workers(bundle_dir, tmp_path_factory.mktemp("pair")) as started:
        yield started


@pytest.fixture
def server(bundle_dir: Path, tmp_path: Path) -> Iterator[Server]:
    """Two workers that a test may end."""
    with two_workers(bundle_dir, tmp_path) as started:
        yield started


@contextmanager
def two_workers(bundle: Path, data_dir: Path) -> Iterator[Server]:
    with serving(bundle, data_dir, "--workers", "2") as started:
        until(lambda: len(children(started)) == 2)
        yield started


def classify(server: Server) -> str:
    answer = server.request("POST", "/classify", **VIOLET_IMAGE)
    assert answer.status_code == 200, answer.text
    first: str = answer.json()["results"][0]["predictions"][0]["class_id"]
    return first


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_class_is_known_to_every_worker_from_the_next_request_on(pair: Server) -> None:
    one, other = sorted(children(pair))
    until(lambda: _listens(one, pair) and _listens(other, pair))
    for i, (answering, resting) in enumerate([(one, other), (other, one), (one, other)], start=1):
        with paused(resting):
            assert pair.request("GET", "/registry").json()["registry_version"] == i - 1
            document = {"id": f"violet-{i}", "name": "Violet", "attributes": [*VIOLET]}
            assert pair.request("POST", "/classes", json=document).status_code == 201
        with paused(answering):
            assert pair.request("GET", "/registry").json()["registry_version"] == i
            assert classify(pair).startswith("violet-")


def _listens(pid: int, server: Server) -> bool:
    """Whether a worker answers when the others rest."""
    with ExitStack() as stack:
        for resting in children(server) - {pid}:
            stack.enter_context(paused(resting))
        try:
            return httpx.get(server.url + "/readyz", timeout=1).status_code == 200
        except httpx.TransportError:
            return False


def test_a_worker_that_dies_is_replaced_and_the_others_answer_meanwhile(pair: Server) -> None:
    before = children(pair)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in children(pair))
    for _ in range(5):
        classify(pair)
    until(lambda: len(children(pair)) == 2)
    assert len(children(pair) & before) == 1
    until(lambda: f"worker {victim} died with status -9" in pair.log.text)
    os.kill((children(pair) & before).pop(), signal.SIGKILL)  # so the new one has to answer
    until(lambda: _answers(pair))


def _answers(server: Server) -> bool:
    try:
        return server.request("POST", "/classify", **VIOLET_IMAGE).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_sigterm_finishes_what_was_begun(server: Server) -> None:
    pids = children(server)
    sent = threading.Event()

    def slow_body() -> Iterator[bytes]:
        body = VIOLET_IMAGE["content"]
        yield body[:10]
        sent.set()
        time.sleep(1.0)
        yield body[10:]

    answers: list[int] = []

    def ask() -> None:
        answers.append(
            server.request("POST", "/classify", content=slow_body(), headers=VIOLET_IMAGE["headers"]).status_code
        )

    asking = threading.Thread(target=ask)
    asking.start()
    assert sent.wait(10)
    time.sleep(0.2)
    server.process.send_signal(signal.SIGTERM)
    asking.join(30)
    assert answers == [200]
    assert server.process.wait(30) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "is killed" not in server.log.text


@pytest.mark.slow
def test_workers_end_with_a_supervisor_that_is_killed(server: Server) -> None:
    pids = children(server)
    server.process.kill()
    server.process.wait(10)
    until(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        state = re.search(r"\) (\w)", Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return False
    return state is not None and state[1] != "Z"


def test_what_cannot_start_says_so_once_and_ends(bundle_dir: Path, tmp_path: Path) -> None:
    result = d3gzsl("serve", "--port", "0", "--workers", "2", "--bundle", tmp_path / "none", "--data-dir", tmp_path)
    assert result.returncode == 2
    assert "d3gzsl: no bundle at" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("chosen", "provider", "cpus", "workers"),
    [("auto", "cpu", 1, 1), ("auto", "cpu", 7, 1), ("auto", "cpu", 32, 4), ("auto", "cuda", 32, 1), (3, "cuda", 2, 3)],
)
def test_the_number_of_workers(chosen: Any, provider: Any, cpus: int, workers: int) -> None:
    settings = Settings(workers=chosen, provider=provider)
    assert number_of_workers(settings, cpus=cpus) == workers


def test_workers_share_the_cpus_unless_threads_are_chosen() -> None:
    assert worker_settings(Settings(), 3, cpus=8).threads == 2
    assert worker_settings(Settings(), 3, cpus=2).threads == 1
    assert worker_settings(Settings(threads=5), 3, cpus=8).threads == 5


def test_the_url_of_a_socket() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    with bind("::1", 0) as listener:
        assert url_of(listener).startswith("http://[::1]:")

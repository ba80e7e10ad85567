"""A worker that is killed, and the end of the service, while clients ask all the time."""

from __future__ import annotations

import collections
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.service.processes import Server, serving
from tests.service.promises import IMAGE
from tests.service.test_workers import children, two_workers, until

CLIENTS = 4


class Load:
    """Clients that ask about an image again and again, each time on a new connection."""

    def __init__(self, url: str, *, until_failure: bool) -> None:
        self.statuses: collections.Counter[int] = collections.Counter()
        self.broken: list[str] = []
        self._url, self._until_failure, self._over = url, until_failure, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, headers={"connection": "close"}) as client:
            while not self._over.is_set():
                try:
                    self.statuses[client.post("/classify", **IMAGE).status_code] += 1
                except httpx.TransportError as error:
                    self.broken.append(repr(error))
                    if self._until_failure:
                        return

    def more(self, number: int) -> None:
        """Wait for so many further answers."""
        before = self.statuses.total()
        until(lambda: self.statuses.total() >= before + number)

    def join(self) -> None:
        """Wait for the end of every client."""
        for thread in self._threads:
            thread.join()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """The block runs under this load."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            self.join()


def test_others_answer_while_a_worker_is_killed_and_replaced(bundle_dir: Path, tmp_path: Path) -> None:
    with two_workers(bundle_dir, tmp_path) as server:
        load = Load(server.url, until_failure=False)
        with load.going_on():
            load.more(20)
            victim = min(children(server))
            os.kill(victim, signal.SIGKILL)
            load.more(20)
            until(lambda: victim not in children(server) and len(children(server)) == 2)
            load.more(20)
    assert set(load.statuses) == {200}
    assert len(load.broken) <= CLIENTS, load.broken  # those that the victim was at work for
    assert f"worker {victim} died with status -9" in server.log.text


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_end_under_load_answers_what_was_begun(bundle_dir: Path, tmp_path: Path, workers: str) -> None:
    with serving(bundle_dir, tmp_path, "--workers", workers, "--threads", "1") as server:
        load = Load(server.url, until_failure=True)
        with load.going_on():
            load.more(20)
            server.process.send_signal(signal.SIGTERM)
            status = server.process.wait(120)
            load.join()
        _look_at_the_end(server, load, status)


def _look_at_the_end(server: Server, load: Load, status: int) -> None:
    assert status in (0, -signal.SIGTERM), server.log.text
    assert set(load.statuses) <= {200, 503}
    assert len(load.broken) == CLIENTS  # each only where nobody listened any more
    assert "Traceback" not in server.log.text
    assert "have not ended within" not in server.log.text

"""Starts `d3gzsl serve` many times from one process that has everything imported already.

Run as a program it reads a line of JSON for each process: its arguments and environment and a file for its standard
error. It answers with the id of the process; a line with an id is answered when that process has ended.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.settings import EMBEDDED_BUNDLE
from tests.service.processes import ROOT, Address, environment

HANG = 300.0


class Nursery:
    """The program and how to talk to it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._program = subprocess.Popen(
            [sys.executable, str(Path(__file__).absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
            text=True,
        )

    def close(self) -> None:
        with self._program as program:
            assert program.stdin is not None
            program.stdin.close()

    @contextmanager
    def serving(self, *flags: str) -> Iterator[tuple[str, int]]:
        """URL and process id of a service that is ready; it is killed at the end."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        pid = self._ask({"arguments": ["serve", "--port", str(port), *flags], "log": str(self._log)})
        try:
            end = time.monotonic() + HANG
            while not _ready(port):
                assert time.monotonic() < end, self._log.read_text()[-3000:]
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}", pid
        finally:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so that the number is still its own
            self._ask(pid)

    @contextmanager
    def server(self, bundle: Path | None, data_dir: Path, *flags: str) -> Iterator[Address]:
        """Like `tests.service.processes.serving`, for tests that only talk to it."""
        where = ["--bundle", str(bundle or EMBEDDED_BUNDLE), "--data-dir", str(data_dir)]
        with self.serving(*where, *flags) as (url, _):
            yield Address(url=url)

    def _ask(self, question: object) -> int:
        program = self._program
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(question) + "\n")
        program.stdin.flush()
        return int(program.stdout.readline())


def _ready(port: int) -> bool:
    """Whether the service answers that it is; asked so often that a new client of httpx each time would cost more."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    try:
        asking.request("GET", "/readyz")
        return asking.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asking.close()


def _serve(arguments: list[str], log: str) -> None:
    from service.cli import main

    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 2)
    os.dup2(stream, 1)
    sys.argv = ["d3gzsl", *arguments]
    main()


def _try_graphs(arguments: list[str]) -> None:
    """Have a bundle's graphs tried, which takes a second, before the first service with it: it inherits what passed."""
    from model.bundle import Bundle
    from service.inference.graph import synthesizer_graph, trunk_graph
    from service.inference.trial import try_graphs

    bundle = Bundle.load(Path(arguments[arguments.index("--bundle") + 1]))
    try_graphs(*(trunk_graph(bundle, precision) for precision in bundle.precisions), synthesizer_graph(bundle))


def _program() -> None:
    import anyio._backends._asyncio  # noqa: F401
    import onnxruntime  # noqa: F401
    import sqlalchemy.dialects.postgresql
    import sqlalchemy.dialects.sqlite  # noqa: F401
    import uvicorn.protocols.http.h11_impl  # noqa: F401
    from alembic import command  # noqa: F401

    import service.commands.serve
    import service.server.process  # noqa: F401  # the application, which `serve` imports late

    for line in sys.stdin:
        question = json.loads(line)
        if isinstance(question, int):
            answer = os.waitpid(question, 0)[1]
        else:
            _try_graphs(question["arguments"])
            answer = os.fork()
            if answer == 0:
                try:
                    _serve(**question)
                finally:
                    os._exit(1)
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    _program()

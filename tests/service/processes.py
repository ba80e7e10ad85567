"""Commands in processes of their own."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from service.cli import main

ROOT = Path(__file__).parents[2]
_LISTENING = re.compile(r"on (http://[^\s\"]+)")


class Log(threading.Thread):
    """What processes say, read so that they never wait for a full pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._stream, self.text = process.stderr, ""

    def run(self) -> None:
        assert self._stream is not None
        with suppress(ValueError):  # closed, when the processes have ended
            for line in self._stream:
                self.text += line


@dataclass(kw_only=True)
class Address:
    """Where a service answers."""

    url: str

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, **arguments)


@dataclass(kw_only=True)
class Server(Address):
    process: subprocess.Popen[str]
    log: Log


def environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("D3GZSL_", "COLUMNS"))}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}


def d3gzsl(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def serving(bundle: Path | None, data_dir: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """`d3gzsl serve` on a free port, until the block is left; with the embedded bundle where none is given."""
    chosen = [] if bundle is None else ["--bundle", str(bundle)]
    where = [*chosen, "--data-dir", str(data_dir), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", *where, *flags],
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            started = Server(url=_url(process), process=process, log=Log(process))
            started.log.start()
            yield started
        finally:
            process.kill()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := _LISTENING.search(line):
            return found[1]
    raise AssertionError(f"the service did not start:\n{said}")


def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which spares it the imports; with its real entry point, output and status."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["d3gzsl", *map(str, arguments)]),
        patch.dict(os.environ, {"COLUMNS": "200", **variables}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())

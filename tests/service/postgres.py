"""A PostgreSQL server of its own for tests, on a Unix socket in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

BINARIES = (*(Path(d) for d in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),)


def binary(name: str) -> str:
    """Path of a program of PostgreSQL; skips the test where there is none."""
    found = next((str(d / name) for d in BINARIES if (d / name).is_file()), shutil.which(name))
    if found is None:
        pytest.skip(f"needs PostgreSQL's {name}")
    return found


@dataclass
class Postgres:
    folder: Path
    account: list[str]

    def run(self, *arguments: str, check: bool = True) -> None:
        subprocess.run([*self.account, *arguments], check=check, capture_output=True, cwd="/")

    def start(self) -> None:
        # Its own durability is not on trial here, and syncing every file after a crash takes seconds.
        options = f"-c fsync=off -c listen_addresses= -c unix_socket_directories={self.folder} -c max_connections=60"
        control = [binary("pg_ctl"), "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options]
        self.run(*control, "-w", "-t", "60", "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run(binary("pg_ctl"), "-D", str(self.folder / "data"), "-m", mode, "-w", "stop", check=False)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The server with all its processes stopped: it is there and answers nothing."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = [first, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def database(self, *options: str) -> str:
        """The URL of a new, empty database, made with options of `createdb`."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.run(binary("createdb"), "-h", str(self.folder), "-U", "postgres", *options, name)
        return f"postgresql://postgres@/{name}?host={self.folder}"


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running server; the server refuses to run as root, so that root runs it as nobody."""
    initdb, account = binary("initdb"), []
    folder = Path(tempfile.mkdtemp(prefix="d3gzsl-pg-"))  # short: the path of a socket has at most 107 bytes
    if os.geteuid() == 0:
        setpriv, nobody = shutil.which("setpriv"), pwd.getpwnam("nobody")
        if setpriv is None:
            pytest.skip("needs setpriv to run PostgreSQL as another user than root")
        account = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    server = Postgres(folder, account)
    try:
        server.run(initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

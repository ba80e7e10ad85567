"""A PostgreSQL server of its own for tests, on a Unix socket in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        done = subprocess.run([*self.account, *arguments], capture_output=True, cwd="/", text=True)
        if check and done.returncode:
            log = self.folder / "log"
            written = log.read_text(errors="replace")[-4000:] if log.exists() else ""
            raise RuntimeError(f"{' '.join(arguments)}\n{done.stdout}{done.stderr}\nlog of the server:\n{written}")

    def start(self) -> None:
        # Its own durability is not on trial here, and syncing every file after a crash takes seconds.
        options = f"-c fsync=off -c listen_addresses= -c unix_socket_directories={self.folder} -c max_connections=60"
        control = [binary("pg_ctl"), "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options]
        self.run(*control, "-w", "-t", "60", "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run(binary("pg_ctl"), "-D", str(self.folder / "data"), "-m", mode, "-w", "stop", check=False)

    def kill(self) -> None:
        """`kill -9` for all processes of the server at once."""
        os.kill(self._processes()[0], signal.SIGSTOP)  # so that it starts none while the others are listed
        processes = self._processes()
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        while any(_runs(process) for process in processes):
            time.sleep(0.01)
        # A process that has ended and that nobody has waited for yet would be taken for a server that runs.
        (self.folder / "data" / "postmaster.pid").unlink()
        (self.folder / ".s.PGSQL.5432.lock").unlink()

    def backends(self, url: str) -> list[int]:
        """Processes that serve connections to a database, those in a transaction first."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() ORDER BY xact_start"
        with self.connected() as connection:
            return [row[0] for row in connection.execute(query, [url.partition("@/")[2].partition("?")[0]])]

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection of the administrator, which commits by itself."""
        import psycopg

        with psycopg.connect(f"postgresql://postgres@/postgres?host={self.folder}", autocommit=True) as connection:
            yield connection

    def _processes(self) -> list[int]:
        first = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        with suppress(OSError):
            return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        return [first]

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The server with all its processes stopped: it is there and answers nothing."""
        processes = self._processes()
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


def _runs(pid: int) -> bool:
    """Whether a process does anything still; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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

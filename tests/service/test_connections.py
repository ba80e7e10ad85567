"""Connections to `d3gzsl serve`: answers arrive, silence ends, and nobody is kept out by others."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.errors import SettingsError
from service.keys import digest
from service.server.process import most_connections
from service.settings import Settings
from tests.service.processes import Server, command, serving
from tests.service.tiny import png

IMAGE = png((255, 0, 0))
LIMITS = {
    "--header-timeout": "1",
    "--body-timeout": "1.5",
    "--idle-timeout": "2",
    "--max-connections": "40",
    "--max-request-bytes": "12000000",
    "--max-bytes-in-flight": "12000000",
    "--grace-period": "1",
}
CLASSES = b"POST /classes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def strict(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with limits that are reached soon."""
    flags = [word for flag in LIMITS.items() for word in flag]
    with serving(bundle_dir, tmp_path_factory.mktemp("strict"), *flags) as server:
        yield server


def connect(server: Server) -> socket.socket:
    at = urlsplit(server.url)
    connection = socket.create_connection((at.hostname, at.port))
    connection.settimeout(20)
    return connection


def rest(connection: socket.socket) -> bytes:
    """Everything until the end that the service makes."""
    said = b""
    while data := connection.recv(65536):
        said += data
    return said


def answer(server: Server, *pieces: bytes) -> tuple[int, str]:
    """Status and end of the problem's type of what is answered before the service closes."""
    with connect(server) as connection:
        for piece in pieces:
            connection.sendall(piece)
        said = rest(connection)
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head.lower()
    return int(head.split()[1]), json.loads(body)["type"].rpartition(":")[2]


def keep_sending(connection: socket.socket, data: bytes) -> None:
    for _ in range(1000):
        connection.sendall(data)


def ready(server: Server) -> bool:
    return server.request("POST", "/classify", content=IMAGE, headers={"content-type": "image/png"}).status_code == 200


@pytest.mark.parametrize("close", [True, False])
def test_a_refusal_arrives_though_nobody_read_the_body(strict: Server, close: bool) -> None:
    at = urlsplit(strict.url)
    headers = {"Content-Type": "text/plain", **({"Connection": "close"} if close else {})}
    for _ in range(20):
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=20)
        connection.request("POST", "/classify", bytes(6_000_000), headers)
        refused = connection.getresponse()
        assert (refused.status, refused.read()[:1]) == (415, b"{")
        if not close:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        connection.close()


def test_a_refused_body_is_not_read_without_end(strict: Server) -> None:
    with connect(strict) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        with pytest.raises(OSError):
            keep_sending(connection, bytes(1_000_000))


@pytest.mark.parametrize(
    ("head", "status", "problem"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed-request"),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, "malformed-request"),
        (b"Content-Length: five\r\n\r\n", 400, "malformed-request"),
        (b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "transfer-encoding-unknown"),
        *((b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabc", 400, "malformed-request")
          for size in (b"zz", b"-1", b"0x5", b"+5", b"", b"f" * 30)),
        (b"Transfer-Encoding: chunked\r\n\r\n5\nabcde", 408, "request-timeout"),
        (b"Content-Length: 100\r\n\r\n{", 408, "request-timeout"),
        (b"X: " + b"y" * 300_000, 431, "head-too-large"),
    ],
)  # fmt: skip
def test_what_is_no_whole_request_gets_an_answer(strict: Server, head: bytes, status: int, problem: str) -> None:
    assert answer(strict, CLASSES + head) == (status, problem)


def test_transfer_encoding_in_http_1_0_is_refused(strict: Server) -> None:
    head = CLASSES.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert answer(strict, head) == (400, "malformed-request")


def test_a_head_that_does_not_come_is_not_waited_for(strict: Server) -> None:
    assert answer(strict, HEALTH) == (408, "request-timeout")
    with connect(strict) as silent:
        assert rest(silent) == b""
    with connect(strict) as second:
        second.sendall(HEALTH + b"\r\n" + HEALTH)
        assert [part[:3] for part in rest(second).split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]


def test_an_idle_connection_is_kept_and_ended(strict: Server) -> None:
    with connect(strict) as connection:
        began = time.monotonic()
        connection.sendall(HEALTH + b"\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began > 1.2


def test_requests_behind_each_other_are_answered_in_order(strict: Server) -> None:
    last = HEALTH.replace(b"healthz", b"nowhere") + b"Connection: close\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall((HEALTH + b"\r\n") * 2 + last)
        assert [part[:3] for part in rest(connection).split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


def test_idle_connections_make_room_for_others(strict: Server) -> None:
    with ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(connect(strict))
        assert all(ready(strict) for _ in range(5))
    assert "Too many open files" not in strict.log.text


def test_connections_whose_bodies_do_not_come_make_room_for_others(strict: Server) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connect(strict)).sendall(CLASSES + b"Content-Length: 100\r\n\r\n{")
        time.sleep(1.1)
        assert ready(strict)


def test_unfinished_bodies_make_room_for_others(strict: Server) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(connect(strict))
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n")
            connection.sendall(b"Content-Length: 5000000\r\n\r\n" + bytes(4_000_000))
        assert all(ready(strict) for _ in range(5))
    assert ready(strict)


def test_a_client_that_reads_nothing_is_let_go(strict: Server) -> None:
    with connect(strict) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(OSError):
            keep_sending(connection, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
    assert ready(strict)


def test_the_limit_on_files_is_read_at_the_start() -> None:
    assert most_connections(Settings(), files=1024) == 768
    assert most_connections(Settings(), files=100_000) == most_connections(Settings(), files=-1) == 1000
    assert most_connections(Settings(max_connections=2000), files=4096) == 2000
    with pytest.raises(SettingsError, match="D3GZSL_MAX_CONNECTIONS is 2000 and needs a limit of 2256 open files"):
        most_connections(Settings(max_connections=2000), files=1024)
    with pytest.raises(SettingsError, match="more than 256 open files"):
        most_connections(Settings(), files=256)
    refused = command("serve", "--port", "0", "--max-connections", "no")
    assert refused.returncode == 2
    assert "--max-connections" in refused.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hangup_reads_the_keys_and_the_end_has_one_grace_period(bundle_dir: Path, tmp_path: Path, workers: str) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"admin:{digest('old')}")
    flags = ("--keys-file", str(keys), "--grace-period", "1", "--workers", workers, "--threads", "1")
    with serving(bundle_dir, tmp_path / "data", *flags) as server:

        def status(key: str) -> int:
            return server.request("GET", "/registry", headers={"authorization": f"Bearer {key}"}).status_code

        assert (status("old"), status("new")) == (200, 401)
        keys.write_text(f"admin:{digest('new')}")
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while {status("new") for _ in range(6)} != {200} and time.monotonic() < until:
            server.process.send_signal(signal.SIGHUP)  # a worker that is still starting has read the old ones
            time.sleep(0.1)
        assert (status("old"), status("new")) == (401, 200)

        with ExitStack() as stack:
            halves = [stack.enter_context(connect(server)) for _ in range(4)]
            for half in halves:
                half.sendall(CLASSES + b"Authorization: Bearer new\r\nContent-Length: 50\r\n\r\n{")
            time.sleep(0.3)
            os.kill(server.process.pid, signal.SIGTERM)
            assert [rest(half).split()[1] for half in halves] == [b"503"] * 4
            server.process.wait(15)
    assert "Traceback" not in server.log.text
    assert "requests at work have 1 seconds to end" in server.log.text
    assert "given up" in server.log.text

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from model.errors import DataError
from training import resnet
from training.download import download

CONTENT = bytes(range(256)) * 9000  # more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"weights-{SHA256[:8]}.pth"


class Files(BaseHTTPRequestHandler):
    """Serves CONTENT whole, cut short, after a redirect, or not at all; counts what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/missing/"):
            self.send_error(404)
            return
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/"))
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path.startswith("/cut/") else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def server(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("Handler", (Files,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_fetches_checks_and_reports_progress(server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(f"{server}/{NAME}", tmp_path / "deep" / NAME, progress=lambda got, total: seen.append((got, total)))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [NAME]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1
    assert seen == sorted(seen)


def test_follows_redirects_and_takes_a_full_checksum(server: str, tmp_path: Path) -> None:
    assert download(f"{server}/moved/any.bin", tmp_path / "f", sha256=SHA256).read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(server: str, tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    download(f"{server}/{NAME}", tmp_path / NAME)
    assert asked == []
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    download(f"{server}/{NAME}", tmp_path / NAME)
    assert len(asked) == 1
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_another_checksum_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"its sha256 is {SHA256}, expected 01234567"):
        download(f"{server}/weights-01234567.pth", tmp_path / "w.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("folder", "reason"), [("missing", "HTTP 404"), ("cut", "peer closed connection")])
def test_failed_transfer_leaves_nothing(server: str, tmp_path: Path, folder: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"cannot download {server}/{folder}/{NAME}: {reason}"):
        download(f"{server}/{folder}/{NAME}", tmp_path / NAME)
    assert not list(tmp_path.iterdir())


def test_without_a_checksum_nothing_is_fetched(server: str, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(DataError, match="no sha256 is known"):
        download(f"{server}/weights.pth", tmp_path / "w.pth")
    assert asked == []


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_offline_says_what_to_do(tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    url = f"http://127.0.0.1:{closed_port}/{NAME}"
    with pytest.raises(DataError) as caught:
        resnet.fetch_imagenet_weights(url=url)
    message = str(caught.value)
    assert message.startswith(f"cannot download {url}: ")
    assert f"its sha256 begins with {SHA256[:8]}" in message
    assert f"put it at {tmp_path / 'hub' / 'checkpoints' / NAME}" in message
    assert message.endswith("or pass a state dict of your own with --weights FILE")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_imagenet_weights_go_into_torchs_cache(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = resnet.fetch_imagenet_weights(url=f"{server}/{NAME}")
    assert path == tmp_path / "checkpoints" / NAME
    assert path.read_bytes() == CONTENT

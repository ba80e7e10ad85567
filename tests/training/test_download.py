from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.errors import DataError
from tests.training.file_server import FileServer, serving
from training import download as download_module
from training.download import download, transfer
from training.features import backbone_export

CONTENT = bytes(range(256)) * 9000  # more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"weights-{SHA256[:8]}.pth"
CUT = 1_500_000  # one chunk of the file arrives, and a part of the next


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(FileServer(files={f"/{NAME}": CONTENT, "/any.bin": CONTENT})) as served:
        yield served


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def interrupt(server: FileServer, path: Path) -> int:
    """Break off a download; the number of bytes that are kept."""
    server.cut = CUT
    with pytest.raises(DataError, match="peer closed connection") as caught:
        transfer(f"{server.url}/any.bin", path, sha256=None)
    server.cut = None
    server.asked.clear()
    partial = path.with_name(f"{path.name}.partial")
    kept = partial.stat().st_size if partial.exists() else 0
    assert (f"the {kept} bytes that came are kept, the same command goes on from there" in str(caught.value)) == (
        kept > 0
    )
    assert partial.read_bytes() == CONTENT[:kept] if kept else not list(path.parent.iterdir())
    return kept


# --- whole files ------------------------------------------------------------------------------------------------------


def test_fetches_checks_and_reports_progress(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    url, path = f"{server.url}/{NAME}", tmp_path / "deep" / NAME
    assert download(url, path, progress=lambda got, total: seen.append((got, total))) == path
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == [f"deep/{NAME}"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1
    assert seen == sorted(seen)


def test_follows_redirects_and_takes_a_full_checksum(server: FileServer, tmp_path: Path) -> None:
    assert download(f"{server.url}/moved/any.bin", tmp_path / "f", sha256=SHA256).read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    download(f"{server.url}/{NAME}", tmp_path / NAME)
    assert transfer(f"{server.url}/{NAME}", tmp_path / NAME, sha256=None) == SHA256
    assert server.asked == []
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    download(f"{server.url}/{NAME}", tmp_path / NAME)
    assert len(server.asked) == 1
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_another_checksum_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    server.files["/weights-01234567.pth"] = CONTENT
    with pytest.raises(DataError, match=f"its sha256 is {SHA256}, expected 01234567"):
        download(f"{server.url}/weights-01234567.pth", tmp_path / "w.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "cut", "reason"), [("gone-01234567.pth", None, "HTTP 404"), (NAME, 1000, "peer closed connection")]
)
def test_a_failed_transfer_of_nothing_worth_keeping_leaves_nothing(
    server: FileServer, tmp_path: Path, name: str, cut: int | None, reason: str
) -> None:
    server.cut = cut
    with pytest.raises(DataError, match=f"cannot download {server.url}/{name}: {reason}"):
        download(f"{server.url}/{name}", tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_a_checksum_nothing_is_fetched(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sha256 is known"):
        download(f"{server.url}/any.bin", tmp_path / "w.pth")
    with pytest.raises(DataError, match="expected 8 to 64 hexadecimal digits in lower case, got 'xyz'"):
        download(f"{server.url}/any.bin", tmp_path / "w.pth", sha256="xyz")
    assert server.asked == []


def test_the_checksum_of_what_came_is_told(server: FileServer, tmp_path: Path) -> None:
    assert transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None) == SHA256


def test_an_encoded_answer_is_decoded(server: FileServer, tmp_path: Path) -> None:
    server.encoding, server.files["/any.bin"] = "gzip", gzip.compress(CONTENT)
    assert transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=SHA256) == SHA256


def test_an_address_that_is_none(tmp_path: Path) -> None:
    for url in ("ftp://x/y", "no address", "http://[x"):
        with pytest.raises(DataError, match=r"cannot download|not an address"):
            transfer(url, tmp_path / "f", sha256=None)
    assert not list(tmp_path.iterdir())


# --- interrupted ones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", [{"etag": '"one"'}, {"etag": 'W/"one"', "last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"}]
)
def test_an_interrupted_download_goes_on(server: FileServer, tmp_path: Path, version: dict[str, str]) -> None:
    server.etag, server.last_modified = version["etag"], version.get("last_modified", "")
    kept = interrupt(server, tmp_path / "f")
    assert 0 < kept < CUT
    seen: list[tuple[int, int | None]] = []
    url = f"{server.url}/any.bin"
    assert transfer(url, tmp_path / "f", sha256=None, progress=lambda got, total: seen.append((got, total))) == SHA256
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == [("/any.bin", f"bytes={kept}-", server.last_modified or server.etag)]
    assert seen[0][0] > kept
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert files(tmp_path) == ["f"]


def test_it_can_be_interrupted_again_and_again(server: FileServer, tmp_path: Path) -> None:
    size = 5 << 20
    server.files["/any.bin"] = content = os.urandom(size)
    server.cut = 1_100_000
    for _ in range(4):
        with pytest.raises(DataError, match="are kept"):
            transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None)
    transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None)
    assert (tmp_path / "f").read_bytes() == content
    assert [asked[1] for asked in server.asked] == [None, *(f"bytes={n << 20}-" for n in range(1, 5))]


def test_a_server_without_parts_sends_all_of_it_again(server: FileServer, tmp_path: Path) -> None:
    kept = interrupt(server, tmp_path / "f")
    server.parts = False
    assert transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None) == SHA256
    assert [asked[1] for asked in server.asked] == [f"bytes={kept}-"]


def test_another_version_is_fetched_from_its_beginning(server: FileServer, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "f")
    server.etag, server.files["/any.bin"] = '"two"', CONTENT[::-1]
    transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None)
    assert (tmp_path / "f").read_bytes() == CONTENT[::-1]
    assert len(server.asked) == 1


@pytest.mark.parametrize("size", [len(CONTENT) + 10, 500])
def test_a_file_of_another_size_is_fetched_from_its_beginning_whatever_its_tag(
    server: FileServer, tmp_path: Path, size: int
) -> None:
    interrupt(server, tmp_path / "f")
    server.files["/any.bin"] = content = (CONTENT[::-1] + CONTENT)[:size]
    transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None)
    assert (tmp_path / "f").read_bytes() == content
    assert server.asked[1:] == [("/any.bin", None, None)]


def test_another_address_starts_anew(server: FileServer, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "f")
    transfer(f"{server.url}/{NAME}", tmp_path / "f", sha256=None)
    assert server.asked == [(f"/{NAME}", None, None)]


def test_without_a_version_nothing_is_kept(server: FileServer, tmp_path: Path) -> None:
    server.etag = 'W/"one"'
    assert interrupt(server, tmp_path / "f") == 0


def test_a_download_that_was_complete_but_for_its_name(server: FileServer, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "f")
    (tmp_path / "f.partial").write_bytes(CONTENT)
    assert transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None) == SHA256
    assert server.asked == [("/any.bin", f"bytes={len(CONTENT)}-", '"one"')]
    assert files(tmp_path) == ["f"]


@pytest.mark.parametrize("text", ["", "[]", '{"url": 1}'])
def test_a_damaged_version_file_starts_anew(server: FileServer, tmp_path: Path, text: str) -> None:
    interrupt(server, tmp_path / "f")
    (tmp_path / "f.partial.json").write_text(text)
    assert transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None) == SHA256
    assert server.asked == [("/any.bin", None, None)]


def test_a_damaged_part_is_found_by_the_checksum(server: FileServer, tmp_path: Path) -> None:
    kept = interrupt(server, tmp_path / "f")
    (tmp_path / "f.partial").write_bytes(bytes(kept))
    with pytest.raises(DataError, match=f"expected {SHA256} because I say so"):
        transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=SHA256, because=" because I say so")
    assert files(tmp_path) == []


def test_one_process_at_a_time(server: FileServer, tmp_path: Path) -> None:
    with (tmp_path / "f.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"f\.partial: another process is downloading this file"):
            transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None)
    assert server.asked == []


def test_no_space_left(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_module, "_copy", copy)
    with pytest.raises(DataError, match=r"f\.partial: No space left on device"):
        transfer(f"{server.url}/any.bin", tmp_path / "f", sha256=None)


# --- torchvision's weights --------------------------------------------------------------------------------------------


def test_offline_says_what_to_do(tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    url = f"http://127.0.0.1:{closed_port}/{NAME}"
    with pytest.raises(DataError) as caught:
        backbone_export.fetch_imagenet_weights(url=url)
    message = str(caught.value)
    assert message.startswith(f"cannot download {url}: ")
    assert f"its sha256 begins with {SHA256[:8]}" in message
    assert f"put it at {tmp_path / 'hub' / 'checkpoints' / NAME}" in message
    assert message.endswith("or pass a state dict of your own with --weights FILE")
    assert files(tmp_path) == []


def test_imagenet_weights_go_into_torchs_cache(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = backbone_export.fetch_imagenet_weights(url=f"{server.url}/{NAME}")
    assert path == tmp_path / "checkpoints" / NAME
    assert path.read_bytes() == CONTENT

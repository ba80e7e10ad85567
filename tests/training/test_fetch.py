from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.errors import DataError
from tests.training.file_server import FileServer, serving
from tests.training.matfiles import SEEN, UNSEEN, contents, write
from training import cli
from training.datasets import benchmark_rules
from training.datasets import fetch as fetch_module
from training.datasets.benchmark import load_benchmark
from training.datasets.benchmark_rules import Benchmark
from training.datasets.fetch import cache_folder, fetch, known_name

TINY = Benchmark(
    name="AWA1",
    images=40,
    seen=len(SEEN),
    unseen=len(UNSEEN),
    attributes=(4,),
    trainval=18,
    test_seen=6,
    test_unseen=16,
    unseen_ids=frozenset(UNSEEN),
)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """An archive like the public one: benchmarks of five classes, with more files than are wanted."""
    folder = write(tmp_path / "made", *contents())
    mats = {name: (folder / name).read_bytes() for name in ("res101.mat", "att_splits.mat")}
    return {
        "xlsa17/": b"",
        "xlsa17/data/AWA1/res101.mat": mats["res101.mat"],
        "xlsa17/data/AWA1/att_splits.mat": mats["att_splits.mat"],
        "xlsa17/data/AWA1/allclasses.txt": b"horse\n",
        "xlsa17/data/AWA2/res101.mat": b"of another benchmark",
        "xlsa17/data/AWA2/att_splits.mat": b"of another benchmark",
        "xlsa17/code/padding.bin": np.random.default_rng(0).bytes(2_500_000),
    }


@pytest.fixture
def server(members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    know(monkeypatch, TINY)
    with serving(FileServer(files={"/xlsa17.zip": zipped(members)})) as served:
        monkeypatch.setattr(fetch_module, "XLSA17", f"{served.url}/xlsa17.zip")
        yield served


def know(monkeypatch: pytest.MonkeyPatch, benchmark: Benchmark) -> None:
    """This benchmark is the only one in the world."""
    for place in (benchmark_rules, fetch_module):
        monkeypatch.setattr(place, "KNOWN", {benchmark.name: benchmark})


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_fetch_downloads_unpacks_and_checks(server: FileServer, members: dict[str, bytes], tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    fetched = fetch("AWA1", tmp_path / "data" / "AWA1", progress=lambda *step: steps.append(step))
    out = tmp_path / "data" / "AWA1"
    assert fetched.path == out
    assert fetched.changed
    assert files(tmp_path / "data") == ["AWA1/att_splits.mat", "AWA1/res101.mat", "AWA1/source.json"]
    assert (out / "res101.mat").read_bytes() == members["xlsa17/data/AWA1/res101.mat"]
    assert fetched.dataset.split["benchmark"] == "AWA1"
    content = server.files["/xlsa17.zip"]
    assert json.loads((out / "source.json").read_text()) == {
        "benchmark": "AWA1",
        "url": f"{server.url}/xlsa17.zip",
        "archive_sha256": sha256(content),
        "files": {name: sha256((out / name).read_bytes()) for name in ("res101.mat", "att_splits.mat")},
        "data_hash": load_benchmark(out).data_hash,
    }
    cache = cache_folder()
    assert cache == tmp_path / "cache" / "d3gzsl"
    assert files(cache) == ["xlsa17.zip", "xlsa17.zip.json"]
    assert json.loads((cache / "xlsa17.zip.json").read_text()) == {
        "url": f"{server.url}/xlsa17.zip",
        "sha256": sha256(content),
        "bytes": len(content),
    }
    assert [step[0] for step in steps] == sorted(step[0] for step in steps)
    assert ("download", len(content), len(content)) in steps
    assert steps[-1][0] == "unpack"
    assert steps[-1][1] == steps[-1][2]


def test_what_is_there_is_checked_and_not_fetched(server: FileServer, tmp_path: Path) -> None:
    out = tmp_path / "AWA1"
    first = fetch("AWA1", out)
    server.asked.clear()
    again = fetch("AWA1", out)
    assert (again.changed, again.source, again.dataset.data_hash) == (False, first.source, first.dataset.data_hash)
    other = fetch("AWA1", tmp_path / "elsewhere")  # from the cached archive
    assert other.source == first.source
    assert server.asked == []
    features, splits = contents()
    features["features"][0, 0] += 1
    write(out, features, splits)
    with pytest.raises(DataError, match=r"res101\.mat: changed since it was fetched: expected sha256 .*--overwrite"):
        fetch("AWA1", out)
    assert fetch("AWA1", out, overwrite=True).dataset.data_hash == first.dataset.data_hash
    assert files(out) == ["att_splits.mat", "res101.mat", "source.json"]


def test_an_interrupted_download_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.cut = 1_500_000
    with pytest.raises(DataError, match="the 1048576 bytes that came are kept, the same command goes on from there"):
        fetch("AWA1", tmp_path / "AWA1")
    assert not (tmp_path / "AWA1").exists()
    server.cut = None
    fetched = fetch("AWA1", tmp_path / "AWA1")
    assert [asked[1] for asked in server.asked] == [None, "bytes=1048576-"]
    assert fetched.source["archive_sha256"] == sha256(server.files["/xlsa17.zip"])
    assert files(cache_folder()) == ["xlsa17.zip", "xlsa17.zip.json"]


def test_a_wrong_checksum(server: FileServer, tmp_path: Path) -> None:
    right = sha256(server.files["/xlsa17.zip"])
    with pytest.raises(DataError, match=f"not the one expected: its sha256 is {right}, expected {'0' * 64}"):
        fetch("AWA1", tmp_path / "AWA1", sha256="0" * 64)
    assert files(cache_folder()) == []
    assert not (tmp_path / "AWA1").exists()
    assert fetch("AWA1", tmp_path / "AWA1", sha256=right[:12].upper()).source["archive_sha256"] == right


def test_a_later_download_must_be_the_same_file(server: FileServer, members: dict[str, bytes], tmp_path: Path) -> None:
    fetch("AWA1", tmp_path / "first")
    (cache_folder() / "xlsa17.zip").unlink()
    server.files["/xlsa17.zip"] = other = zipped(members | {"new.txt": b"new"})
    record = cache_folder() / "xlsa17.zip.json"
    with pytest.raises(DataError) as caught:
        fetch("AWA1", tmp_path / "second")
    assert f"its sha256 is {sha256(other)}, expected " in str(caught.value)
    assert f"as {record} remembers of an earlier download; delete that file to accept another" in str(caught.value)
    record.unlink()
    assert fetch("AWA1", tmp_path / "second").source["archive_sha256"] == sha256(other)


def test_a_damaged_archive_in_the_cache_is_fetched_again(server: FileServer, tmp_path: Path) -> None:
    fetch("AWA1", tmp_path / "first")
    (cache_folder() / "xlsa17.zip").write_bytes(b"damaged")
    server.asked.clear()
    fetch("AWA1", tmp_path / "second")
    assert len(server.asked) == 1


def test_an_archive_put_there_by_hand(server: FileServer, tmp_path: Path) -> None:
    cache = tmp_path / "own"
    cache.mkdir()
    (cache / "xlsa17.zip").write_bytes(server.files["/xlsa17.zip"][:-30])
    with pytest.raises(DataError, match=r"expected a whole zip archive.*; delete it to download it again"):
        fetch("AWA1", tmp_path / "AWA1", cache=cache)
    assert files(cache) == ["xlsa17.zip"]
    (cache / "xlsa17.zip").write_bytes(server.files["/xlsa17.zip"])
    fetch("AWA1", tmp_path / "AWA1", cache=cache)
    assert files(cache) == ["xlsa17.zip", "xlsa17.zip.json"]
    assert server.asked == []


@pytest.mark.parametrize("content", [b"<html>log in to this network</html>", None], ids=["page", "truncated"])
def test_what_is_no_whole_zip_is_not_kept(server: FileServer, tmp_path: Path, content: bytes | None) -> None:
    server.files["/xlsa17.zip"] = content or server.files["/xlsa17.zip"][:-30]
    with pytest.raises(DataError, match=r"xlsa17\.zip: expected a whole zip archive, found something else or a part"):
        fetch("AWA1", tmp_path / "AWA1")
    assert files(cache_folder()) == []
    assert not (tmp_path / "AWA1").exists()


def test_an_archive_with_damaged_content(server: FileServer, members: dict[str, bytes], tmp_path: Path) -> None:
    content = server.files["/xlsa17.zip"]
    inside = content.index(members["xlsa17/data/AWA1/res101.mat"]) + 500
    server.files["/xlsa17.zip"] = content[:inside] + bytes([content[inside] ^ 255]) + content[inside + 1 :]
    with pytest.raises(DataError, match=r"xlsa17/data/AWA1/res101\.mat: damaged or cut short: Bad CRC-32"):
        fetch("AWA1", tmp_path / "AWA1")
    assert not (tmp_path / "AWA1").exists()
    assert not (tmp_path / "AWA1.partial").exists()


def test_what_is_unpacked_must_be_the_benchmark(
    server: FileServer, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(TINY, name="SUN", trainval=17, test_seen=7)
    know(monkeypatch, other)
    server.files["/xlsa17.zip"] = zipped({name.replace("AWA1", "SUN"): content for name, content in members.items()})
    with pytest.raises(DataError) as caught:
        fetch("SUN", tmp_path / "SUN")
    assert str(caught.value).endswith(
        "expected SUN, with 17, 7 and 16 rows of trainval, test_seen and test_unseen and 5 classes, "
        "found trainval 18, test_seen 6, test_unseen 16 and 5 classes"
    )
    assert not (tmp_path / "SUN").exists()


def test_a_folder_with_something_else_is_left_alone(server: FileServer, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="expected an empty or no folder, found something else"):
        fetch("AWA1", out)
    assert files(out) == ["thesis.txt"]
    assert server.asked == []
    (tmp_path / "empty").mkdir()
    assert fetch("AWA1", tmp_path / "empty").changed


def test_what_a_killed_fetch_left_is_cleared(server: FileServer, tmp_path: Path) -> None:
    left = tmp_path / "AWA1.partial"
    left.mkdir()
    (left / "res101.mat").write_bytes(b"half")
    fetch("AWA1", tmp_path / "AWA1")
    assert not left.exists()


def test_another_address_has_its_own_place_in_the_cache(
    server: FileServer, members: dict[str, bytes], tmp_path: Path
) -> None:
    fetch("AWA1", tmp_path / "first")
    server.files["/mirror/xlsa17.zip"] = zipped({name: c for name, c in members.items() if "AWA1" in name})
    fetched = fetch("AWA1", tmp_path / "second", url=f"{server.url}/mirror/xlsa17.zip")
    assert fetched.source["archive_sha256"] == sha256(server.files["/mirror/xlsa17.zip"])
    assert len(files(cache_folder())) == 4


# --- sources that are gone --------------------------------------------------------------------------------------------


def test_flowers_are_to_be_got_by_hand(
    server: FileServer, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, dataclasses.replace(TINY, name="FLO"))
    out = tmp_path / "FLO"
    with pytest.raises(DataError) as caught:
        fetch("FLO", out)
    message = str(caught.value)
    assert "res101.mat: the features of FLO in the Google Drive folder" in message
    assert "https://github.com/akshitac8/tfvaegan" in message
    assert "att_splits.mat: the file data/FLO/att_splits.mat of https://github.com/Hanzy1996/CE-GZSL" in message
    assert f"put both into {out} and run the same command again" in message
    assert server.asked == []
    write(out, *contents())
    fetched = fetch("FLO", out)
    assert (fetched.changed, fetched.source) == (False, {})
    server.files["/flo.zip"] = zipped({name.replace("AWA1", "FLO"): content for name, content in members.items()})
    assert fetch("FLO", tmp_path / "other", url=f"{server.url}/flo.zip").changed


def test_the_sentences_of_birds_are_to_be_got_by_hand(
    server: FileServer, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, dataclasses.replace(TINY, name="CUB", attributes=(4, 7)))
    server.files["/xlsa17.zip"] = zipped({name.replace("AWA1", "CUB"): content for name, content in members.items()})
    out = tmp_path / "CUB"
    with pytest.raises(DataError) as caught:
        fetch("CUB", out, splits="sent")
    assert f"res101.mat: `d3gzsl-train fetch CUB --out {out}`, unless it is there already" in str(caught.value)
    assert "data/CUB/sent_splits.mat of https://github.com/Hanzy1996/CE-GZSL" in str(caught.value)
    assert fetch("CUB", out).changed
    write(tmp_path / "sentences", *contents(attributes=7), file="sent_splits.mat")
    (tmp_path / "sentences" / "sent_splits.mat").rename(out / "sent_splits.mat")
    fetched = fetch("CUB", out, splits="sent")
    assert (fetched.changed, fetched.dataset.split["splits"]) == (False, "sent")
    with pytest.raises(DataError, match="splits: expected att or sent, got 'word'"):
        fetch("CUB", out, splits="word")


# --- archives ---------------------------------------------------------------------------------------------------------


def unpack(path: Path, content: bytes, out: Path) -> list[str]:
    path.write_bytes(content)
    out.mkdir(exist_ok=True)
    fetch_module.unpack(path, "B", ["x", "y"], out, progress=lambda *_: None)
    return files(out)


def test_names_in_an_archive_never_say_where_to_write(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "in" / "out"
    evil = {"../../B/x": b"1", "/B/y": b"2", "../escaped": b"3", "B/../../z": b"4"}
    assert unpack(tmp_path / "a.zip", zipped(evil), out) == ["x", "y"]
    assert files(tmp_path) == ["a.zip", "in/out/x", "in/out/y"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"B/x": b"1"}, "expected one file B/y, found B/x"),
        ({"B/x": b"1", "B/y": b"2", "old/B/y": b"3"}, "expected one file B/y, found B/y, old/B/y"),
        ({}, "expected one file B/x, found an empty archive"),
        ({"notB/x": b"1", "x": b"2", "B/x/y": b"3"}, "expected one file B/x, found notB/x, x, B/x/y"),
    ],
)
def test_archives_without_the_wanted_files(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "a.zip", zipped(members), tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_encrypted_and_oversized_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(zipped({"B/x": b"1", "B/y": b"22"}))
    monkeypatch.setattr(fetch_module, "_LARGEST", 1)
    with pytest.raises(DataError, match="B/y: expected at most 4 GiB, found 2 bytes"):
        unpack(tmp_path / "a.zip", bytes(content), tmp_path / "out")
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match="B/x: expected a file without a password, found an encrypted one"):
        unpack(tmp_path / "b.zip", bytes(content), tmp_path / "out")


# --- the command ------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["d3gzsl-train", "fetch", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = sha256(server.files["/xlsa17.zip"])
    assert command(monkeypatch, "awa1") == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "data/AWA1: AWA1, 18 training rows, 6 test rows of 3 seen and 16 of 2 unseen classes "
        f"(archive sha256 {digest}); next: d3gzsl-train fit data/AWA1 --out RUN_DIR\n"
    )
    assert "download" in printed.err
    assert "unpack" in printed.err
    assert command(monkeypatch, "AWA1", "--json") == 0
    printed = capsys.readouterr()
    fields = json.loads(printed.out)
    assert (fields["out"], fields["changed"], fields["archive_sha256"]) == ("data/AWA1", False, digest)
    assert fields["split"]["benchmark"] == "AWA1"
    assert printed.err == ""


def test_an_unknown_name_lists_the_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "ImageNet") == 2
    assert capsys.readouterr().err == (
        "error: no benchmark 'ImageNet' is known; known are AWA1, AWA2, CUB, SUN, APY, FLO\n"
    )
    assert known_name("aPY") == "APY"


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/xlsa17.zip"
    monkeypatch.setattr(fetch_module, "XLSA17", url)
    out, cache = tmp_path / "AWA2", tmp_path / "cache"
    assert command(monkeypatch, "AWA2", "--out", out, "--cache", cache, "--json") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot download {url}: ")
    assert error.endswith(
        f". Without a network, fetch that file on another machine and put it at {cache / 'xlsa17.zip'}\n"
    )
    assert files(tmp_path) == []

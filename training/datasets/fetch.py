"""The public benchmarks, downloaded, unpacked and checked by loading them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model.bundle import sha256_of
from model.errors import DataError
from training.console import OnProgress, OnStage
from training.datasets.benchmark import FEATURES, SPLITS, is_benchmark, load_benchmark
from training.datasets.benchmark_rules import KNOWN
from training.datasets.dataset import Dataset
from training.datasets.matfile import first
from training.download import transfer
from training.files import move_into_place, write_json

_CHUNK = 1 << 20
_LARGEST = 4 << 30  # bytes of one file; the largest benchmark's features have 611 MB as float64


def check_zip(archive: Path) -> None:
    """Raise a DataError unless the file begins and ends as a zip archive does."""
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise DataError(f"{archive}: expected a whole zip archive, found something else or a part: {error}") from None


def unpack(archive: Path, folder: str, names: Sequence[str], out: Path, *, progress: OnProgress) -> None:
    """Copy files of one folder of the archive, wherever in the archive that folder is.

    What the archive calls its files decides what is copied, never where it is written.

    Args:
        archive: a zip file.
        folder: name of the folder in the archive that holds the files.
        names: the files to copy.
        out: existing folder that they are written to.
        progress: called with bytes copied and bytes in all.

    Raises:
        DataError: the archive is damaged, lacks a file or holds one twice, or a file is encrypted or beyond 4 GiB.
    """
    check_zip(archive)
    with zipfile.ZipFile(archive) as opened:
        members = [_member(opened, archive, folder, name) for name in names]
        total, copied = sum(member.file_size for member in members), 0
        for name, member in zip(names, members, strict=True):
            try:
                with opened.open(member) as source, (out / name).open("wb") as target:
                    while chunk := source.read(_CHUNK):  # never more than the size that the archive states
                        target.write(chunk)
                        copied += len(chunk)
                        progress(copied, total)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise DataError(f"{archive}, {member.filename}: damaged or cut short: {error}") from None
            except OSError as error:  # no space left: Python does not say in which file
                raise DataError(f"{out / name}: {error.strerror or error}") from None


def _member(opened: zipfile.ZipFile, archive: Path, folder: str, name: str) -> zipfile.ZipInfo:
    found = [m for m in opened.infolist() if PurePosixPath(m.filename).parts[-2:] == (folder, name)]
    if len(found) != 1:
        there = ", ".join(member.filename for member in found) or first(opened.namelist()) or "an empty archive"
        raise DataError(f"{archive}: expected one file {folder}/{name}, found {there}")
    (member,) = found
    if member.flag_bits & 1:
        raise DataError(f"{archive}, {member.filename}: expected a file without a password, found an encrypted one")
    if member.file_size > _LARGEST:
        raise DataError(f"{archive}, {member.filename}: expected at most 4 GiB, found {member.file_size} bytes")
    return member


XLSA17 = "http://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip"
SOURCE = "source.json"
_CE_GZSL = "https://github.com/Hanzy1996/CE-GZSL"
_TF_VAEGAN = "https://github.com/akshitac8/tfvaegan"

"""Called with what is being done, bytes done and bytes in all, None where that is not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fetched:
    """A benchmark that is on disk and loads.

    Attributes:
        path: its folder.
        dataset: as loaded.
        source: what `source.json` says of where the files came from; empty for files that were put there by hand.
        changed: whether anything was written.
    """

    path: Path
    dataset: Dataset
    source: dict[str, Any]
    changed: bool


def known_name(text: str) -> str:
    """The name of a benchmark, however it is spelt.

    Raises:
        DataError: lists the known ones.
    """
    if text.upper() not in KNOWN:
        raise DataError(f"no benchmark {text!r} is known; known are {', '.join(KNOWN)}")
    return text.upper()


def cache_folder() -> Path:
    """Where archives are kept: `d3gzsl` in `XDG_CACHE_HOME`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d3gzsl"


def fetch(
    name: str,
    out: Path,
    *,
    splits: str = "att",
    url: str | None = None,
    sha256: str | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: OnStage = lambda *_: None,
) -> Fetched:
    """Download a benchmark's archive unless it is cached, unpack two files of it and load them.

    The sha256 of an archive is kept beside it; a later download must have the same.

    Args:
        name: one of `KNOWN`.
        out: folder for the two files and `source.json`.
        splits: `att` or `sent`, see :func:`training.datasets.benchmark.load_benchmark`.
        url: another zip archive with the folder NAME in it; by default the public one, which lacks FLO and CUB's
            sentences.
        sha256: what the archive must have; at least its first 8 digits.
        cache: folder for the archive; by default :func:`cache_folder`.
        overwrite: replace what is at `out`.
        progress: of the download and of the unpacking.

    Raises:
        DataError: there is no public archive with these files (says what to get and where to put it), the download
            failed or is another file than before, the archive is damaged, or what it holds is not this benchmark.
    """
    if splits not in SPLITS:
        raise DataError(f"splits: expected {' or '.join(SPLITS)}, got {splits!r}")
    there = (out / FEATURES).is_file() and (out / SPLITS[splits]).is_file()
    if there and not overwrite:
        source = _unchanged(out)
        return Fetched(path=out, dataset=_checked(name, out, splits), source=source, changed=False)
    if url is None and (name == "FLO" or (name, splits) == ("CUB", "sent")):
        raise DataError(_by_hand(name, splits, out))
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        what = "another part of a benchmark" if is_benchmark(out) else "something else"
        raise DataError(f"{out}: expected an empty or no folder, found {what}; give another --out, or --overwrite")
    address, folder = url or XLSA17, cache or cache_folder()
    if url is not None:  # the same file name elsewhere may be another file
        folder /= hashlib.sha256(url.encode()).hexdigest()[:12]
    archive = folder / (address.partition("?")[0].rsplit("/", 1)[-1] or "archive.zip")
    digest = _archive(address, archive, sha256, progress)
    new, names = out.with_name(f"{out.name}.partial"), (FEATURES, SPLITS[splits])
    if new.exists():
        shutil.rmtree(new)  # of a fetch that was killed
    new.mkdir(parents=True)
    try:
        unpack(archive, name, names, new, progress=lambda done, total: progress("unpack", done, total))
        dataset = _checked(name, new, splits)
        source = {
            "benchmark": name,
            "url": address,
            "archive_sha256": digest,
            "files": {file: sha256_of(new / file) for file in names},
            "data_hash": dataset.data_hash,
        }
        write_json(new / SOURCE, source)
        move_into_place(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Fetched(path=out, dataset=dataset, source=source, changed=True)


def _archive(url: str, archive: Path, sha256: str | None, progress: OnStage) -> str:
    """Download the archive unless it is there; its sha256, which is remembered beside it."""
    record = archive.with_name(f"{archive.name}.json")
    before = _read_json(record).get("sha256")
    remembered = f" as {record} remembers of an earlier download; delete that file to accept another"
    there = archive.stat().st_ino if archive.is_file() else None
    digest = transfer(
        url,
        archive,
        sha256=sha256.lower() if sha256 else before,
        because="" if sha256 else remembered,
        progress=lambda done, total: progress("download", done, total),
    )
    try:
        check_zip(archive)
    except DataError as error:
        if archive.stat().st_ino == there:
            raise DataError(f"{error}; delete it to download it again") from None
        archive.unlink()
        raise DataError(f"{error}; what was received from {url} is deleted") from None
    if digest != before:
        write_json(record, {"url": url, "sha256": digest, "bytes": archive.stat().st_size})
    return digest


def _checked(name: str, folder: Path, splits: str) -> Dataset:
    """Load a folder, which must be this benchmark by its sizes."""
    dataset = load_benchmark(folder, splits=splits)
    if dataset.split["benchmark"] != name:
        known = KNOWN[name]
        wanted = f"{known.trainval}, {known.test_seen} and {known.test_unseen}"
        found = ", ".join(f"{key} {count}" for key, count in dataset.split["rows"].items())
        raise DataError(
            f"{folder}: expected {name}, with {wanted} rows of trainval, test_seen and test_unseen and "
            f"{known.seen + known.unseen} classes, found {found} and {len(dataset.classes)} classes"
        )
    return dataset


def _unchanged(folder: Path) -> dict[str, Any]:
    """What `source.json` says; DataError where a file is not the one that was fetched."""
    source = _read_json(folder / SOURCE)
    for file, digest in source.get("files", {}).items():
        if (folder / file).is_file() and (found := sha256_of(folder / file)) != digest:
            raise DataError(
                f"{folder / file}: changed since it was fetched: expected sha256 {digest} as in {SOURCE}, "
                f"found {found}; fetch it anew with --overwrite"
            )
    return source


def _by_hand(name: str, splits: str, out: Path) -> str:
    """Where the files are that no public archive holds."""
    own = f"{SPLITS[splits]}: the file data/{name}/{SPLITS[splits]} of {_CE_GZSL}"
    if name == "FLO":
        parts = (
            f"{FEATURES}: the features of FLO in the Google Drive folder that the readme of {_TF_VAEGAN} links to "
            'under "Data preparation"',
            own,
        )
    else:
        parts = (f"{FEATURES}: `d3gzsl-train fetch {name} --out {out}`, unless it is there already", own)
    option = "" if splits == "att" else f" --splits {splits}"
    lines = [
        f"{SPLITS[splits]} of {name} is in no archive that can be downloaded here. Get",
        *(f"  {part}" for part in parts),
        f"put both into {out} and run the same command again, which then checks them: "
        f"d3gzsl-train fetch {name}{option} --out {out}",
    ]
    return "\n".join(lines)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object that this module wrote; empty where there is none.

    Raises:
        DataError: the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    return fields

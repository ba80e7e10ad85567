"""A run over a folder: what was asked, which files there are, and which parts of them are done.

Everything lies in `OUT.partial` beside the result: `files.jsonl`, `classes.json`, `rows.npz`, then `plan.json`, which
makes the run whole, and one `part-<n>.parquet` for each part that is done. A part is written beside and renamed, so its
files are in the result once or not yet.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from model.bundle import Precision
from model.classes import ClassEntry
from model.errors import DataError, Problem
from model.head import Row
from model.outside.folders import files_under
from service.classes.class_table import KnownClass
from service.classes.ranking import Scope
from service.classes.snapshot import Snapshot
from service.inference.sessions import PrecisionChoice

PLAN, LISTING, LOCK = "plan.json", "files.jsonl", "lock"
PART_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class BulkRequest:
    """What a run shall do; one that goes on must be asked for the same.

    Attributes:
        root: the folder with the images, absolute.
        bundle_id: of the bundle.
        registry: "bundle" for the bundle's own classes, else the registry's database without its password.
        top_k: most classes for each image.
        scope: which classes take part.
        precision: which trunk runs.
        max_bytes: largest file.
        max_pixels: largest image.
    """

    root: str
    bundle_id: str
    registry: str
    top_k: int
    scope: Scope
    precision: PrecisionChoice
    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that has begun.

    Attributes:
        folder: where its parts are kept.
        asked: what it shall do.
        registry_version: of the class table.
        precision: of the trunk that embeds all of its images, wherever and whenever its parts are done.
        files: how many there are.
        offsets: where each part begins in the listing.
    """

    folder: Path
    asked: BulkRequest
    registry_version: int
    precision: Precision
    files: int
    offsets: tuple[int, ...]

    @classmethod
    def begin(cls, folder: Path, asked: BulkRequest, snapshot: Snapshot, *, precision: Precision, out: Path) -> Job:
        """Write down classes and files.

        Raises:
            DataError: the folder with the images cannot be read, or has no file.
        """
        paths = files_under(Path(asked.root), leave_out=(out, folder))
        count, offsets = write_listing(folder / LISTING, paths, part_size=PART_SIZE)
        if count == 0:
            raise DataError(f"{asked.root}: expected images, found no file")
        write_class_table(folder, snapshot)
        job = cls(
            folder=folder,
            asked=asked,
            registry_version=snapshot.registry_version,
            precision=precision,
            files=count,
            offsets=tuple(offsets),
        )
        plan = {name: value for name, value in asdict(job).items() if name != "folder"}
        beside = folder / f"{PLAN}.new"
        beside.write_text(json.dumps(plan), encoding="utf-8")
        beside.replace(folder / PLAN)
        return job

    @classmethod
    def resume(cls, folder: Path, asked: BulkRequest) -> Job:
        """The run that was begun.

        Raises:
            DataError: it was asked for something else; names what differs.
        """
        plan = json.loads((folder / PLAN).read_bytes())
        before = BulkRequest(**plan["asked"])
        problems = [
            Problem(pointer=field.name, detail=f"the run has {was!r}, this command {now!r}")
            for field in fields(BulkRequest)
            if (was := getattr(before, field.name)) != (now := getattr(asked, field.name))
        ]
        if problems:
            raise DataError(
                f"{folder}: the run was begun otherwise; ask for the same, or give --overwrite to begin anew", problems
            )
        return cls(
            folder=folder,
            asked=before,
            registry_version=plan["registry_version"],
            precision=plan["precision"],
            files=plan["files"],
            offsets=tuple(plan["offsets"]),
        )

    def part(self, number: int) -> Path:
        """Where a part lies once it is done."""
        return self.folder / f"part-{number:08d}.parquet"

    def paths(self, number: int) -> list[str]:
        """The files of a part."""
        return read_part(self.folder / LISTING, self.offsets[number], PART_SIZE)

    def length(self, number: int) -> int:
        """How many files a part has."""
        return min(PART_SIZE, self.files - PART_SIZE * number)

    def missing(self) -> list[int]:
        """Numbers of the parts that are still to be done."""
        there = {entry.name for entry in os.scandir(self.folder)}
        return [number for number in range(len(self.offsets)) if self.part(number).name not in there]

    def summary(self) -> dict[str, Any]:
        """What stands in the result's metadata."""
        return {
            **asdict(self.asked),
            "registry_version": self.registry_version,
            "ran": self.precision,
            "files": self.files,
        }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run's folder where it is not there, and keep other processes from it.

    Raises:
        DataError: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK).acquire(blocking=False)
    except Timeout:
        raise DataError(f"{folder}: another process is at work on this run") from None
    with lock:
        yield


def clear(folder: Path) -> None:
    """Forget an unfinished run, all but its lock."""
    for entry in list(folder.iterdir()):
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


CLASSES, ROWS = "classes.json", "rows.npz"


def write_class_table(folder: Path, snapshot: Snapshot) -> None:
    """Write the classes as JSON and their rows, weight float32 [C, Z] and bias float32 [C]."""
    entries = [
        {
            "entry": known.entry.to_json(),
            "registry_version": known.registry_version,
            "photo_share": known.photo_share,
        }
        for known in snapshot.classes
    ]
    np.savez(folder / ROWS, weight=snapshot.weight, bias=snapshot.bias)
    fields = {"registry_version": snapshot.registry_version, "classes": entries}
    (folder / CLASSES).write_text(json.dumps(fields), encoding="utf-8")


def read_class_table(folder: Path) -> Snapshot:
    """The snapshot that was written."""
    fields = json.loads((folder / CLASSES).read_bytes())
    with np.load(folder / ROWS, allow_pickle=False) as arrays:
        weight, bias = arrays["weight"], arrays["bias"]
    known = [
        KnownClass(
            entry=ClassEntry.from_json(one["entry"]),
            registry_version=one["registry_version"],
            photo_share=one["photo_share"],
        )
        for one in fields["classes"]
    ]
    rows = [Row(w, float(b)) for w, b in zip(weight, bias, strict=True)]
    return Snapshot.build(fields["registry_version"], known, rows, dimension=weight.shape[1])


def write_listing(file: Path, paths: Iterator[str], *, part_size: int) -> tuple[int, list[int]]:
    """Write paths as lines of JSON; returns their number, and the offset in bytes at which each part begins."""
    count, offsets = 0, []
    with file.open("wb") as stream:
        for path in paths:
            if count % part_size == 0:
                offsets.append(stream.tell())
            stream.write(json.dumps(path).encode() + b"\n")
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return count, offsets


def read_part(file: Path, offset: int, part_size: int) -> list[str]:
    """The paths of the part that begins at an offset."""
    with file.open("rb") as stream:
        stream.seek(offset)
        return [json.loads(line) for _, line in zip(range(part_size), stream, strict=False)]

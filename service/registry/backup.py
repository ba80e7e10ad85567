"""A whole registry as one file, the same for every database: a line of JSON for each version and each change.

The first line says what the file is, the last one has the SHA-256 of all others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from model.errors import DataError
from service.errors import RegistryDamagedError, RegistryError
from service.registry.audit import audit
from service.registry.change import in_utc
from service.registry.database import Database
from service.registry.reading.records import AT_ONCE
from service.registry.tables import changes, example_embeddings, head_rows, registry, versions

FORMAT = "d3gzsl-registry-backup"
FORMAT_VERSION = 1
_AUTOMATIC = re.compile(r"registry-(\d{9,18})\.jsonl")
_HEAD = ("bundle_id", "version", "position", "base", "vocabulary")


def write_backup(database: Database, file: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the registry as it is at one moment, also while services use it; returns the first line.

    Raises:
        DataError: the file exists, or cannot be written.
        RegistryError: there is no registry.
        StorageError: the database refuses.
    """
    if file.exists() and not overwrite:
        raise DataError(f"{file} exists already; choose another place or pass --overwrite")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".partial", dir=file.parent)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as stream, database.reading(whole=True) as connection:
            digest = hashlib.sha256()
            lines = _lines(connection)
            first = next(lines)
            for line in _chain(first, lines):
                data = json.dumps(line, sort_keys=True).encode() + b"\n"
                digest.update(data)
                stream.write(data)
            stream.write(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    finally:
        Path(name).unlink(missing_ok=True)
    return first


class Backups:
    """Back-ups that make themselves: a file for a version, `registry-000000123.jsonl`, and the newest of them kept.

    Processes that share a directory share its back-ups: whoever sees first that one is due makes it.

    Args:
        database: of the registry.
        directory: made if it does not exist.
        changes: versions after which the next one is due.
        seconds: after which it is due where there is any newer version.
        keep: how many are kept.
        clock: seconds that only ever grow.
        wall: seconds since 1970, which tell the age of files. They may jump.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        changes: int,
        seconds: float,
        keep: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._directory, self._clock, self._wall = database, directory, clock, wall
        self._changes, self._seconds, self._keep = changes, seconds, keep
        self._looked = False
        self._last, self._then = 0, clock()  # version of the newest one, and when it was made by `clock`

    def due(self, version: int) -> bool:
        """Whether a back-up of this version of the registry should be made now."""
        if not self._looked:
            self._look()
        waiting = version - self._last
        return waiting > 0 and (waiting >= self._changes or self._clock() - self._then >= self._seconds)

    def make(self) -> Path | None:
        """Make one, unless another process has meanwhile, and remove those beyond the ones kept.

        Returns:
            Its file, or None where there was nothing to do.

        Raises:
            DataError: a file or the directory cannot be written.
            RegistryError: there is no registry.
            StorageError: the database refuses.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._database.reading() as connection:
                version = connection.scalar(sa.select(registry.c.version))
            self._look()
            if version is None or not self.due(version):
                return None
            file = self._directory / f"registry-{version:09d}.jsonl"
            version = write_backup(self._database, file, overwrite=True)["version"]
            for old in self._files()[: -self._keep]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{error.filename or self._directory}: {error.strerror}") from None
        self._last, self._then = version, self._clock()
        return file

    def _files(self) -> list[Path]:
        return sorted(file for file in self._directory.glob("registry-*.jsonl") if _AUTOMATIC.fullmatch(file.name))

    def _look(self) -> None:
        """Learn of the newest back-up. One that is known keeps its moment, whatever the wall clock has done since."""
        files, self._looked = self._files(), True
        match = _AUTOMATIC.fullmatch(files[-1].name) if files else None
        newest = int(match[1]) if match else 0
        if newest != self._last:
            # A file from the future was written before the wall clock went back: it counts as just made.
            age = max(0.0, self._wall() - files[-1].stat().st_mtime) if files else 0.0
            self._last, self._then = newest, self._clock() - age


def read_backup(database: Database, file: Path, *, replace: bool = False) -> dict[str, Any]:
    """Make a registry what a backup says, all or nothing; returns the backup's first line.

    Args:
        database: with an empty registry, or with any where `replace` is set.
        file: from :func:`write_backup`.
        replace: forget what the registry holds.

    Raises:
        DataError: the file is not a whole backup.
        RegistryError: the registry is not empty.
        StorageError: the database refuses; nothing was changed.
    """
    try:
        with file.open("rb") as stream, database.writing(whole=True) as connection:
            head = connection.execute(sa.select(registry).with_for_update()).one_or_none()
            if head is not None and head.version > 0 and not replace:
                raise RegistryError(
                    f"the registry {database.name} has {head.version} versions already; restore into another one, "
                    "or pass --replace to forget them"
                )
            for table in (registry, versions, changes, head_rows, example_embeddings):
                connection.execute(sa.delete(table))
            lines = _verified(file, stream)
            first = next(lines)
            connection.execute(
                sa.insert(registry).values(id=1, generation=uuid.uuid4().hex, **{name: first[name] for name in _HEAD})
            )
            while some := list(islice(lines, AT_ONCE)):
                _insert(connection, some)
            found = audit(connection)
            if found.findings:
                raise DataError(f"{file} holds a registry that is not whole: {'; '.join(found.findings)}")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise DataError(f"{file} is not a backup of this form: {error!r}") from None
    return first


def _lines(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    head = connection.execute(sa.select(registry)).one_or_none()
    if head is None:
        raise RegistryError("there is no registry in this database")
    yield {"format": FORMAT, "format_version": FORMAT_VERSION, **{name: getattr(head, name) for name in _HEAD}}
    streaming = connection.execution_options(yield_per=AT_ONCE)
    for row in streaming.execute(sa.select(versions).order_by(versions.c.version)).mappings():
        if row["made_at"] is None:
            raise RegistryDamagedError(f"version {row['version']} of the registry has a time that cannot be read")
        yield {"version": {**row, "made_at": in_utc(row["made_at"]).isoformat()}}
    own = head_rows.c.position == changes.c.position
    query = sa.select(changes, head_rows.c.weight, head_rows.c.bias)
    for row in streaming.execute(
        query.select_from(changes.outerjoin(head_rows, own)).order_by(changes.c.position)
    ).mappings():
        change = {column.name: row[column.name] for column in changes.columns}
        if row["weight"] is not None:
            change["row"] = {"bias": row["bias"], "weight": base64.b64encode(row["weight"]).decode()}
        yield {"change": change}
    for row in streaming.execute(sa.select(example_embeddings).order_by("position", "example_id")).mappings():
        yield {"example": {**row, "embedding": base64.b64encode(row["embedding"]).decode()}}


def _verified(file: Path, stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a backup but the last, which must fit them."""
    digest, expected, before = hashlib.sha256(), None, b""
    for number, data in enumerate(stream, start=1):
        line = json.loads(data)
        if number == 1 and (line.get("format"), line.get("format_version")) != (FORMAT, FORMAT_VERSION):
            raise DataError(f"{file} is not a backup of a registry in the form {FORMAT_VERSION}")
        if expected is not None:
            raise DataError(f"{file}: expected nothing behind the line with the sha256, got line {number}")
        if before:
            digest.update(before)
        before = data
        if "sha256" in line:
            expected = line["sha256"]
        else:
            yield line
    if expected is None:
        raise DataError(f"{file} is cut off: the line with the sha256 is missing")
    if digest.hexdigest() != expected:
        raise DataError(f"{file} is damaged: expected sha256 {expected}, got {digest.hexdigest()}")


def _insert(connection: sa.Connection, lines: list[dict[str, Any]]) -> None:
    made = [line["version"] for line in lines if "version" in line]
    changed = [line["change"] for line in lines if "change" in line]
    rows = [
        {
            "position": change["position"],
            "bias": change["row"]["bias"],
            "weight": base64.b64decode(change["row"]["weight"], validate=True),
        }
        for change in changed
        if "row" in change
    ]
    photos = [
        {**line["example"], "embedding": base64.b64decode(line["example"]["embedding"], validate=True)}
        for line in lines
        if "example" in line
    ]
    for table, records in (
        (versions, [{**version, "made_at": datetime.fromisoformat(version["made_at"])} for version in made]),
        (changes, [{k: v for k, v in change.items() if k != "row"} for change in changed]),
        (head_rows, rows),
        (example_embeddings, photos),
    ):
        if records:
            connection.execute(sa.insert(table), records)


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest

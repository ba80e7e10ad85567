"""Rows of results as Parquet: a file for each part, and the whole of them in one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from service.bulk.job import Job

_GROUP = 16_384  # rows of a row group: enough to compress and skip well, little enough to hold
_METADATA = b"d3gzsl"
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("novelty", pa.float64()),
        pa.field("class_id", pa.list_(pa.string())),
        pa.field("name", pa.list_(pa.string())),
        pa.field("probability", pa.list_(pa.float64())),
        pa.field("bundle_id", pa.string(), nullable=False),
        pa.field("registry_version", pa.int64(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),
    ]
)


def write_part(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows beside a file, bring them to the disk, and rename."""
    beside = file.with_name(f"{file.name}.{uuid4().hex}.new")
    with beside.open("wb") as stream:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), stream)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def join(job: Job, out: Path) -> dict[str, int]:
    """Write all parts into one file in their order, a row group at a time; returns how many rows have each status.

    Raises:
        DataError: a part has not as many rows as it has files.
    """
    counts = {"ok": 0, "error": 0}
    beside = job.folder / "result.parquet"
    schema = SCHEMA.with_metadata({_METADATA: json.dumps(job.summary()).encode()})
    with beside.open("wb") as stream:
        with pq.ParquetWriter(stream, schema) as writer:
            for table in _groups(job):
                writer.write_table(table.replace_schema_metadata(schema.metadata))
                for status in table["status"].to_pylist():
                    counts[status] += 1
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(out)
    return counts


def _groups(job: Job) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for number in range(len(job.offsets)):
        part = pq.read_table(job.part(number), schema=SCHEMA)
        if len(part) != job.length(number):
            raise DataError(f"{job.part(number)}: expected {job.length(number)} rows, got {len(part)}; remove it")
        waiting.append(part)
        if sum(map(len, waiting)) >= _GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def summary_of(out: Path) -> dict[str, Any] | None:
    """What a finished result says about its run; None where the file is none of ours."""
    try:
        metadata = pq.read_schema(out).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    found: dict[str, Any] | None = json.loads(metadata[_METADATA]) if _METADATA in metadata else None
    return found


def count_statuses(out: Path) -> dict[str, int]:
    """How many rows of a result have each status."""
    counts = {"ok": 0, "error": 0}
    with pq.ParquetFile(out) as file:
        for group in range(file.num_row_groups):
            for status in file.read_row_group(group, columns=["status"])["status"].to_pylist():
                counts[status] += 1
    return counts

"""What the log is made of: changes of one class each, versions of any number of them, and digests of both."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

import pydantic_core

from model.classes import ClassEntry
from model.head import Float32, Row

ChangeOperation = Literal["put", "describe", "remove"]
Operation = Literal["put", "describe", "remove", "batch", "rollback", "adopt"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """One change of one class.

    Attributes:
        operation: `put` creates or replaces, `describe` changes the words only, `remove` removes.
        class_id: the class.
        entry: the class after the change; None for `remove`.
        row: its row of the head, as the registering process computed it. Given with `entry` and no `row_at`, it is
            stored with the change.
        row_at: position of the change that stored the row; with neither this nor `row`, the row is the bundle's own.
        embeddings: of the example photos that come with the change, by id, float32 [Z]; not given back by the log.
    """

    operation: ChangeOperation
    class_id: str
    entry: ClassEntry | None = None
    row: Row | None = None
    row_at: int | None = None
    embeddings: Mapping[str, Float32] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggedVersion:
    """A version with its changes, in the order in which they apply."""

    version: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """What the history says about a version.

    Attributes:
        version: 1 or higher.
        operation: what a version of one change did, or `batch`, `rollback`, `adopt`; None where it cannot be read.
        made_at: when, in UTC; None where it cannot be read.
        changes: how many classes it changed.
        class_ids: the first of them, at most `CLASS_IDS_SHOWN`.
        source: the version that a rollback returned to.
        author: who made it, `key ID` or an address; None where nobody said.
        damaged: whether something of it cannot be read.
    """

    version: int
    operation: Operation | None
    made_at: datetime | None
    changes: int
    class_ids: tuple[str, ...]
    source: int | None = None
    author: str | None = None
    damaged: bool = False


AUTHOR: ContextVar[str | None] = ContextVar("author", default=None)
"""Who makes the change at work, as the history tells it: `key ID`, or an address."""


def placed(change: Change, position: int) -> Change:
    """A change that names its own position where it brings a row or photos."""
    entry = change.entry
    if entry is not None and change.embeddings:
        examples = [replace(e, position=position) if e.id in change.embeddings else e for e in entry.examples]
        change = replace(change, entry=replace(entry, examples=tuple(examples)))
    return replace(change, row_at=position) if change.row is not None and change.row_at is None else change


CLASS_IDS_SHOWN = 100


def in_utc(time: datetime) -> datetime:
    """A time as databases give it back, some of them without its zone, which then is UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


GENESIS = hashlib.sha256(b"d3gzsl registry").hexdigest()
"""The digest before version 1."""

StoredRow = tuple[bytes, float]
"""A stored row: weight and bias."""


canonical = json.JSONEncoder(sort_keys=True).encode
"""JSON in the one form that documents are stored in and digests are taken of."""


_quoted = encode_basestring_ascii
_DOUBLE = struct.Struct("<d").pack


class UnreadableValueError(Exception):
    """A stored value that is not of its column's form."""


def from_json(text: str) -> Any:
    """JSON as `json` reads it, to the last bit, but four times as fast: a start may have to read 100,000 classes."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:  # halves of surrogate pairs, which only `json` takes
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnreadableValueError(f"a document in it is no JSON: {error}") from None


def digest_change(
    position: int,
    operation: str,
    class_id: str,
    document: str | None,
    row_position: int | None,
    stored: StoredRow | None,
) -> bytes:
    """SHA-256 over everything that is stored of a change.

    Args:
        position: its own.
        operation: what it does.
        class_id: of the class.
        document: the class in its `canonical` form.
        row_position: of the change that brought the row.
        stored: the row it brought, if it brought one.
    """
    said = "null" if document is None else document
    row_at = "null" if row_position is None else row_position
    # A string as `canonical` writes it: a start does this for every class.
    words = f"[{position}, {_quoted(operation)}, {_quoted(class_id)}, {said}, {row_at}]".encode()
    if stored is None:
        return hashlib.sha256(words).digest()
    weight, bias = stored
    return hashlib.sha256(words + _DOUBLE(bias) + hashlib.sha256(weight).digest()).digest()


def digest_version(before: str, *, version: int, operation: str, source: int | None, changes: Iterable[bytes]) -> str:
    """SHA-256, hexadecimal, over the digest before, the version and the digests of its changes in order."""
    digest = hashlib.sha256(json.dumps([before, version, operation, source]).encode())
    for change in changes:
        digest.update(change)
    return digest.hexdigest()

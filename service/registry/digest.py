"""Digests of the log: each covers a version's changes and the digest before it, so that nothing changes unnoticed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from typing import Any

GENESIS = hashlib.sha256(b"d3gzsl registry").hexdigest()
"""The digest before version 1."""

Stored = tuple[bytes, float, bytes | None]
"""A stored row: weight, bias, embeddings."""


def digest_change(
    *,
    position: int,
    operation: str,
    class_id: str,
    document: Any,
    row_position: int | None,
    stored: Stored | None,
) -> bytes:
    """SHA-256 over everything that is stored of a change; `stored` is the row it brought, if it brought one."""
    words = json.dumps([position, operation, class_id, document, row_position], sort_keys=True)
    digest = hashlib.sha256(words.encode())
    if stored is not None:
        weight, bias, embeddings = stored
        digest.update(struct.pack("<d", bias))
        for part in (weight, embeddings or b""):
            digest.update(hashlib.sha256(part).digest())
    return digest.digest()


def digest_version(before: str, *, version: int, operation: str, source: int | None, changes: Iterable[bytes]) -> str:
    """SHA-256, hexadecimal, over the digest before, the version and the digests of its changes in order."""
    digest = hashlib.sha256(json.dumps([before, version, operation, source]).encode())
    for change in changes:
        digest.update(change)
    return digest.hexdigest()

"""Rows and embeddings of example photos as they are stored, read back bit for bit.

n: photos, Z: embedding dimension.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import sqlalchemy as sa

from model.classes import ExamplePhoto
from model.head import Float32, Row
from service.registry.change import Change, StoredRow
from service.registry.database import Database
from service.registry.tables import example_embeddings


def embedding_bytes(embedding_Z: Float32) -> bytes:
    """An embedding as it is stored."""
    return embedding_Z.astype("<f4").tobytes()


def read_embeddings(
    database: Database, examples: Sequence[ExamplePhoto], dimension: int, *, connection: sa.Connection | None = None
) -> Float32:
    """Embeddings of stored photos in their order, float32 [n, Z]; for none the database is not asked.

    Args:
        database: with the embeddings.
        examples: stored ones.
        dimension: Z.
        connection: to the database, where there is one already.

    Raises:
        RegistryDamagedError: one is missing, or is not as it was written.
        StorageError: the database refuses.
    """
    embeddings = np.empty((len(examples), dimension), dtype=np.float32)
    if not examples:
        return embeddings
    positions = {example.position for example in examples}
    query = sa.select(example_embeddings).where(example_embeddings.c.position.in_(positions))
    with nullcontext(connection) if connection is not None else database.reading() as open_connection:
        found = {(row.position, row.example_id): row.embedding for row in open_connection.execute(query)}
    for place, example in enumerate(examples):
        stored = found.get((example.position, example.id), b"")
        if hashlib.sha256(stored).hexdigest() != example.digest:
            raise database.damaged(f": the embedding of the example {example.id} is not as it was written")
        embeddings[place] = np.frombuffer(stored, dtype="<f4")
    return embeddings


def stored_row(change: Change) -> StoredRow:
    """The row that a change brings, as it is stored."""
    assert change.row is not None
    return change.row.weight.astype("<f4").tobytes(), change.row.bias


def read_row(weight: bytes, bias: float, dimension: int) -> Row:
    """A stored row; ValueError where it is none of this dimension."""
    array = np.frombuffer(weight, dtype="<f4")
    if len(array) != dimension:
        raise ValueError(f"expected {dimension} weights, got {len(array)}")
    if not (np.isfinite(array).all() and math.isfinite(bias)):
        raise ValueError("the row holds numbers that are not finite")
    return Row(array.astype(np.float32, copy=False), float(bias))

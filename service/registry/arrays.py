"""Rows and embeddings of example photos as they are stored, read back bit for bit.

n: photos, Z: embedding dimension.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from types import MappingProxyType

import numpy as np
import sqlalchemy as sa

from model.classes import ExamplePhoto
from model.head import Float32
from service.registry.change import Change, StoredRow
from service.registry.database import Database
from service.registry.tables import example_embeddings

_KEPT_BYTES = 16_000_000
_KEPT_AT_LEAST = 1000  # so that what a change has just read is there when it is judged


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


class ExampleEmbeddings:
    """Gives the embeddings of photos, which never change; keeps those that were asked for last, by their digests.

    Any thread may ask.

    Args:
        database: with those that are stored.
        dimension: Z.
    """

    def __init__(self, database: Database, dimension: int) -> None:
        self._database, self._dimension = database, dimension
        self._capacity = max(_KEPT_AT_LEAST, _KEPT_BYTES // (4 * dimension))
        self._lock = Lock()
        self._kept: OrderedDict[str, Float32] = OrderedDict()

    def __call__(
        self,
        examples: Sequence[ExamplePhoto],
        given: Mapping[str, Float32] = MappingProxyType({}),
        *,
        connection: sa.Connection | None = None,
    ) -> Float32:
        """Embeddings of photos in their order, float32 [n, Z]; what is kept or given is not read again.

        Args:
            examples: the photos.
            given: embeddings by the ids of their photos; has those that are not stored.
            connection: to the database, where there is one already.

        Raises:
            RegistryDamagedError: a stored one is missing, or is not as it was written.
            StorageError: the database refuses.
        """
        with self._lock:
            found = {e.digest: self._kept[e.digest] for e in examples if e.digest in self._kept}
        found |= {e.digest: given[e.id] for e in examples if e.position is None}
        missing = [example for example in examples if example.digest not in found]
        read = read_embeddings(self._database, missing, self._dimension, connection=connection)
        found |= {example.digest: embedding for example, embedding in zip(missing, read, strict=True)}
        self._keep(found)
        return np.array([found[e.digest] for e in examples], dtype=np.float32).reshape(len(examples), self._dimension)

    def _keep(self, found: Mapping[str, Float32]) -> None:
        with self._lock:
            for digest, embedding in found.items():
                self._kept[digest] = embedding
                self._kept.move_to_end(digest)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)


def stored_row(change: Change) -> StoredRow:
    """The row that a change brings, as it is stored; SQLite keeps no sign of a zero, so a bias of zero has none."""
    assert change.row is not None
    return change.row.weight.astype("<f4").tobytes(), change.row.bias + 0.0

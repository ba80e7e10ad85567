"""Embeddings of example photos, which never change: those that were asked for last are kept in memory.

n: photos, Z: embedding dimension.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
import sqlalchemy as sa

from model.classes import ExamplePhoto
from model.head import Float32
from service.registry.arrays import read_embeddings
from service.registry.database import Database

_KEPT_BYTES = 16_000_000
_KEPT_AT_LEAST = 1000  # so that what a change has just read is there when it is judged


class ExampleEmbeddings:
    """Gives the embeddings of photos by what they are, their digest; any thread may ask.

    Args:
        database: with those that are stored.
        dimension: Z.
    """

    def __init__(self, database: Database, dimension: int) -> None:
        self._database, self._dimension = database, dimension
        self._capacity = max(_KEPT_AT_LEAST, _KEPT_BYTES // (4 * dimension))
        self._lock = Lock()
        self._kept: OrderedDict[str, Float32] = OrderedDict()

    def read(
        self,
        examples: Sequence[ExamplePhoto],
        given: Mapping[str, Float32],
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

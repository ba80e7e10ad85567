"""From a class's description to its row of the head.

N: synthesised samples, Z: embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import AttributesError, Problem
from model.head import Float16, Row
from model.softmax import bank_rows
from model.synthesis import class_embeddings
from service.engine import Engine


@dataclass(frozen=True, kw_only=True, eq=False)
class Computed:
    """What is stored of a class beside its description.

    Attributes:
        row: its row of the head, provisional where rows are not independent.
        embeddings: float16 [N, Z] where the head is solved from them.
    """

    row: Row
    embeddings: Float16 | None = None


def compute_row(bundle: Bundle, engine: Engine, entry: ClassEntry) -> Computed:
    """Synthesise a class's embeddings and make its row; the same whenever it is done.

    Raises:
        AttributesError: no finite row can be made from its attributes.
    """
    manifest = bundle.manifest
    with np.errstate(all="ignore"):  # numbers beyond float32 are refused below, in words
        embeddings = class_embeddings(
            engine.synthesize,
            bundle_id=manifest.bundle_id,
            class_id=entry.id,
            attributes=entry.attributes,
            vocabulary=manifest.vocabulary,
            head=manifest.head,
        )
        row = bundle.head.row(embeddings)
    if not (np.isfinite(row.weight).all() and np.isfinite(row.bias)):
        raise AttributesError(
            "no class can be made from these attributes",
            [Problem(pointer="/attributes", detail="the numbers are too large for the model")],
        )
    return Computed(row=row, embeddings=None if bundle.head.independent else bank_rows(embeddings))

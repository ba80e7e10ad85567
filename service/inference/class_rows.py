"""From a class's description to its row of the head.

C: classes, N: synthesised samples, Z: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import AttributesError, Problem
from model.head import Float16, Row
from model.softmax import bank_rows
from model.synthesis import many_class_embeddings
from service.inference.engine import Engine

_ROWS_AT_ONCE = 2048


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
    (made,) = compute_rows(bundle, engine, [entry])
    if isinstance(made, AttributesError):
        raise made
    return made


def compute_rows(bundle: Bundle, engine: Engine, entries: Sequence[ClassEntry]) -> list[Computed | AttributesError]:
    """What :func:`compute_row` gives or raises for each of many classes, with few calls of the networks."""
    manifest = bundle.manifest
    together = max(1, _ROWS_AT_ONCE // manifest.head.samples)
    made: list[Computed | AttributesError] = []
    for start in range(0, len(entries), together):
        part = entries[start : start + together]
        with np.errstate(all="ignore"):  # numbers beyond float32 are refused below, in words
            embeddings = many_class_embeddings(
                engine.synthesize,
                bundle_id=manifest.bundle_id,
                classes=[(entry.id, entry.attributes) for entry in part],
                vocabulary=manifest.vocabulary,
                head=manifest.head,
            )
            weights, biases = bundle.head.rows(embeddings.mean(axis=1, dtype=np.float64))
        sound = storable(bundle, embeddings, weights, biases)
        for i in range(len(part)):
            if not sound[i]:
                made.append(too_far())
                continue
            kept = None if bundle.head.independent else bank_rows(embeddings[i])
            made.append(Computed(row=Row(weights[i], float(biases[i])), embeddings=kept))
    return made


def storable(
    bundle: Bundle, embeddings_CNZ: ArrayLike, weights_CZ: ArrayLike, biases_C: ArrayLike
) -> NDArray[np.bool_]:
    """Which classes have finite rows, and embeddings that are finite and, where they are stored, fit float16."""
    largest = np.inf if bundle.head.independent else np.finfo(np.float16).max
    embeddings = np.asarray(embeddings_CNZ)
    finite = np.isfinite(weights_CZ).all(axis=1) & np.isfinite(biases_C)
    found: NDArray[np.bool_] = finite & (np.isfinite(embeddings) & (np.abs(embeddings) <= largest)).all(axis=(1, 2))
    return found


def too_far() -> AttributesError:
    """What is said of attributes that no class can be made of."""
    detail = "expected values near the vocabulary's ranges, got some from which no finite numbers come"
    return AttributesError(
        "no class can be made from these attributes", [Problem(pointer="/attributes", detail=detail)]
    )

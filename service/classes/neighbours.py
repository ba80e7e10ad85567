"""How near classes are to each other: by what is said about them, and by their rows of the head.

C: classes, N: classes in question, T: slots of the table, A: numbers that describe a class, Z: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.head import Float32, Row
from model.vocabulary import Described, Vocabulary
from service.classes.class_table import ClassTable, KnownClass
from service.classes.snapshot import Snapshot

NEAR_DUPLICATE = 0.99
"""Cosine from which on two classes are near-duplicates; of the public benchmarks only aPY has two such classes."""

_MOST_DUPLICATES = 5
_AT_ONCE = 1000
_EPSILON = 1e-12
_SHORT = 128
_FEW = 4
_ROUNDING = 1e-4  # far more than float32 loses in a cosine


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another class, with its cosines to the one in question; by attributes None where one has no description."""

    known: KnownClass
    attribute_cosine: float | None
    row_cosine: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbourhood:
    """The other classes of a snapshot, seen from one class.

    Attributes:
        snapshot: where they are.
        described: whether the class has a description.
        rows: numbers of their rows, ascending, [C].
        attribute_cosines: between normalised attributes, float32 [C]; 0 where one has no description.
        row_cosines: between rows of the head, bias left out, float32 [C].
    """

    snapshot: Snapshot
    described: bool
    rows: NDArray[np.intp]
    attribute_cosines: Float32
    row_cosines: Float32

    def nearest_by_attributes(self, most: int) -> list[Neighbour]:
        """The classes with the most similar attributes, the nearest first; classes without a description have none."""
        if not self.described:
            return []
        found = (self._neighbour(i) for i in np.argsort(-self.attribute_cosines, kind="stable"))
        return list(islice((neighbour for neighbour in found if neighbour.attribute_cosine is not None), most))

    def nearest_by_row(self, most: int) -> list[Neighbour]:
        """The classes with the most similar rows, the nearest first."""
        return [self._neighbour(i) for i in np.argsort(-self.row_cosines, kind="stable")[:most]]

    def _neighbour(self, place: np.intp) -> Neighbour:
        known = self.snapshot.at(int(self.rows[place]))
        comparable = self.described and known.entry.attributes is not None
        return Neighbour(
            known=known,
            attribute_cosine=float(self.attribute_cosines[place]) if comparable else None,
            row_cosine=float(self.row_cosines[place]),
        )


class Neighbours:
    """Finds neighbours; keeps of every slot of the table what never changes: its attributes and the length of its row.

    Args:
        vocabulary: of the bundle.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = Lock()
        self._table: ClassTable | None = None
        self._kept: Float32 = np.empty((0, vocabulary.dimension), dtype=np.float32)
        self._lengths: Float32 = np.empty((0, 2), dtype=np.float32)
        self._length = 0

    def prepare(self, snapshot: Snapshot) -> None:
        """Look at all classes ahead of the first question about them."""
        self._of_slots(snapshot)

    def of(self, snapshot: Snapshot, entry: ClassEntry, row: Row) -> Neighbourhood:
        """The classes around one, whether or not the snapshot has it.

        Args:
            snapshot: the classes.
            entry: the class in question; its own id is not among the others.
            row: its row of the head.
        """
        own = snapshot.row_number(entry.id)
        rows = snapshot.rows if own is None else snapshot.rows[snapshot.rows != own]
        return Neighbourhood(
            snapshot=snapshot,
            described=entry.attributes is not None,
            rows=rows,
            attribute_cosines=_cosines(self._of_slots(snapshot)[0][rows], self._normalised([entry])[0]),
            row_cosines=np.concatenate(
                [np.empty(0, np.float32), *(_cosines(weight, row.weight) for _, weight, _ in snapshot.parts(rows))]
            ),
        )

    def near_duplicates(self, snapshot: Snapshot, described: Sequence[tuple[ClassEntry, Row]]) -> list[list[Neighbour]]:
        """For each of N classes the others that one cosine at least can hardly tell from it, the nearest first.

        Args:
            snapshot: the classes.
            described: classes with their rows; a class's own id is not among its duplicates.
        """
        if not described:
            return []
        found: list[list[Neighbour]] = [[] for _ in described]
        attributes = _unit(self._normalised([entry for entry, _ in described]))
        weights = _unit(np.stack([row.weight for _, row in described]))
        own = np.array([-1 if (n := snapshot.row_number(entry.id)) is None else n for entry, _ in described])
        kept, lengths = self._of_slots(snapshot)
        looked_at = _looked_at(snapshot.table.dimension)
        rest = np.linalg.norm(weights[:, looked_at:], axis=1, keepdims=True)
        for rows, weight, _ in snapshot.parts(snapshot.rows):
            adjoin = int(rows[-1] - rows[0]) == len(rows) - 1
            slots = slice(int(rows[0]), int(rows[-1]) + 1) if adjoin else rows  # a slice copies nothing
            by_attributes = _products(attributes, kept[slots])
            # The numbers left out add at most the product of their lengths (Cauchy-Schwarz): most rows end here.
            first = _products(weights[:, :looked_at], weight[:, :looked_at])
            most_by_row = first / lengths[slots, 0] + rest * lengths[slots, 1]
            near = np.maximum(by_attributes, most_by_row) >= NEAR_DUPLICATE - _ROUNDING
            near &= own[:, None] != rows
            candidates = np.flatnonzero(near.any(axis=0))
            if not len(candidates):
                continue
            rows, by_attributes = rows[candidates], by_attributes[:, candidates]
            by_row = weights @ _unit(weight[candidates]).T
            near = np.maximum(by_attributes, by_row) >= NEAR_DUPLICATE
            near &= own[:, None] != rows
            for i in np.flatnonzero(near.any(axis=1)).tolist():
                nearer = np.where(near[i], np.maximum(by_attributes[i], by_row[i]), -np.inf)
                best = np.argsort(-nearer, kind="stable")[: min(_MOST_DUPLICATES, int(near[i].sum()))]
                for j in best:
                    known = snapshot.at(int(rows[j]))
                    comparable = described[i][0].attributes is not None and known.entry.attributes is not None
                    found[i].append(
                        Neighbour(
                            known=known,
                            attribute_cosine=min(float(by_attributes[i, j]), 1.0) if comparable else None,
                            row_cosine=min(float(by_row[i, j]), 1.0),
                        )
                    )
                found[i] = sorted(found[i], key=_distance)[:_MOST_DUPLICATES]
        return found

    def _of_slots(self, snapshot: Snapshot) -> tuple[Float32, Float32]:
        """Of the snapshot's slots: unit vectors of their normalised attributes, float32 [T, A], and lengths, [T, 2].

        The lengths are that of the row, and that of the numbers in it that are looked at last, as a share of the first.
        """
        with self._lock:
            table = snapshot.table
            if table is not self._table:
                # New arrays, since another thread may still read those before.
                self._table, self._length = table, 0
                self._kept, self._lengths = self._kept[:0].copy(), self._lengths[:0].copy()
            if snapshot.length > len(self._kept):
                most = max(2 * snapshot.length, 64)
                self._kept, self._lengths = (_grown(kept, self._length, most) for kept in (self._kept, self._lengths))
            while self._length < snapshot.length:  # some at a time: what is parsed of many classes takes much memory
                new = slice(self._length, min(self._length + _AT_ONCE, snapshot.length))
                self._kept[new] = _unit(self._normalised([known.described() for known in table.known[new]]))
                for weight, place in table.weights(new):
                    first = weight[:, : _looked_at(table.dimension)]
                    squares = np.einsum("cz,cz->c", weight, weight, dtype=np.float64)
                    rest = np.maximum(squares - np.einsum("cz,cz->c", first, first, dtype=np.float64), 0)
                    self._lengths[place, 0] = np.maximum(np.sqrt(squares), _EPSILON)
                    self._lengths[place, 1] = np.sqrt(rest) / self._lengths[place, 0]
                self._length = new.stop
            return self._kept[: snapshot.length], self._lengths[: snapshot.length]

    def _normalised(self, entries: Sequence[Described]) -> Float32:
        """Normalised attributes of classes, float32 [N, A]; zeros, which are near nothing, without a description."""
        normalised = np.zeros((len(entries), self._vocabulary.dimension), dtype=np.float32)
        described = [i for i, entry in enumerate(entries) if entry.attributes is not None]
        if described:
            normalised[described] = self._vocabulary.described([entries[i] for i in described])
        return normalised


def _looked_at(dimension: int) -> int:
    """How many numbers of each row are looked at before the others: an eighth, and all of short rows."""
    return dimension if dimension < _SHORT else dimension // 8


def _products(vectors: Float32, others: Float32) -> Float32:
    """Products of N vectors with C others, float32 [N, C]; of few without the threads of BLAS, which cost more."""
    if len(vectors) > _FEW:
        return vectors @ others.T
    return np.stack([np.vecdot(others, vector) for vector in vectors])


def _grown(kept: Float32, length: int, most: int) -> Float32:
    """A copy of the first `length` of what is kept with room for `most`."""
    room = np.empty((most, kept.shape[1]), dtype=np.float32)
    room[:length] = kept[:length]
    return room


def _distance(neighbour: Neighbour) -> float:
    return -max(neighbour.row_cosine if c is None else c for c in (neighbour.attribute_cosine, neighbour.row_cosine))


def _cosines(vectors: Float32, vector: Float32) -> Float32:
    """Cosine of every row with one vector; 0 where either is zero."""
    cosines: Float32 = _unit(vectors) @ _unit(vector[None])[0]
    return np.clip(cosines, -1, 1)


def _unit(vectors: Float32) -> Float32:
    """Rows of length 1; zero stays zero."""
    unit: Float32 = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _EPSILON)
    return unit

"""What registering a class would do, computed without touching the table.

N: synthesised embeddings, C: other classes, Z: embedding dimension.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Float32, Row
from model.synthesis import class_embeddings
from service.classes.neighbours import Neighbourhood, Neighbours
from service.classes.ranking import RankedClass
from service.classes.snapshot import Snapshot
from service.errors import SeenClassError
from service.inference.class_rows import unusable_attributes
from service.inference.engine import Engine

_MOST_WINNERS = 10


@dataclass(frozen=True, kw_only=True)
class WinShare:
    """How many of the described class's synthesised embeddings a class wins, 0..1."""

    entry: ClassEntry
    share: float


@dataclass(frozen=True, kw_only=True)
class NeighbourLoss:
    """What the described class would take from a neighbour: shares of the neighbour's synthesised embeddings, 0..1.

    Attributes:
        entry: the neighbour.
        before: it wins today.
        after: it would win beside the described class.
        taken: the described class would win.
    """

    entry: ClassEntry
    before: float
    after: float
    taken: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """A class that was described and not stored.

    Attributes:
        entry: the class.
        row: its row of the head, as registering it would give.
        snapshot: the table it was held against.
        neighbourhood: the other classes.
        won: who wins its synthesised embeddings, at most ten classes, the largest share first.
        taken: what its nearest unseen classes would lose.
    """

    entry: ClassEntry
    row: Row
    snapshot: Snapshot
    neighbourhood: Neighbourhood
    won: tuple[WinShare, ...]
    taken: tuple[NeighbourLoss, ...]


class Previewer:
    """Tries classes out.

    Args:
        bundle: gives vocabulary, head and calibration.
        engine: runs the synthesizer.
        neighbours: finds the nearest classes.
    """

    def __init__(self, bundle: Bundle, engine: Engine, neighbours: Neighbours) -> None:
        self._bundle, self._engine, self._neighbours = bundle, engine, neighbours

    def preview(self, snapshot: Snapshot, entry: ClassEntry, *, neighbours: int) -> Preview:
        """What a class would be among the others; one with the same id counts as replaced.

        Args:
            snapshot: the table.
            entry: the class.
            neighbours: how many of the nearest unseen classes, by either measure, are asked what they would lose.

        Raises:
            SeenClassError: a seen class has the id.
            AttributesError: no finite row can be made from its attributes.
        """
        present = snapshot.get(entry.id)
        if present is not None and present.entry.kind == "seen":
            raise SeenClassError(f"class {entry.id!r} was seen in training; it cannot be described again")
        embeddings = self._embeddings(entry)
        row = self._bundle.head.row(embeddings)
        if not (np.isfinite(row.weight).all() and np.isfinite(row.bias)):
            raise unusable_attributes()
        around = self._neighbours.of(snapshot, entry, row)
        nearest = {
            neighbour.known.entry.id: neighbour.known.entry
            for found in (around.nearest_by_attributes(neighbours), around.nearest_by_row(neighbours))
            for neighbour in found
            if neighbour.known.entry.kind == "unseen" and neighbour.known.entry.attributes is not None
        }
        return Preview(
            entry=entry,
            row=row,
            snapshot=snapshot,
            neighbourhood=around,
            won=self._won(around, entry, row, embeddings),
            taken=tuple(self._loss(around, other, entry, row) for other in nearest.values()),
        )

    def rank(self, preview: Preview, embedding_Z: Float32, *, top_k: int) -> list[RankedClass]:
        """The most probable classes of an image, as if the class were registered; it comes last in the table.

        None where a score is not finite.
        """
        snapshot, rows = preview.snapshot, preview.neighbourhood.rows
        logits = np.append(snapshot.logits(embedding_Z[None], rows)[0], _score(embedding_Z[None], preview.row))
        seen = np.append(snapshot.seen_at(rows), False)
        probabilities = self._bundle.manifest.calibration.probabilities(logits[None], seen)[0]
        if not np.isfinite(probabilities).all():
            return []
        best: list[int] = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        return [
            RankedClass(preview.entry if i == len(rows) else snapshot.at(int(rows[i])).entry, float(probabilities[i]))
            for i in best
        ]

    def _won(self, around: Neighbourhood, entry: ClassEntry, row: Row, z_NZ: Float32) -> tuple[WinShare, ...]:
        best, winner = self._winners(around, z_NZ)
        own = self._calibrated(_score(z_NZ, row)) > best
        counts = Counter(winner[~own].tolist())
        entries = {number: around.snapshot.at(number).entry for number, _ in counts.most_common(_MOST_WINNERS)}
        shares = [WinShare(entry=e, share=counts[number] / len(z_NZ)) for number, e in entries.items()]
        shares.append(WinShare(entry=entry, share=float(own.mean())))
        return tuple(sorted(shares, key=lambda s: -s.share)[:_MOST_WINNERS])

    def _loss(self, around: Neighbourhood, other: ClassEntry, entry: ClassEntry, row: Row) -> NeighbourLoss:
        z_NZ = self._embeddings(other)
        best, winner = self._winners(around, z_NZ)
        without = winner == around.snapshot.row_number(other.id)
        taken = self._calibrated(_score(z_NZ, row)) > best
        before = without
        if around.snapshot.get(entry.id) is not None:  # the class that would be replaced is there today
            before = without & (self._calibrated(_score(z_NZ, around.snapshot.row(entry.id))) <= best)
        return NeighbourLoss(
            entry=other,
            before=float(before.mean()),
            after=float((without & ~taken).mean()),
            taken=float(taken.mean()),
        )

    def _winners(self, around: Neighbourhood, z_NZ: Float32) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Best calibrated score among the C others, float64 [N], and number of the row that has it, [N]."""
        best = np.full(len(z_NZ), -np.inf)
        winner = np.full(len(z_NZ), -1, dtype=np.intp)
        for rows, weight, bias in around.snapshot.parts(around.rows):
            scores = self._bundle.manifest.calibration.scores(z_NZ @ weight.T + bias, around.snapshot.seen_at(rows))
            place = scores.argmax(axis=1)
            found = scores[np.arange(len(z_NZ)), place]
            better = found > best
            best[better], winner[better] = found[better], rows[place[better]]
        return best, winner

    def _calibrated(self, score_N: Float32) -> NDArray[np.float64]:
        """Scores of the described class, which is unseen."""
        return self._bundle.manifest.calibration.scores(score_N[:, None], np.zeros(1, dtype=np.bool_))[:, 0]

    def _embeddings(self, entry: ClassEntry) -> Float32:
        manifest = self._bundle.manifest
        with np.errstate(all="ignore"):  # numbers beyond float32 are refused in words
            return class_embeddings(
                self._engine.synthesize,
                bundle_id=manifest.bundle_id,
                class_id=entry.id,
                attributes=entry.attributes or (),
                vocabulary=manifest.vocabulary,
                head=manifest.head,
            )


def _score(z_NZ: Float32, row: Row) -> Float32:
    scores: Float32 = np.vecdot(row.weight, z_NZ) + np.float32(row.bias)
    return scores

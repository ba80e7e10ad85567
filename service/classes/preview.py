"""What registering a class would do, computed without touching the table.

N: synthesised embeddings, C: other classes, Z: embedding dimension.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Float32, Row
from service.classes.leave_one_out import LeftOutPhoto, PhotographedClass, leave_one_out
from service.classes.neighbours import Neighbourhood, Neighbours
from service.classes.ranking import RankedClass, RankOptions, best_others, rank
from service.classes.replay import photo_share
from service.classes.snapshot import Snapshot
from service.errors import SeenClassError
from service.inference.class_rows import row_with_photos, unusable_attributes
from service.inference.engine import Engine

_MOST_WINNERS = 10
NO_PHOTOS = np.empty((0, 0), dtype=np.float32)


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
        photo_share: how much of the seen penalty applies to it, for its example photos, 0..1.
        left_out: whether each of its photos would be recognised without itself.
        won: who wins its synthesised embeddings, at most ten classes, the largest share first; none where it has no
            description.
        taken: what its nearest unseen classes would lose.
    """

    entry: ClassEntry
    row: Row
    snapshot: Snapshot
    neighbourhood: Neighbourhood
    photo_share: float
    left_out: tuple[LeftOutPhoto, ...]
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

    def preview(
        self, snapshot: Snapshot, entry: ClassEntry, photos_nZ: Float32 = NO_PHOTOS, *, neighbours: int
    ) -> Preview:
        """What a class would be among the others; one with the same id counts as replaced.

        Args:
            snapshot: the table.
            entry: the class.
            photos_nZ: embeddings of its example photos in their order.
            neighbours: how many of the nearest unseen classes, by either measure, are asked what they would lose.

        Raises:
            SeenClassError: a seen class has the id.
            AttributesError: no finite row can be made from its attributes.
            InvalidExamplesError: the bundle takes no photos.
        """
        present = snapshot.get(entry.id)
        if present is not None and present.entry.kind == "seen":
            raise SeenClassError(f"class {entry.id!r} was seen in training; it cannot be described again")
        embeddings = None if entry.attributes is None else self._embeddings(entry)
        if embeddings is None or entry.examples:
            described = None if embeddings is None else embeddings.mean(axis=0, dtype=np.float64)
            row = row_with_photos(self._bundle, described, photos_nZ)
        else:
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
        share = photo_share(self._bundle.manifest.head.photos, entry)
        (left_out,) = leave_one_out(self._bundle, snapshot, [PhotographedClass(entry=entry, row=row, photos=photos_nZ)])
        return Preview(
            entry=entry,
            row=row,
            snapshot=snapshot,
            neighbourhood=around,
            photo_share=share,
            left_out=left_out,
            won=() if embeddings is None else self._won(snapshot, entry, row, share, embeddings),
            taken=tuple(self._loss(snapshot, other, entry, row, share) for other in nearest.values()),
        )

    def rank(self, preview: Preview, embedding_Z: Float32, *, top_k: int) -> list[RankedClass]:
        """The most probable classes of an image, as if the class were registered; it comes last in the table.

        None where a score is not finite.
        """
        snapshot, rows = preview.snapshot, preview.neighbourhood.rows
        logits = np.append(snapshot.logits(embedding_Z[None], rows)[0], _score(embedding_Z[None], preview.row))
        share = np.append(snapshot.seen_share_at(rows), np.float32(preview.photo_share))
        probabilities = self._bundle.manifest.calibration.probabilities(logits[None], share)[0]
        if not np.isfinite(probabilities).all():
            return []
        best: list[int] = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        return [
            RankedClass(preview.entry if i == len(rows) else snapshot.at(int(rows[i])).entry, float(probabilities[i]))
            for i in best
        ]

    def rank_today(self, preview: Preview, embedding_Z: Float32, *, top_k: int) -> Sequence[RankedClass]:
        """The most probable classes of an image as the table is; none where a score is not finite."""
        snapshot = preview.snapshot
        if len(snapshot) == 0:
            return ()
        return rank(self._bundle, snapshot, snapshot.rows, embedding_Z[None], RankOptions(top_k=top_k))[0]

    def _won(
        self, snapshot: Snapshot, entry: ClassEntry, row: Row, share: float, z_NZ: Float32
    ) -> tuple[WinShare, ...]:
        best, winner = self._winners(snapshot, entry, z_NZ)
        own = self._calibrated(_score(z_NZ, row), share) > best
        counts = Counter(winner[~own].tolist())
        entries = {number: snapshot.at(number).entry for number, _ in counts.most_common(_MOST_WINNERS)}
        shares = [WinShare(entry=e, share=counts[number] / len(z_NZ)) for number, e in entries.items()]
        shares.append(WinShare(entry=entry, share=float(own.mean())))
        return tuple(sorted(shares, key=lambda s: -s.share)[:_MOST_WINNERS])

    def _loss(self, snapshot: Snapshot, other: ClassEntry, entry: ClassEntry, row: Row, share: float) -> NeighbourLoss:
        z_NZ = self._embeddings(other)
        best, winner = self._winners(snapshot, entry, z_NZ)
        without = winner == snapshot.row_number(other.id)
        taken = self._calibrated(_score(z_NZ, row), share) > best
        before = without
        present = snapshot.get(entry.id)
        if present is not None:  # the class that would be replaced is there today
            score = _score(z_NZ, snapshot.row(entry.id))
            before = without & (self._calibrated(score, present.seen_share) <= best)
        return NeighbourLoss(
            entry=other,
            before=float(before.mean()),
            after=float((without & ~taken).mean()),
            taken=float(taken.mean()),
        )

    def _winners(
        self, snapshot: Snapshot, entry: ClassEntry, z_NZ: Float32
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Best calibrated score among the C others, float64 [N], and number of the row that has it, [N]."""
        number = snapshot.row_number(entry.id)
        return best_others(self._bundle, snapshot, z_NZ, np.full(len(z_NZ), -1 if number is None else number))

    def _calibrated(self, score_N: Float32, share: float) -> NDArray[np.float64]:
        """Scores of a class of which a share of the seen penalty is taken."""
        return self._bundle.manifest.calibration.scores(score_N[:, None], np.array([share]))[:, 0]

    def _embeddings(self, entry: ClassEntry) -> Float32:
        with np.errstate(all="ignore"):  # numbers beyond float32 are refused in words
            return self._bundle.manifest.class_embeddings(self._engine.synthesize, entry)


def _score(z_NZ: Float32, row: Row) -> Float32:
    scores: Float32 = np.vecdot(row.weight, z_NZ) + np.float32(row.bias)
    return scores

"""Whether each example photo of a class would be recognised if the class did not have it.

n: photos of a class, N: photos of all classes in question, Z: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.classes import ClassEntry, ExamplePhoto
from model.head import Float32, Row
from service.classes.ranking import best_others
from service.classes.snapshot import Snapshot

Squares = Mapping[str, float]
"""z^T S^-1 z of the embeddings of photos by the photos' ids, see :meth:`model.lda.LdaHead.squares`."""

NO_SQUARES: Squares = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotographedClass:
    """A class with its row and photos.

    Attributes:
        entry: the class.
        row: its row.
        photos: embeddings of its photos in their order, float32 [n, Z].
        squares: of photos, where they are computed already.
    """

    entry: ClassEntry
    row: Row
    photos: Float32
    squares: Squares = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LeftOutPhoto:
    """What a photo would be taken for if its class did not have it.

    Attributes:
        example: the photo.
        other: the most probable of the other classes.
        log_odds: of its own class against that one; above 0 where it would be recognised.
    """

    example: ExamplePhoto
    other: ClassEntry
    log_odds: float

    @property
    def recognised(self) -> bool:
        """Whether its class would be the most probable one."""
        return self.log_odds > 0


def photo_squares(bundle: Bundle, embeddings: Mapping[str, Float32]) -> Squares:
    """The squares of photos from their embeddings by id, float32 [Z]; no row of a class is needed for them."""
    if not embeddings:
        return NO_SQUARES
    squares = bundle.head.squares(np.stack([*embeddings.values()]))
    return dict(zip(embeddings, squares.tolist(), strict=True))


def leave_one_out(
    bundle: Bundle, snapshot: Snapshot, classes: Sequence[PhotographedClass]
) -> list[tuple[LeftOutPhoto, ...]]:
    """For each class its photos in their order; see :meth:`model.photos.PhotoPrior.left_out_scores`.

    There are none of a class whose only photo is all that is known of it, nor where no other class is there.

    Args:
        bundle: gives head and calibration.
        snapshot: the other classes; a class in question may be there, and does not compete with itself.
        classes: those in question.
    """
    judged = [one for one in classes if len(one.photos) >= (1 if one.entry.attributes is not None else 2)]
    if not judged:
        return [() for _ in classes]
    z_NZ = np.concatenate([one.photos for one in judged])
    numbers = [-1 if (n := snapshot.row_number(one.entry.id)) is None else n for one in judged]
    own_N = np.repeat(numbers, [len(one.photos) for one in judged])
    best_N, winner_N = best_others(bundle, snapshot, z_NZ, own_N)
    odds_N = np.concatenate([_calibrated(bundle, one) for one in judged]) - best_N
    found = iter(zip(winner_N.tolist(), odds_N.tolist(), strict=True))
    return [
        tuple(
            LeftOutPhoto(example=example, other=snapshot.at(winner).entry, log_odds=odds)
            for example, (winner, odds) in zip(one.entry.examples, islice(found, len(one.photos)), strict=True)
            if winner >= 0
        )
        if one in judged
        else ()
        for one in classes
    ]


def _calibrated(bundle: Bundle, one: PhotographedClass) -> NDArray[np.float64]:
    """Calibrated score of each photo on its class's row without it, float64 [n]."""
    head, calibration = bundle.manifest.head, bundle.manifest.calibration
    assert head.photos is not None
    scores_n = head.photos.left_out_scores(
        one.row.weight,
        one.row.bias,
        one.photos,
        _squares(bundle, one),
        described=one.entry.attributes is not None,
        unseen_scale=head.unseen_scale,
    )
    share = np.array([head.photos.seen_share(len(one.photos) - 1)])
    return calibration.scores(scores_n[:, None].astype(np.float32), share)[:, 0]


def _squares(bundle: Bundle, one: PhotographedClass) -> NDArray[np.float64]:
    """Float64 [n]."""
    if all(example.id in one.squares for example in one.entry.examples):
        return np.array([one.squares[example.id] for example in one.entry.examples])
    return bundle.head.squares(one.photos)

"""How much example photos count against a description, chosen on pseudo-unseen classes.

N: held-out rows, C: classes of the training, U: pseudo-unseen ones, P: photos of each, Z: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from model.photos import PhotoPrior
from training.metrics import harmonic_mean

MOST = 5
"""Photos of a class."""

COUNTS = (1, 2, 5)
"""How many photos a class has when the prior is judged."""

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Candidates for each number of the prior."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoScores:
    """What one head says of held-out rows and of those among them that serve as photos.

    All that a mean of description and photos needs, as scores are linear in it but for the bias, which is quadratic.

    Attributes:
        products: x^T S^-1 z of each row x and each photo z, float32 [N, U, P].
        bias: of each class as described, -m_0^T S^-1 m_0 / 2, float32 [C].
    """

    products: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """The photos of one fold.

    Attributes:
        rows: which held-out rows they are, int64 [U, P]; P may be 0.
        scores: by the name of the head.
    """

    rows: NDArray[np.int64]
    scores: Mapping[str, PhotoScores]


def draw_photos(labels_N: NDArray[np.int64], seen_C: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Held-out rows that serve as photos, [U, P]: at most `MOST` and at most half of the rarest class's rows."""
    unseen = np.flatnonzero(~seen_C)
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(labels_N == index)) for index in unseen]
    count = min([MOST, *(len(of_class) // 2 for of_class in rows)])
    return np.array([of_class[:count] for of_class in rows], dtype=np.int64).reshape(len(unseen), count)


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoFold:
    """One fold's rows that are no photos, prepared so that trying a prior costs N x U.

    Attributes:
        seen_best: best score of a seen class less the penalty, float64 [N].
        seen_right: whether that class is the row's, bool [N].
        labels: of rows of pseudo-unseen classes their place among these, -1 of others, int64 [N].
        weights: of each row, so that every class weighs the same among the seen, and among the others, float64 [N].
        described: scores by description but for their bias, float64 [N, U].
        products: float64 [N, U, P].
        prior: m_0^T S^-1 m_0, float64 [U].
        crossed: m_0^T S^-1 z of each class with its own photos, float64 [U, P].
        squared: z^T S^-1 z' of its photos with each other, float64 [U, P, P].
        penalty: on seen classes, in logits.
        unseen_scale: of the scores of described classes.
    """

    seen_best: NDArray[np.float64]
    seen_right: NDArray[np.bool_]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    described: NDArray[np.float64]
    products: NDArray[np.float64]
    prior: NDArray[np.float64]
    crossed: NDArray[np.float64]
    squared: NDArray[np.float64]
    penalty: float
    unseen_scale: float

    @classmethod
    def of(
        cls,
        logits_NC: NDArray[np.float32],
        labels_N: NDArray[np.int64],
        seen_C: NDArray[np.bool_],
        photos: Photos,
        name: str,
        *,
        penalty: float,
        unseen_scale: float,
    ) -> PhotoFold:
        """Prepare the scores of one head, `name`; `logits_NC` are not scaled."""
        scores, unseen = photos.scores[name], np.flatnonzero(~seen_C)
        bias = scores.bias[unseen].astype(np.float64)
        place = np.full(len(seen_C), -1)
        place[unseen] = np.arange(len(unseen))
        described = logits_NC[:, unseen].astype(np.float64) - bias
        own = np.arange(len(unseen))[:, None]
        kept = np.ones(len(labels_N), dtype=bool)
        kept[photos.rows] = False
        seen = np.where(seen_C, logits_NC[kept], -np.inf)
        labels = labels_N[kept]
        counts = np.bincount(labels, minlength=len(seen_C))
        of_unseen = ~seen_C[labels]
        groups = np.where(of_unseen, np.count_nonzero(counts[~seen_C]), np.count_nonzero(counts[seen_C]))
        return cls(
            seen_best=seen.max(axis=1).astype(np.float64) - penalty,
            seen_right=seen.argmax(axis=1) == labels,
            labels=place[labels],
            weights=1 / (counts[labels] * groups),
            described=described[kept],
            products=scores.products[kept].astype(np.float64),
            prior=-2 * bias,
            crossed=described[photos.rows, own],
            squared=scores.products[photos.rows, own].astype(np.float64),
            penalty=penalty,
            unseen_scale=unseen_scale,
        )

    def h(self, prior: PhotoPrior, chosen: Sequence[int], *, described: bool = True) -> float:
        """H where every pseudo-unseen class has the chosen photos, and its description or none."""
        n, k = len(chosen), prior.described if described else prior.undescribed
        of_photos = self.products[:, :, chosen].sum(axis=2)
        square = self.squared[:, chosen][:, :, chosen].sum(axis=(1, 2))
        if described:
            of_photos += k * self.described
            square += k * k * self.prior + 2 * k * self.crossed[:, chosen].sum(axis=1)
        logits = of_photos / (k + n) - square / (2 * (k + n) ** 2)
        share = prior.seen_share(n)
        scores = prior.scale(self.unseen_scale, n) * logits - share * self.penalty
        best, unseen_wins = scores.argmax(axis=1), scores.max(axis=1) > self.seen_best
        right = np.where(self.labels < 0, ~unseen_wins & self.seen_right, unseen_wins & (best == self.labels))
        of_unseen = self.labels >= 0
        hits = right * self.weights
        return harmonic_mean(float(hits[of_unseen].sum()), float(hits[~of_unseen].sum()))


def subsets(photos: int) -> Iterator[tuple[int, ...]]:
    """Which photos classes have in turn: of each count as many disjoint sets as there are."""
    for count in COUNTS:
        for start in range(0, photos - count + 1, count):
            yield tuple(range(start, start + count))


def mean_h(folds: Sequence[PhotoFold], prior: PhotoPrior, *, described: bool = True) -> float:
    """Mean H over folds and counts of photos, each count weighing the same."""
    by_count: dict[int, list[float]] = {}
    for fold in folds:
        for chosen in subsets(fold.products.shape[2]):
            by_count.setdefault(len(chosen), []).append(fold.h(prior, chosen, described=described))
    return float(np.mean([np.mean(values) for values in by_count.values()]))


def choose_photo_prior(folds: Sequence[PhotoFold]) -> tuple[PhotoPrior, float] | None:
    """The prior with the best mean H with photos, and that H; None where a fold has none to try it with.

    First k and f of described classes together, then, with that f, k of classes without a description.
    """
    if not folds or any(fold.products.shape[2] == 0 for fold in folds):
        return None
    tried = {
        (k, f): mean_h(folds, PhotoPrior(described=k, undescribed=1.0, fade=f))
        for k, f in product(STRENGTHS, STRENGTHS)
    }
    k, f = max(tried, key=tried.__getitem__)
    alone = {k_0: mean_h(folds, PhotoPrior(described=k, undescribed=k_0, fade=f), described=False) for k_0 in STRENGTHS}
    return PhotoPrior(described=k, undescribed=max(alone, key=alone.__getitem__), fade=f), tried[k, f]

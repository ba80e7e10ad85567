"""GZSL metrics: per-class top-1, U, S, H, T1, AUSUC, AUROC and calibration error.

N: rows, C: classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]
Labels = NDArray[np.integer]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class GzslScores:
    """Results on a 0..1 scale.

    Attributes:
        U: mean per-class top-1 of unseen classes over all classes.
        S: the same of seen classes.
        H: harmonic mean 2US/(U+S).
        T1: mean per-class top-1 of unseen rows among unseen classes only; NaN without unseen rows.
        AUSUC: area under the seen/unseen accuracy curve over all penalties.
    """

    U: float
    S: float
    H: float
    T1: float
    AUSUC: float

    def to_json(self) -> dict[str, float]:
        """The fields as JSON values."""
        return asdict(self)


def per_class_accuracy(predicted_N: Labels, labels_N: Labels, classes: int) -> NDArray[np.float64]:
    """Top-1 accuracy of each class, float64 [C]; NaN for a class without rows."""
    totals = np.bincount(labels_N, minlength=classes)
    hits = np.bincount(labels_N[predicted_N == labels_N], minlength=classes)
    return np.where(totals > 0, hits / np.maximum(totals, 1), np.nan)


def harmonic_mean(unseen: float, seen: float) -> float:
    """2US/(U+S), 0 where both are 0."""
    return 2 * unseen * seen / (unseen + seen) if unseen + seen > 0 else 0.0


def harmonic_means(unseen_M: NDArray[np.float64], seen_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """:func:`harmonic_mean` of many pairs, any shape."""
    means: NDArray[np.float64] = 2 * unseen_M * seen_M / np.maximum(unseen_M + seen_M, 1e-12)
    return means


def gzsl_scores(scores_NC: Logits, labels_N: Labels, seen_C: Mask) -> GzslScores:
    """All GZSL scores of one score matrix, penalties already applied.

    Args:
        scores_NC: higher is better.
        labels_N: class index of each row.
        seen_C: which classes are seen.

    Raises:
        ValueError: no row of a seen class or no row of an unseen class.
    """
    _require_both(labels_N, seen_C)
    accuracy = per_class_accuracy(scores_NC.argmax(axis=1), labels_N, len(seen_C))
    unseen, seen = float(np.nanmean(accuracy[~seen_C])), float(np.nanmean(accuracy[seen_C]))
    rows = ~seen_C[labels_N]
    columns = np.flatnonzero(~seen_C)
    among = columns[scores_NC[rows][:, columns].argmax(axis=1)]
    t1 = float(np.nanmean(per_class_accuracy(among, labels_N[rows], len(seen_C))))
    return GzslScores(
        U=unseen,
        S=seen,
        H=harmonic_mean(unseen, seen),
        T1=t1,
        AUSUC=seen_unseen_curve(scores_NC, labels_N, seen_C).area,
    )


@dataclass(frozen=True, kw_only=True)
class SeenUnseenCurve:
    """Accuracies as functions of the penalty on seen classes (Chao et al., arXiv 1605.04253).

    Attributes:
        penalties: where a prediction changes, ascending, float64 [M].
        unseen: U just above each penalty, after a first value for no penalty at all (-inf), float64 [M+1].
        seen: S likewise.
    """

    penalties: NDArray[np.float64]
    unseen: NDArray[np.float64]
    seen: NDArray[np.float64]

    @property
    def area(self) -> float:
        """AUSUC, by the trapezoid rule over the curve."""
        return float(np.trapezoid(self.unseen, -self.seen))

    def at(self, penalty: float | NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """U and S at given penalties."""
        place = np.searchsorted(self.penalties, penalty, side="left")
        return self.unseen[place], self.seen[place]


def seen_unseen_curve(scores_NC: Logits, labels_N: Labels, seen_C: Mask) -> SeenUnseenCurve:
    """The whole trade-off in O(N (C + log N)).

    A row is predicted seen while the penalty is below its gap, the largest seen score less the largest unseen score; so
    each row gives or loses its one hit at its gap. A row counts 1/(rows of its class x classes of its kind).

    Raises:
        ValueError: no row of a seen class or no row of an unseen class.
    """
    _require_both(labels_N, seen_C)
    seen_columns, unseen_columns = np.flatnonzero(seen_C), np.flatnonzero(~seen_C)
    seen_scores, unseen_scores = scores_NC[:, seen_columns], scores_NC[:, unseen_columns]
    rows = np.arange(len(labels_N))
    best_seen, best_unseen = seen_scores.argmax(axis=1), unseen_scores.argmax(axis=1)
    gaps = (seen_scores[rows, best_seen] - unseen_scores[rows, best_unseen]).astype(np.float64)
    counts = np.bincount(labels_N, minlength=len(seen_C))
    present = counts > 0
    kinds = np.where(seen_C, (present & seen_C).sum(), (present & ~seen_C).sum())
    weight = 1 / (counts[labels_N] * kinds[labels_N])
    seen_hit = weight * (seen_columns[best_seen] == labels_N)
    unseen_hit = weight * (unseen_columns[best_unseen] == labels_N)
    penalties, place = np.unique(gaps, return_inverse=True)
    lost = np.bincount(place, seen_hit, minlength=len(penalties))
    won = np.bincount(place, unseen_hit, minlength=len(penalties))
    return SeenUnseenCurve(
        penalties=penalties,
        seen=np.concatenate([[lost.sum()], lost.sum() - np.cumsum(lost)]),
        unseen=np.concatenate([[0.0], np.cumsum(won)]),
    )


def auroc(positive: Logits, negative: Logits) -> float:
    """Probability that a positive lies above a negative, ties counted half.

    Raises:
        ValueError: one of the two is empty.
    """
    if len(positive) == 0 or len(negative) == 0:
        raise ValueError(f"AUROC needs both kinds of rows, got {len(positive)} positive and {len(negative)} negative")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")
    return float(below.mean() / (2 * len(negative)))


def class_aurocs(familiarity_N: Logits, labels_N: Labels, seen_C: Mask) -> NDArray[np.float64]:
    """AUROC of each unseen class against all rows of seen classes, float64 [U], NaN for a class without rows.

    Args:
        familiarity_N: smaller for rows that look less like a seen class.
        labels_N: class index of each row.
        seen_C: which classes are seen; U are not.

    Raises:
        ValueError: there are no rows of seen classes.
    """
    of_seen = seen_C[labels_N]
    if not of_seen.any():
        raise ValueError("the AUROC of unseen classes needs rows of seen classes")
    ordered = np.sort(familiarity_N[of_seen])
    below = np.searchsorted(ordered, familiarity_N, side="left") + np.searchsorted(ordered, familiarity_N, side="right")
    counts = np.bincount(labels_N, minlength=len(seen_C))[~seen_C]
    shares = np.bincount(labels_N, 1 - below / (2 * len(ordered)), minlength=len(seen_C))[~seen_C]
    return np.where(counts > 0, shares / np.maximum(counts, 1), np.nan)


def class_weights(labels_N: Labels) -> NDArray[np.float64]:
    """Weight of each row with which every class that has rows counts the same, float64 [N], sum 1."""
    counts = np.bincount(labels_N)
    weights: NDArray[np.float64] = 1 / (counts[labels_N] * np.count_nonzero(counts))
    return weights


def expected_calibration_error(
    probabilities_NC: Logits,
    labels_N: Labels,
    *,
    bins: int = 15,
    weights_N: NDArray[np.float64] | None = None,
) -> float:
    """How far confidence is from accuracy, 0..1 (Guo et al., ICML 2017, arXiv 1706.04599).

    ECE = sum_m |B_m|/N |acc(B_m) - conf(B_m)|; B_m holds the rows whose largest probability lies in ((m-1)/M, m/M].

    Args:
        probabilities_NC: rows sum to 1.
        labels_N: class index of each row.
        bins: M, equally wide.
        weights_N: counts rows by these weights, such as :func:`class_weights`; without them every row counts the same.

    Raises:
        ValueError: no rows.
    """
    if len(labels_N) == 0:
        raise ValueError("the calibration error needs at least one row")
    confidence = probabilities_NC.max(axis=1).astype(np.float64)
    over = confidence - (probabilities_NC.argmax(axis=1) == labels_N)
    weights = np.ones(len(labels_N)) if weights_N is None else weights_N
    place = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    return float(np.abs(np.bincount(place, weights * over, minlength=bins)).sum() / weights.sum())


def _require_both(labels_N: Labels, seen_C: Mask) -> None:
    kinds = seen_C[labels_N]
    if not kinds.any() or kinds.all():
        raise ValueError("GZSL scores need test rows of seen and of unseen classes")


MIN_REPEATS = 2  # of one measurement nobody knows how much is chance


def largest_significant_gain(scores_RK: NDArray[np.float64], errors: float) -> int:
    """The candidate that gains most over the first one, by more than so many standard errors; else the first.

    Args:
        scores_RK: larger is better; paired over the measurements.
        errors: standard errors, of the mean gain over the measurements.
    """
    repeats = len(scores_RK)
    if repeats < MIN_REPEATS:
        return 0
    gains_RK = scores_RK - scores_RK[:, :1]
    gain_K = gains_RK.mean(axis=0)
    shown_K = gain_K > errors * gains_RK.std(axis=0, ddof=1) / math.sqrt(repeats)
    return int(np.where(shown_K, gain_K, 0).argmax())

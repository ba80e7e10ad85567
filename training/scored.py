"""Scores of held-out rows, and the seen penalty that is best for them.

N: rows, C: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.metrics import SeenUnseenCurve, harmonic_means, seen_unseen_curve

NEARLY_BEST = 0.005
"""Penalties, and strengths of a head, within this much of the best mean H count as equally good."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Scores of one fold's held-out rows by one candidate."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]


def scaled(run: Scored, scale: float) -> Scored:
    """The same with the scores of described classes multiplied."""
    return run if scale == 1 else replace(run, logits=run.logits * np.where(run.seen, 1, scale).astype(np.float32))


def curve_of(scored: Scored) -> SeenUnseenCurve:
    """Accuracies of one fold against the penalty."""
    return seen_unseen_curve(scored.logits, scored.labels, scored.seen)


def best_penalty(curves: list[SeenUnseenCurve]) -> tuple[float, float]:
    """The penalty (in logits) with the best mean H over folds, and that H.

    H is a step function of the penalty with one step a row; of all steps within `NEARLY_BEST` of the best the median
    is taken, so that no single row decides.
    """
    penalties = np.unique(np.concatenate([curve.penalties for curve in curves]))
    middle = (penalties[1:] + penalties[:-1]) / 2 if len(penalties) > 1 else penalties
    mean_h = np.zeros(len(middle))
    for curve in curves:
        unseen, seen = curve.at(middle)
        mean_h += harmonic_means(unseen, seen) / len(curves)
    best = float(mean_h.max())
    near = np.flatnonzero(mean_h >= best - NEARLY_BEST)
    chosen = int(near[np.argmin(np.abs(middle[near] - np.median(middle[near])))])
    return float(middle[chosen]), float(mean_h[chosen])


def fold_scores(runs: Sequence[Scored]) -> NDArray[np.float64]:
    """H of each fold at the penalty that is best for all."""
    curves = [curve_of(run) for run in runs]
    penalty = np.array([best_penalty(curves)[0]])
    return np.array([harmonic_means(*curve.at(penalty))[0] for curve in curves])

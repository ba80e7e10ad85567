"""By which score `novelty` is measured: chosen on pseudo-unseen classes, or none where no score tells them apart.

N: held-out rows, C: classes of a fold, U: pseudo-unseen ones, K: scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.head import Float32
from training.method.heads import HeadFit
from training.method.novelty import NOVELTY_SCORES, TEACHER, NoveltyScore, familiarity
from training.metrics import class_aurocs

CHANCE = 0.5
ERRORS = 2
"""Standard errors by which a score must beat chance to be served."""
MIN_CLASSES = 2  # of one class nobody knows how much is chance


def all_familiarities(
    head: HeadFit, seen_C: NDArray[np.bool_], z_NZ: Float32, teacher_N: Float32
) -> dict[NoveltyScore, Float32]:
    """Every score of the same rows, float32 [N] each; embeddings are not centred yet."""
    return {
        score: teacher_N if score == TEACHER else familiarity(score, head, seen_C, z_NZ) for score in NOVELTY_SCORES
    }


def score_aurocs(
    familiarities: Mapping[NoveltyScore, Float32], labels_N: NDArray[np.int64], seen_C: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """AUROC of each score for each class that is not seen, float64 [K, U]."""
    return np.stack([class_aurocs(familiarities[score], labels_N, seen_C) for score in NOVELTY_SCORES])


def choose_novelty(
    aurocs: Sequence[NDArray[np.float64]], seen: Sequence[NDArray[np.bool_]]
) -> tuple[NoveltyScore | None, dict[str, Any]]:
    """The score with the best mean AUROC over pseudo-unseen classes, if that beats chance by two standard errors.

    The mean and its standard error are over classes, not over folds, of which there may be one: which classes come
    later is what nobody knows. A class that is pseudo-unseen in several repeats counts once, with its mean.

    Args:
        aurocs: of each fold, float64 [K, U].
        seen: of each fold, which of its classes have training rows, bool [C]; C is the same for all.

    Returns:
        The score, None where none beats chance, and `{"auroc", "error"}` of each for the report.
    """
    sums, counts = np.zeros((len(NOVELTY_SCORES), len(seen[0]))), np.zeros(len(seen[0]))
    for values, seen_C in zip(aurocs, seen, strict=True):
        known = np.isfinite(values).all(axis=0)
        hidden = np.flatnonzero(~seen_C)[known]
        sums[:, hidden] += values[:, known]
        counts[hidden] += 1
    of_class = sums[:, counts > 0] / counts[counts > 0]
    means, classes = of_class.mean(axis=1), of_class.shape[1]
    errors = of_class.std(axis=1, ddof=1) / np.sqrt(classes) if classes >= MIN_CLASSES else np.full(len(means), np.inf)
    best = int(means.argmax())
    chosen = NOVELTY_SCORES[best] if means[best] - ERRORS * errors[best] > CHANCE else None
    return chosen, {
        score: {"auroc": float(means[k]), "error": float(errors[k]) if np.isfinite(errors[k]) else None}
        for k, score in enumerate(NOVELTY_SCORES)
    }

"""Baselines that learn nothing: (kernel) ridge from attributes to class means, then LDA.

The protocol is that of `d3gzsl-train fit`: ridge strength, kernel width, shrinkage and seen penalty are chosen on
the same pseudo-unseen folds; test rows are never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from model.head import logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from training.config import SelectionConfig
from training.datasets.dataset import Dataset
from training.features.scaler import Scaler, Scaling
from training.metrics import gzsl_scores, per_class_accuracy
from training.selection.fold_scores import FoldScores, best_penalty, curve_of
from training.selection.folds import used_folds

RIDGE = (0.03, 0.1, 0.3, 1.0, 3.0)
LINEAR = 0.0
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sharpness of exp(-g ||a - a'||^2), times the mean squared distance of seen classes' attributes."""
Rows = NDArray[np.int64]
Candidate = tuple[float, float, float]
"""Kernel width (`LINEAR` for none), ridge strength and shrinkage."""


def ridge_lda(
    dataset: Dataset, config: SelectionConfig, *, seed: int, kernel: bool = False, scaling: Scaling = "range"
) -> dict[str, Any]:
    """U, S, H, T1, AUSUC of the baseline on the test rows, accuracies by class, and what validation chose."""
    candidates = list(itertools.product(WIDTHS if kernel else (LINEAR,), RIDGE, config.shrinkage))
    scored: dict[Candidate, list[FoldScores]] = {c: [] for c in candidates}
    for fold in used_folds(dataset, config, seed):
        labels = np.searchsorted(fold.classes, dataset.labels[fold.held])
        seen = ~np.isin(fold.classes, fold.pseudo_unseen)
        for candidate, scores in scores_of(dataset, fold.train, fold.held, fold.classes, candidates, scaling):
            scored[candidate].append(FoldScores(logits=scores, labels=labels, seen=seen))
    results = {c: best_penalty([curve_of(s) for s in runs]) for c, runs in scored.items()}
    best = max(results, key=lambda c: results[c][1])
    everything = np.arange(len(dataset.classes))
    ((_, scores),) = scores_of(dataset, dataset.trainval, dataset.test, everything, [best], scaling)
    penalty, validation_h = results[best]
    scores, labels = scores - penalty * dataset.seen, dataset.labels[dataset.test]
    measured = gzsl_scores(scores, labels, dataset.seen)
    accuracy = per_class_accuracy(scores.argmax(axis=1), labels, len(everything))
    chosen = {"kernel_width": best[0], "ridge": best[1], "shrinkage": best[2]}
    return {
        **measured.to_json(),
        **chosen,
        "validation_H": validation_h,
        "per_class": {dataset.classes[c].id: float(accuracy[c]) for c in np.unique(labels)},
        "unseen_classes": [dataset.classes[c].id for c in np.flatnonzero(~dataset.seen)],
    }


def scores_of(
    dataset: Dataset, train: Rows, test: Rows, classes: Rows, candidates: list[Candidate], scaling: Scaling
) -> Iterator[tuple[Candidate, NDArray[np.float32]]]:
    """Logits of `test` rows over `classes`, from `train` rows and the attributes of classes without rows."""
    labels = np.searchsorted(classes, dataset.labels[train])
    scaler = Scaler.fit(dataset.features[train], scaling)
    rows, held = scaler.apply(dataset.features[train]), scaler.apply(dataset.features[test])
    means = np.zeros((len(classes), rows.shape[1]))
    found, _ = class_means(rows.astype(np.float64), labels)
    means[: len(found)] = found
    seen = np.isin(np.arange(len(classes)), labels)
    mean = means[seen].mean(axis=0)
    attributes = dataset.attributes[classes].astype(np.float64)
    covariance = within_class_covariance(rows - mean, (np.cumsum(seen) - 1)[labels])
    heads = {s: LdaHead(shrunk_cholesky(covariance, s)) for s in {shrinkage for _, _, shrinkage in candidates}}
    for width, ridge, shrinkage in candidates:
        likeness = likenesses(attributes, seen, width)
        gram = likeness[seen] + ridge * np.trace(likeness[seen]) / seen.sum() * np.eye(seen.sum())
        means[~seen] = likeness[~seen] @ np.linalg.solve(gram, means[seen] - mean) + mean
        weight, bias = heads[shrinkage].rows(means - mean)
        yield (width, ridge, shrinkage), logits((held - mean).astype(np.float32), weight, bias)


def likenesses(attributes: NDArray[np.float64], seen: NDArray[np.bool_], width: float) -> NDArray[np.float64]:
    """Kernel of every class with the seen ones, centred on the seen ones, [C, S]."""
    if width == LINEAR:
        centred = attributes - attributes[seen].mean(axis=0)
        product: NDArray[np.float64] = centred @ centred[seen].T
        return product
    squared = cdist(attributes, attributes[seen], "sqeuclidean")
    kernel = np.exp(-width / squared[seen].mean() * squared)
    kernel -= kernel[seen].mean(axis=0)
    centred_kernel: NDArray[np.float64] = kernel - kernel.mean(axis=1, keepdims=True)
    return centred_kernel

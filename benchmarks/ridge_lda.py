"""The no-learning baseline, under the protocol of `d3gzsl-train fit`: ridge from attributes to class means, then LDA.

Ridge strength, shrinkage and seen penalty are chosen on the same pseudo-unseen folds; test rows are never read.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.head import logits
from model.lda import LdaHead, class_means
from training.config import SelectionConfig
from training.dataset import Dataset
from training.metrics import evaluate
from training.selection import Scored, best_penalty, curve_of, folds

RIDGE = (0.03, 0.1, 0.3, 1.0)
Rows = NDArray[np.int64]


def ridge_lda(dataset: Dataset, config: SelectionConfig, *, seed: int) -> dict[str, Any]:
    """U, S, H, T1, AUSUC of the baseline on the test rows, and what validation chose."""
    candidates = list(itertools.product(RIDGE, config.shrinkage))
    scored: dict[tuple[float, float], list[Scored]] = {c: [] for c in candidates}
    for fold in folds(dataset, config, seed):
        labels = np.searchsorted(fold.classes, dataset.labels[fold.held])
        seen = ~np.isin(fold.classes, fold.hidden)
        for ridge, shrinkage in candidates:
            scores = scores_of(dataset, fold.train, fold.held, fold.classes, ridge=ridge, shrinkage=shrinkage)
            scored[ridge, shrinkage].append(Scored(logits=scores, labels=labels, seen=seen))
    results = {c: best_penalty([curve_of(s) for s in runs]) for c, runs in scored.items()}
    best = max(results, key=lambda c: results[c][1])
    everything = np.arange(len(dataset.classes))
    scores = scores_of(dataset, dataset.trainval, dataset.test, everything, ridge=best[0], shrinkage=best[1])
    penalty, validation_h = results[best]
    measured = evaluate(scores - penalty * dataset.seen, dataset.labels[dataset.test], dataset.seen)
    return {**measured.to_json(), "ridge": best[0], "shrinkage": best[1], "validation_H": validation_h}


def scores_of(
    dataset: Dataset, train: Rows, test: Rows, classes: Rows, *, ridge: float, shrinkage: float
) -> NDArray[np.float32]:
    """Logits of `test` rows over `classes`, from `train` rows and the attributes of classes without rows."""
    labels = np.searchsorted(classes, dataset.labels[train])
    features = dataset.features.astype(np.float64)
    low = features[train].min(axis=0)
    spread = np.maximum(features[train].max(axis=0) - low, 1e-6)
    scaled = (features - low) / spread
    means = np.zeros((len(classes), scaled.shape[1]))
    found, _ = class_means(scaled[train], labels)
    means[: len(found)] = found
    seen = np.isin(np.arange(len(classes)), labels)
    attributes = dataset.attributes[classes].astype(np.float64)
    centre, mean = attributes[seen].mean(axis=0), means[seen].mean(axis=0)
    gram = (attributes[seen] - centre) @ (attributes[seen] - centre).T
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    dual = np.linalg.solve(gram, means[seen] - mean)
    means[~seen] = (attributes[~seen] - centre) @ (attributes[seen] - centre).T @ dual + mean
    head = LdaHead.fit(scaled[train] - mean, (np.cumsum(seen) - 1)[labels], shrinkage=shrinkage)
    return logits((scaled[test] - mean).astype(np.float32), *head.rows(means - mean))

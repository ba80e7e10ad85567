"""The no-learning baseline, under the protocol of `d3gzsl-train fit`: ridge from attributes to class means, then LDA.

Ridge strength, shrinkage and seen penalty are chosen on the same pseudo-unseen folds; test rows are never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.head import logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from training.config import SelectionConfig
from training.dataset import Dataset
from training.folds import folds
from training.metrics import evaluate
from training.scaler import Scaler
from training.selection import Scored, best_penalty, curve_of

RIDGE = (0.03, 0.1, 0.3, 1.0)
Rows = NDArray[np.int64]
Candidate = tuple[float, float]
"""Ridge strength and shrinkage."""


def ridge_lda(dataset: Dataset, config: SelectionConfig, *, seed: int) -> dict[str, Any]:
    """U, S, H, T1, AUSUC of the baseline on the test rows, and what validation chose."""
    candidates = list(itertools.product(RIDGE, config.shrinkage))
    scored: dict[Candidate, list[Scored]] = {c: [] for c in candidates}
    for fold in folds(dataset, config, seed):
        labels = np.searchsorted(fold.classes, dataset.labels[fold.held])
        seen = ~np.isin(fold.classes, fold.hidden)
        for candidate, scores in scores_of(dataset, fold.train, fold.held, fold.classes, candidates):
            scored[candidate].append(Scored(logits=scores, labels=labels, seen=seen))
    results = {c: best_penalty([curve_of(s) for s in runs]) for c, runs in scored.items()}
    best = max(results, key=lambda c: results[c][1])
    everything = np.arange(len(dataset.classes))
    ((_, scores),) = scores_of(dataset, dataset.trainval, dataset.test, everything, [best])
    penalty, validation_h = results[best]
    measured = evaluate(scores - penalty * dataset.seen, dataset.labels[dataset.test], dataset.seen)
    return {**measured.to_json(), "ridge": best[0], "shrinkage": best[1], "validation_H": validation_h}


def scores_of(
    dataset: Dataset, train: Rows, test: Rows, classes: Rows, candidates: list[Candidate]
) -> Iterator[tuple[Candidate, NDArray[np.float32]]]:
    """Logits of `test` rows over `classes`, from `train` rows and the attributes of classes without rows."""
    labels = np.searchsorted(classes, dataset.labels[train])
    scaler = Scaler.fit(dataset.features[train])
    rows, held = scaler.apply(dataset.features[train]), scaler.apply(dataset.features[test])
    means = np.zeros((len(classes), rows.shape[1]))
    found, _ = class_means(rows.astype(np.float64), labels)
    means[: len(found)] = found
    seen = np.isin(np.arange(len(classes)), labels)
    mean = means[seen].mean(axis=0)
    attributes = dataset.attributes[classes].astype(np.float64)
    attributes -= attributes[seen].mean(axis=0)
    covariance = within_class_covariance(rows - mean, (np.cumsum(seen) - 1)[labels])
    heads = {s: LdaHead(shrunk_cholesky(covariance, s)) for s in {shrinkage for _, shrinkage in candidates}}
    for ridge, shrinkage in candidates:
        gram = attributes[seen] @ attributes[seen].T
        gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        dual = np.linalg.solve(gram, means[seen] - mean)
        means[~seen] = attributes[~seen] @ attributes[seen].T @ dual + mean
        weight, bias = heads[shrinkage].rows(means - mean)
        yield (ridge, shrinkage), logits((held - mean).astype(np.float32), weight, bias)

"""Which scaling the features take, decided on the folds of the selection, without training anything.

N: rows, D: scaled features, A: attributes, C: classes of a fold, S: those with rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.head import logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from training.config import TrainConfig
from training.datasets.dataset import Dataset
from training.features.scaler import SCALINGS, Scaler, Scaling, evenly
from training.metrics import largest_significant_gain
from training.selection.fold_scores import FoldScores, fold_scores
from training.selection.folds import Fold, used_folds

RIDGE, SHRINKAGE = 0.3, 0.5
MOST_ROWS = 20_000  # of a fold, on either side


def choose_scaling(dataset: Dataset, config: TrainConfig) -> tuple[Scaling, dict[str, float]]:
    """The configured scaling; for `auto` `normal` where it gains H on the folds by more than its standard error.

    What is compared is the plainest classifier that knows classes by their attributes: class means, those of hidden
    classes by ridge regression from attributes, and an `lda` head.

    Args:
        dataset: only its trainval rows are read.
        config: hyper-parameters.

    Returns:
        The scaling, and mean H of each where they were compared.
    """
    if config.scaling != "auto":
        return config.scaling, {}
    folds = list(used_folds(dataset, config.selection, config.seed))
    scores = [fold_scores([score(dataset, fold, scaling) for fold in folds]) for scaling in SCALINGS]
    chosen = SCALINGS[largest_significant_gain(np.stack(scores, axis=1), errors=1)]
    return chosen, {scaling: float(h.mean()) for scaling, h in zip(SCALINGS, scores, strict=True)}


def score(dataset: Dataset, fold: Fold, scaling: Scaling) -> FoldScores:
    """Scores of a fold's held-out rows by class means and ridge regression, with an `lda` head."""
    _, first = np.unique(dataset.labels[fold.train], return_index=True)  # every class keeps a row, however rare
    train = fold.train[np.union1d(evenly(len(fold.train), MOST_ROWS), first)]
    held = fold.held[evenly(len(fold.held), MOST_ROWS)]
    scaler = Scaler.fit(dataset.features[train], scaling)
    rows, labels = scaler.apply(dataset.features[train]), np.searchsorted(fold.classes, dataset.labels[train])
    seen = ~np.isin(fold.classes, fold.pseudo_unseen)
    means = np.zeros((len(seen), rows.shape[1]))
    found, _ = class_means(rows.astype(np.float64), labels)
    means[: len(found)] = found
    centre = means[seen].mean(axis=0)
    means -= centre
    means[~seen] = ridge(dataset.attributes[fold.classes].astype(np.float64), seen) @ means[seen]
    covariance = within_class_covariance(rows - centre.astype(np.float32), (np.cumsum(seen) - 1)[labels])
    weight, bias = LdaHead(shrunk_cholesky(covariance, SHRINKAGE)).rows(means)
    z = scaler.apply(dataset.features[held]) - centre.astype(np.float32)
    return FoldScores(
        logits=logits(z, weight, bias), labels=np.searchsorted(fold.classes, dataset.labels[held]), seen=seen
    )


def ridge(attributes_CA: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much of each seen class's centred mean ridge regression gives a class without rows, [C - S, S]."""
    centred = attributes_CA - attributes_CA[seen].mean(axis=0)
    gram = centred[seen] @ centred[seen].T
    gram[np.diag_indices(len(gram))] += RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    weights: NDArray[np.float64] = np.linalg.solve(gram, centred[seen] @ centred[~seen].T).T
    return weights

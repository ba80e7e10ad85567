"""A quick measure of how well a trunk's features carry to classes that it never saw, without training a generator.

N: rows; D: features; C: classes; A: attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.lda import LdaHead, class_means
from model.networks.slim_resnet import SlimResNet, TwoHeadNet
from training.demo.dataset import Drawings, render_inputs
from training.demo.pretrain import SPEC, to_batch
from training.demo.world import EXTRA, SEEN, UNSEEN, VisualClass, attribute_matrix

Progress = Callable[[str, int, int], None]
Matrix = NDArray[np.float64]

_SHRINKAGES = (0.1, 0.5, 0.9)
_RIDGE = 1.0
_FOLDS = 4
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class TrunkCheck:
    """Accuracies on fresh drawings, all means over classes, in 0..1.

    Attributes:
        head_accuracy: the training head on the seen classes.
        seen: S, over seen and unseen classes.
        unseen: U, over seen and unseen classes.
        harmonic: H of the two.
        registered: the extra classes, with all others as competitors.
        shrinkage: of the covariance, chosen on seen classes that play unseen.
        seen_penalty: what is taken from seen scores, chosen likewise.
    """

    head_accuracy: float
    seen: float
    unseen: float
    harmonic: float
    registered: float
    shrinkage: float
    seen_penalty: float


def check_trunk(
    network: TwoHeadNet, *, per_class: int = 60, seed: int = 77, progress: Progress | None = None
) -> TrunkCheck:
    """Describe unseen classes by a ridge from attributes to class means, classify with a shared covariance.

    Args:
        network: a trained trunk with its heads.
        per_class: fresh drawings of each class, of seen classes twice as many: one half fits, the other tests.
        seed: of the drawings; use one that training did not.
        progress: called with a description, steps done and all steps.
    """
    report = None if progress is None else lambda done, total: progress("drawing fresh images", done, total)
    everything = (*SEEN, *UNSEEN, *EXTRA)
    fit = render_inputs(SEEN, SPEC, per_class=per_class, seed=seed)
    test = render_inputs(everything, SPEC, per_class=per_class, seed=seed + 1, progress=report)
    network = network.eval()
    fit_ND, test_ND = (trunk_features(network.trunk, drawings) for drawings in (fit, test))
    with torch.no_grad():
        logits = network.class_head(torch.from_numpy(test_ND[test.labels < len(SEEN)]).float()).numpy()
    shrinkage, penalty = _select(fit_ND, fit.labels)
    head, means = LdaHead.fit(fit_ND, fit.labels, shrinkage=shrinkage), class_means(fit_ND, fit.labels)[0]
    known = len(SEEN) + len(UNSEEN)
    scores = _scores(test_ND, head, np.concatenate([means, _describe(means, SEEN, everything[len(SEEN) :])]))
    scores[:, : len(SEEN)] -= penalty
    hit_C = _hits(scores[:, :known], test.labels)
    all_C = _hits(scores, test.labels)
    seen, unseen = float(hit_C[: len(SEEN)].mean()), float(hit_C[len(SEEN) : known].mean())
    return TrunkCheck(
        head_accuracy=float(_hits(logits, test.labels[test.labels < len(SEEN)]).mean()),
        seen=seen,
        unseen=unseen,
        harmonic=2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0,
        registered=float(all_C[known:].mean()),
        shrinkage=shrinkage,
        seen_penalty=penalty,
    )


@torch.no_grad()
def trunk_features(trunk: SlimResNet, drawings: Drawings) -> Matrix:
    """Features of drawings, float64 [N, D]."""
    batches = [
        trunk(to_batch(drawings.pixels[start : start + _BATCH])).numpy()
        for start in range(0, len(drawings.labels), _BATCH)
    ]
    return np.concatenate(batches).astype(np.float64)


def _describe(means_CD: Matrix, known: tuple[VisualClass, ...], new: tuple[VisualClass, ...]) -> Matrix:
    """Means of classes predicted from their attributes by ridge regression over known classes."""
    a_CA, new_CA = attribute_matrix(known), attribute_matrix(new)
    centre_A, centre_D = a_CA.mean(axis=0), means_CD.mean(axis=0)
    a_CA = a_CA - centre_A
    weights_AD = np.linalg.solve(a_CA.T @ a_CA + _RIDGE * np.eye(a_CA.shape[1]), a_CA.T @ (means_CD - centre_D))
    described: Matrix = centre_D + (new_CA - centre_A) @ weights_AD
    return described


def _scores(rows_ND: Matrix, head: LdaHead, means_CD: Matrix) -> Matrix:
    weights, biases = head.rows(means_CD)
    return rows_ND @ weights.T.astype(np.float64) + biases


def _hits(scores_NC: Matrix, labels_N: NDArray[np.int64]) -> Matrix:
    """Accuracy within each class, [classes that occur]."""
    right = scores_NC.argmax(axis=1) == labels_N
    return np.array([right[labels_N == label].mean() for label in np.unique(labels_N)])


def _select(rows_ND: Matrix, labels_N: NDArray[np.int64]) -> tuple[float, float]:
    """The shrinkage and the penalty with the best H where every fourth seen class in turn is described, not seen."""
    grid = np.concatenate([-np.geomspace(1e4, 1, 60), np.geomspace(1, 1e4, 60)])
    best = (-1.0, 0.0, 0.0)
    for shrinkage in _SHRINKAGES:
        harmonic = np.zeros(len(grid))
        for fold in range(_FOLDS):
            hidden = np.arange(len(SEEN)) % _FOLDS == fold
            harmonic += _fold(rows_ND, labels_N, hidden, shrinkage, grid) / _FOLDS
        if harmonic.max() > best[0]:
            best = (float(harmonic.max()), shrinkage, float(grid[harmonic.argmax()]))
    return best[1:]


def _fold(
    rows_ND: Matrix, labels_N: NDArray[np.int64], hidden_C: NDArray[np.bool_], shrinkage: float, grid: Matrix
) -> Matrix:
    """H at each penalty of the grid, with some seen classes hidden."""
    odd = np.arange(len(rows_ND)) % 2 == 1  # one half of the rows fits, the other is scored
    order = np.concatenate([np.flatnonzero(~hidden_C), np.flatnonzero(hidden_C)])
    labels = np.argsort(order)[labels_N]
    kinds = tuple(SEEN[i] for i in order)
    known = int((~hidden_C).sum())
    fit = (labels < known) & ~odd
    head, means = LdaHead.fit(rows_ND[fit], labels[fit], shrinkage=shrinkage), class_means(rows_ND[fit], labels[fit])[0]
    all_means = np.concatenate([means, _describe(means, kinds[:known], kinds[known:])])
    scores = _scores(rows_ND[odd], head, all_means)
    harmonic = []
    for penalty in grid:
        hit = _hits(scores - penalty * (np.arange(len(SEEN)) < known), labels[odd])
        s, u = hit[:known].mean(), hit[known:].mean()
        harmonic.append(2 * s * u / max(s + u, 1e-9))
    return np.array(harmonic)

"""Seen classes played unseen, with nothing to train: how well class means that attributes predict tell classes apart.

All is computed from products of rows and means, which are taken once: a predicted mean is a combination of known means,
and so are its scores.

N: rows, D: features, S: seen classes, K: the known ones among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.metrics import seen_unseen_curve
from training.task import Task

GROUPS = 4
DEALS = 6
"""How often the classes are dealt into groups: with one deal, chance decides between stretches as often as they do."""
MIN_CLASSES = 3  # one hidden, two to predict it from
ROWS = 60  # of each class; more take time and change little
LEAST_RIDGE = 1e-12


@dataclass(frozen=True, kw_only=True)
class HiddenClasses:
    """Rows held out of every seen class, and the other rows' means, in the metric of a covariance C.

    Attributes:
        scores: (x - m)' C^-1 (m_s - m) of held-out rows, float64 [N, S], m the mean of the means.
        gram: (m_s - m)' C^-1 (m_t - m), float64 [S, S].
        labels: class of each row, 0..S-1, int64 [N].
    """

    scores: Tensor
    gram: Tensor
    labels: Tensor

    @classmethod
    def of(cls, task: Task, factor_DD: Tensor) -> HiddenClasses:
        """Every fourth row of each class is held out, up to `ROWS` of them.

        Args:
            task: real rows.
            factor_DD: lower Cholesky factor of C.
        """
        labels, count = task.teacher_labels, len(task.seen_index)
        order = torch.argsort(labels, stable=True)
        sizes = torch.bincount(labels, minlength=count)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[labels[order]]
        fourth = (place % 4 == 0) & (sizes[labels] > 1)
        features = task.features.double()
        means = torch.zeros(count, features.shape[1], dtype=torch.float64, device=features.device)
        means.index_add_(0, labels[~fourth], features[~fourth])
        means /= (sizes - torch.bincount(labels[fourth], minlength=count))[:, None]
        held = fourth & (place < 4 * ROWS)
        middle = means.mean(dim=0)
        white = torch.linalg.solve_triangular(factor_DD, (means - middle).T, upper=False)
        across = torch.linalg.solve_triangular(factor_DD.T, white, upper=True)
        return cls(scores=(features[held] - middle) @ across, gram=white.T @ white, labels=labels[held])

    def areas(self, kernel_SS: Tensor, strength: float, stretches: Sequence[float]) -> NDArray[np.float64]:
        """AUSUC of hidden classes predicted by kernel ridge: for every group that is hidden, a row over the stretches.

        Args:
            kernel_SS: likeness of the seen classes' attributes to each other.
            strength: see :func:`dual_weights`.
            stretches: see :class:`model.networks.attribute_path.AttributePath`.
        """
        rows = [
            [self._area(shares, hidden) for shares in self._shares(kernel_SS, hidden, strength, stretches)]
            for hidden in self._groups()
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, len(stretches))

    def _groups(self) -> Iterator[Tensor]:
        """Which classes are hidden in turn, bool [S]; turns without rows of both kinds are left out."""
        count = len(self.gram)
        if count < MIN_CLASSES:
            return
        random = np.random.default_rng(0)
        for _ in range(DEALS):
            turn = torch.from_numpy(random.permutation(count) % GROUPS).to(self.labels.device)
            for group in range(GROUPS):
                hidden = turn == group
                kinds = hidden[self.labels]
                if (~hidden).sum() > 1 and kinds.any() and not kinds.all():
                    yield hidden

    def _shares(
        self, kernel_SS: Tensor, hidden: Tensor, strength: float, stretches: Sequence[float]
    ) -> Iterator[Tensor]:
        """Every class's mean less m as a combination of the known means, [S, S], for each stretch."""
        known = ~hidden
        count = int(known.sum())
        among = kernel_SS[known][:, known]
        away = (kernel_SS[hidden][:, known] - among.mean(dim=0)) @ dual_weights(among, strength)
        predicted = torch.zeros(int(hidden.sum()), len(hidden), dtype=away.dtype, device=away.device)
        predicted[:, known] = away - away.mean(dim=1, keepdim=True)
        middle = known.to(away.dtype) / count
        identity = torch.eye(len(hidden), dtype=away.dtype, device=away.device)
        typical = self._distances(identity[known] - middle).median()
        distance = self._distances(predicted).clamp(min=1e-12)
        for stretch in stretches:
            shares = identity.clone()
            shares[hidden] = middle + predicted * ((typical / distance) ** stretch)[:, None]
            yield shares

    def _distances(self, shares: Tensor) -> Tensor:
        return ((shares @ self.gram) * shares).sum(dim=1).clamp(min=0).sqrt()

    def _area(self, shares_SS: Tensor, hidden: Tensor) -> float:
        logits = self.scores @ shares_SS.T - 0.5 * self._distances(shares_SS).square()
        return seen_unseen_curve(logits.cpu().numpy(), self.labels.cpu().numpy(), (~hidden).cpu().numpy()).area


def dual_weights(kernel_KK: Tensor, strength: float) -> Tensor:
    """The dual map of kernel ridge regression, (G + r tr(G)/K I)^-1 with G = :func:`centred` kernel matrix.

    Where all points are the same, G = 0, it is finite, so that what it is applied to predicts the mean.
    """
    gram, count = centred(kernel_KK), len(kernel_KK)
    identity = torch.eye(count, dtype=gram.dtype, device=gram.device)
    dual: Tensor = torch.linalg.inv(gram + (strength * gram.trace() / count).clamp(min=LEAST_RIDGE) * identity)
    return dual


def centred(kernel_KK: Tensor) -> Tensor:
    """A kernel matrix between points less their mean."""
    rows = kernel_KK - kernel_KK.mean(dim=0)
    return rows - rows.mean(dim=1, keepdim=True)

"""Which ridge map from attributes to class means predicts classes best that it does not know.

Kernel width, ridge strength and norm correction are chosen by how well seen classes are predicted that are left out,
with nothing to train: all is computed from products of rows and means, which are taken once, since a predicted mean is
a combination of known means, and so are its scores.

N: rows, D: features, A: attributes, S: seen classes, K: the known ones among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.datasets.dataset import Task
from training.metrics import largest_significant_gain, seen_unseen_curve

GROUPS = 4
REPEATS = 6
"""How often the classes are split into groups anew.

After one split alone, chance decides between norm corrections as often as they do.
"""
MIN_CLASSES = 3  # one hidden, two to predict it from
ROWS = 60  # of each class; more take time and change little
LEAST_RIDGE = 1e-12


@dataclass(frozen=True, kw_only=True)
class PseudoUnseenClasses:
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
    def of(cls, task: Task, factor_DD: Tensor) -> PseudoUnseenClasses:
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

    def areas(self, kernel_SS: Tensor, strength: float, norm_corrections: Sequence[float]) -> NDArray[np.float64]:
        """AUSUC of pseudo-unseen classes predicted by kernel ridge: a row over the corrections for every group.

        Args:
            kernel_SS: likeness of the seen classes' attributes to each other.
            strength: see :func:`dual_weights`.
            norm_corrections: see :class:`training.networks.generator.AttributePath`.
        """
        rows = [
            [self._area(shares, hidden) for shares in self._shares(kernel_SS, hidden, strength, norm_corrections)]
            for hidden in self._groups()
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, len(norm_corrections))

    def _groups(self) -> Iterator[Tensor]:
        """Which classes are hidden in turn, bool [S]; turns without rows of both kinds are left out."""
        count = len(self.gram)
        if count < MIN_CLASSES:
            return
        random = np.random.default_rng(0)
        for _ in range(REPEATS):
            turn = torch.from_numpy(random.permutation(count) % GROUPS).to(self.labels.device)
            for group in range(GROUPS):
                hidden = turn == group
                kinds = hidden[self.labels]
                if (~hidden).sum() > 1 and kinds.any() and not kinds.all():
                    yield hidden

    def _shares(
        self, kernel_SS: Tensor, hidden: Tensor, strength: float, norm_corrections: Sequence[float]
    ) -> Iterator[Tensor]:
        """Every class's mean less m as a combination of the known means, [S, S], for each norm correction."""
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
        for norm_correction in norm_corrections:
            shares = identity.clone()
            shares[hidden] = middle + predicted * ((typical / distance) ** norm_correction)[:, None]
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


LINEAR = 0.0
WIDTHS = (0.01, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Candidates for g, times the mean squared distance between seen classes' attributes, from all but linear to curved."""
DEFAULT_STRENGTH = 0.3
"""The ridge's strength without evidence for another: with 13 to 120 classes it was hardly worse than the best."""
STANDARD_ERRORS = 2.0
"""Standard errors by which others than the simplest must be better."""
MANY_STANDARD_ERRORS = 3.0
"""The same where some thirty candidates are tried: by chance one of them is often better by two."""
NORM_CORRECTIONS = (0.0, 0.5, 1.0)
"""Candidates for e, none first."""


@dataclass(frozen=True)
class Shape:
    """What was chosen for a path.

    Attributes:
        width: of the kernel; `LINEAR` for none.
        strength: of the ridge, relative.
        norm_correction: how far predictions are moved to the distance of real classes, 0..1.
    """

    width: float
    strength: float
    norm_correction: float


def choose_ridge(
    attributes_SA: Tensor, targets_SD: Tensor, widths: Sequence[float], strengths: Sequence[float]
) -> tuple[float, float]:
    """The first width, with its strength nearest to `DEFAULT_STRENGTH`, that no other beats by `STANDARD_ERRORS`.

    What is compared is the squared error of classes left out; its standard error, paired over the classes, is large
    where they are few, and choosing the smallest error then loses more than it finds (compare the one-standard-error
    rule of Breiman et al., Classification and Regression Trees, 1984). First the strength is chosen for every width,
    then the width; each candidate is compared with the one whose mean error is smallest.

    Args:
        attributes_SA: of the classes.
        targets_SD: what is predicted of them, mean 0.
        widths: candidates, simplest first, see :func:`kernel`.
        strengths: candidates.
    """
    nearest_first = sorted(strengths, key=lambda strength: abs(math.log(strength / DEFAULT_STRENGTH)))
    chosen, error_WS = [], []
    for width in widths:
        error_RS = left_out_errors(kernel(attributes_SA, width), targets_SD, nearest_first)
        place = _first_not_worse(error_RS)
        chosen.append((width, nearest_first[place]))
        error_WS.append(error_RS[place])
    return chosen[_first_not_worse(torch.stack(error_WS))]


def left_out_errors(kernel_SS: Tensor, targets_SD: Tensor, strengths: Sequence[float]) -> Tensor:
    """Mean squared error of every class's targets predicted from the other classes, a row for each strength."""
    gram, rows = centred(kernel_SS), []
    for strength in strengths:
        hat = gram @ dual_weights(kernel_SS, strength)
        alone = 1 - hat.diagonal() - 1 / len(hat)  # the mean is fitted, too
        rows.append(((targets_SD - hat @ targets_SD) / alone.clamp(min=1e-9)[:, None]).square().mean(dim=1))
    return torch.stack(rows)


def _first_not_worse(error_KS: Tensor) -> int:
    """The first of K candidates that the best one does not beat by `STANDARD_ERRORS` over the classes."""
    worse_KS = error_KS - error_KS[error_KS.mean(dim=1).argmin()]
    standard_error_K = worse_KS.std(dim=1, correction=0) / max(error_KS.shape[1] - 1, 1) ** 0.5
    return int((worse_KS.mean(dim=1) <= STANDARD_ERRORS * standard_error_K).int().argmax())


def choose_by_area(
    classes: PseudoUnseenClasses,
    attributes_SA: Tensor,
    first: Shape,
    widths: Sequence[float],
    strengths: Sequence[float],
) -> Shape:
    """What gains most AUSUC over the first shape: norm correction and width, then norm correction and strength.

    Another width or strength has to gain more than `MANY_STANDARD_ERRORS` over the groups; where none does, a norm
    correction alone more than `STANDARD_ERRORS`. A training and its folds then seldom choose differently, which
    matters: what is corrected needs another penalty.

    Args:
        classes: that are hidden in turn.
        attributes_SA: of the seen classes.
        first: to keep without evidence, without a norm correction.
        widths: other candidates.
        strengths: other candidates.
    """
    areas: dict[Shape, NDArray[np.float64]] = {}

    def best(pairs: list[tuple[float, float]], errors: float) -> Shape:
        for width, strength in pairs:
            if Shape(width, strength, NORM_CORRECTIONS[0]) in areas:
                continue
            found = classes.areas(kernel(attributes_SA, width), strength, NORM_CORRECTIONS)
            shapes = (Shape(width, strength, e) for e in NORM_CORRECTIONS)
            areas.update(zip(shapes, found.T, strict=True))
        return list(areas)[largest_significant_gain(np.stack(list(areas.values()), axis=1), errors)]

    corrected = best([(first.width, first.strength)], STANDARD_ERRORS)
    width = best([(width, first.strength) for width in widths], MANY_STANDARD_ERRORS).width
    other = best([(width, strength) for strength in strengths], MANY_STANDARD_ERRORS)
    return corrected if (other.width, other.strength) == (first.width, first.strength) else other


def kernel(attributes_SA: Tensor, width: float) -> Tensor:
    """exp(-g ||a_s - a_t||^2) of every two classes, [S, S]; with width `LINEAR` the product of their attributes."""
    if width == LINEAR:
        return attributes_SA @ attributes_SA.T
    return torch.exp(-width / mean_distance(attributes_SA) * torch.cdist(attributes_SA, attributes_SA).square())


def mean_distance(attributes_SA: Tensor) -> float:
    """Mean squared distance of two classes' attributes, above 0."""
    return max(float(torch.cdist(attributes_SA, attributes_SA).square().mean()), 1e-12)

"""The prior of a generator: a Gaussian for every class, its mean by ridge regression from attributes.

The covariance around the mean is that of seen classes. Ridge strength, kernel width and norm correction are chosen by
how well seen classes are predicted that are left out, with nothing to train: all is computed from products of rows and
means, which are taken once, since a predicted mean is a combination of known means, and so are its scores.

N: rows, D: features, A: attributes, C: classes, S: seen classes, K: the known ones among them, J: likenesses, S or A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import GeneratorConfig, PathChoice
from training.datasets.dataset import Task
from training.metrics import largest_significant_gain, seen_unseen_curve
from training.networks.generator import AttributePath, Generator

FLOOR = 1e-2  # of the scaled features' range 0..1: a dimension that hardly varies must not rule the loss


def within_class_std(task: Task) -> Tensor:
    """Standard deviation of each feature around its class's mean, float32 [D], at least `FLOOR`."""
    variance = residuals(task).square().mean(dim=0)
    return variance.sqrt().clamp(min=FLOOR).float()


def within_class_directions(task: Task, count: int) -> Tensor:
    """The largest principal directions of rows around their class's mean, float32 [D, count].

    Each is scaled by its standard deviation, so that multiplying standard normal noise gives rows that spread as the
    classes do; columns beyond D are zero.
    """
    variances, directions = _components(within_class_covariance(task), count)
    scaled = directions * variances.sqrt()
    return torch.nn.functional.pad(scaled, (0, count - scaled.shape[1])).float()


def within_class_components(task: Task, unit_D: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Largest variances [count] of rows around their class's mean, in some units, and orthonormal directions.

    Args:
        task: real rows.
        unit_D: of each feature, above 0.
        count: at most D.

    Returns:
        float32 [count] and [D, count].
    """
    unit = unit_D.double()
    variances, directions = _components(within_class_covariance(task) / (unit[:, None] * unit), count)
    return variances.float(), directions.float()


def _components(covariance_DD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest variances, or all, and their directions, the largest first."""
    variances, directions = torch.linalg.eigh(covariance_DD)
    return variances.clamp(min=0)[-count:].flip(0), directions[:, -count:].flip(1)


def within_class_factor(task: Task, shrinkage: float) -> Tensor:
    """Lower Cholesky factor of (1 - a) C + a tr(C)/D I with C the covariance around class means, float64 [D, D].

    At least `FLOOR`^2 is on its diagonal.
    """
    covariance = within_class_covariance(task)
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * covariance.diagonal().mean().clamp(min=FLOOR**2 / shrinkage))
    factor: Tensor = torch.linalg.cholesky(shrunk)
    return factor


def within_class_covariance(task: Task) -> Tensor:
    """Covariance of rows around their class's mean, every row counting the same, float64 [D, D]."""
    rows = residuals(task)
    return rows.T @ rows / len(rows)


def residuals(task: Task) -> Tensor:
    """Rows less their class's mean, float64 [N, D]."""
    return task.features.double() - class_means(task)[task.labels]


def class_means(task: Task) -> Tensor:
    """Mean features of each class, float64 [C, D]; zeros where a class has no rows."""
    counts = torch.bincount(task.labels, minlength=len(task.seen)).clamp(min=1)
    features = task.features.double()
    sums = torch.zeros(len(task.seen), features.shape[1], dtype=torch.float64, device=features.device)
    return sums.index_add_(0, task.labels, features) / counts[:, None]


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
NORM_CORRECTIONS = (0.0, 0.5, 1.0)
"""Candidates for e, none first."""
SHRINKAGE = 0.5
"""Of the within-class covariance in whose metric distances are measured."""


@dataclass(frozen=True, kw_only=True)
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


@torch.no_grad()
def fit_path(path: AttributePath, task: Task, strengths: Sequence[float], choice: PathChoice = "error") -> Shape:
    """Set a path to the (kernel) ridge map from attributes to the seen classes' mean features.

    min_W sum_s ||m_s - W k(a_s) - b||^2 + r tr(G)/S ||W||^2 with G the centred Gram matrix of the seen classes.
    Width and strength r are decided by the error of each class's mean predicted from the others, in units of the
    within-class spread: residual_s / (1 - h_ss) with h the hat matrix (Allen's PRESS; Hastie et al., The Elements of
    Statistical Learning, 7.10), see :func:`choose_ridge`. Stretch is decided by AUSUC where some seen classes are
    hidden and only described, see :func:`choose_by_area`. The distance l is the median one of the seen classes' means.

    The squared error of a mean falls with a strength that draws it towards the mean of all, which the norm correction
    undoes; what is left then is the direction, which a weaker ridge predicts better. So with `ausuc` the strength, too,
    is decided by AUSUC, together with the norm correction.

    Args:
        path: zero so far.
        task: real rows and attributes.
        strengths: candidates for r, each above 0.
        choice: what decides on the strength.

    Returns:
        What was chosen.
    """
    index = task.seen_index
    attributes, means = task.attributes[index].double(), class_means(task)[index]
    middle = means.mean(dim=0)
    factor = within_class_factor(task, SHRINKAGE)
    width, strength = choose_ridge(
        attributes,
        (means - middle) / within_class_std(task).double(),
        (LINEAR,) if path.anchors is None else WIDTHS,
        strengths,
    )
    considered = [strength, *(s for s in strengths if choice == "ausuc" and s != strength)]
    strength, correction = choose_by_area(PseudoUnseenClasses.of(task, factor), kernel(attributes, width), considered)
    shape = Shape(width=width, strength=strength, norm_correction=correction)
    dual = dual_weights(kernel(attributes, shape.width), shape.strength) @ (means - middle)
    if path.anchors is None:
        centre = attributes.mean(dim=0)
        weight = (attributes - centre).T @ dual
    else:
        path.anchors.copy_(attributes)
        path.sharpness.fill_(shape.width / mean_distance(attributes))
        centre, weight = kernel(attributes, shape.width).mean(dim=0), dual - dual.mean(dim=0)
    metric = torch.linalg.qr(torch.linalg.solve_triangular(factor, weight.T, upper=False), mode="r").R
    path.weight.copy_(weight.T)
    path.centre.copy_(centre)
    path.bias.copy_(middle)
    path.metric[: len(metric)].copy_(metric)
    away = torch.linalg.solve_triangular(factor, (means - middle).T, upper=False)
    path.length.fill_(float(away.norm(dim=0).median()))
    path.norm_correction.fill_(shape.norm_correction)
    return shape


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


def choose_by_area(classes: PseudoUnseenClasses, kernel_SS: Tensor, strengths: Sequence[float]) -> tuple[float, float]:
    """The strength and norm correction that gain most AUSUC over the first strength without a correction.

    What does not gain more than `STANDARD_ERRORS` over the groups counts as no gain. A training and its folds then
    seldom choose differently, which matters: what is corrected needs another penalty.

    Args:
        classes: that are hidden in turn.
        kernel_SS: likeness of the seen classes' attributes to each other.
        strengths: candidates, the one to keep without evidence first.
    """
    areas = [classes.areas(kernel_SS, strength, NORM_CORRECTIONS) for strength in strengths]
    place = largest_significant_gain(np.concatenate(areas, axis=1), STANDARD_ERRORS)
    return strengths[place // len(NORM_CORRECTIONS)], NORM_CORRECTIONS[place % len(NORM_CORRECTIONS)]


def kernel(attributes_SA: Tensor, width: float) -> Tensor:
    """exp(-g ||a_s - a_t||^2) of every two classes, [S, S]; with width `LINEAR` the product of their attributes."""
    if width == LINEAR:
        return attributes_SA @ attributes_SA.T
    return torch.exp(-width / mean_distance(attributes_SA) * torch.cdist(attributes_SA, attributes_SA).square())


def mean_distance(attributes_SA: Tensor) -> float:
    """Mean squared distance of two classes' attributes, above 0."""
    return max(float(torch.cdist(attributes_SA, attributes_SA).square().mean()), 1e-12)


HIDDEN_SHARE = 0.01
"""Scale of the hidden layer's initial output: random weights at a tenth of their size still move every class's mean."""


@torch.no_grad()
def initialise_from_prior(generator: Generator, task: Task, config: GeneratorConfig) -> None:
    """Fit a generator's paths to a task, where it has them, and let the rest of it start small.

    Args:
        generator: freshly initialised.
        task: real rows and attributes.
        config: how the attribute path is chosen.
    """
    if generator.attribute_path is None or generator.noise_path is None:
        return
    fit_path(generator.attribute_path, task, config.path_ridge, config.path_choice)
    generator.noise_path.weight.copy_(within_class_directions(task, generator.noise_dim))
    generator.spread.copy_(generator.noise_path.weight.square().sum(dim=1).sqrt())
    generator.shrink(HIDDEN_SHARE)

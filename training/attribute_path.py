"""Ridge regression from attributes to class means: what generators start from.

A: attributes, D: features, S: seen classes, J: likenesses, S of them or A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.networks.attribute_path import AttributePath
from training.evidence import most_gain
from training.hidden_classes import HiddenClasses, centred, dual_weights
from training.spread import class_means, within_class_factor, within_class_spread
from training.task import Task

LINEAR = 0.0
WIDTHS = (0.01, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Candidates for g, times the mean squared distance between seen classes' attributes, from all but linear to curved."""
USUAL = 0.3
"""The ridge's strength without evidence for another: with 13 to 120 classes it was hardly worse than the best."""
EVIDENCE = 2.0
"""Standard errors by which others than the simplest must be better."""
STRETCHES = (0.0, 0.5, 1.0)
"""Candidates for e, none first."""
SHRINKAGE = 0.5
"""Of the within-class covariance in whose metric distances are measured."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What was chosen for a path.

    Attributes:
        width: of the kernel; `LINEAR` for none.
        strength: of the ridge, relative.
        stretch: how far predictions are moved to the distance of real classes, 0..1.
    """

    width: float
    strength: float
    stretch: float


@torch.no_grad()
def fit_path(path: AttributePath, task: Task, strengths: Sequence[float]) -> Shape:
    """Set a path to the (kernel) ridge map from attributes to the seen classes' mean features.

    min_W sum_s ||m_s - W k(a_s) - b||^2 + r tr(G)/S ||W||^2 with G the centred Gram matrix of the seen classes.
    Width and strength r are decided by the error of each class's mean predicted from the others, in units of the
    within-class spread: residual_s / (1 - h_ss) with h the hat matrix (Allen's PRESS; Hastie et al., The Elements of
    Statistical Learning, 7.10), see :func:`choose_ridge`. Stretch is decided by AUSUC where some seen classes are
    hidden and only described, see :func:`choose_stretch`. The distance l is the median one of the seen classes'
    means.

    Args:
        path: zero so far.
        task: real rows and attributes.
        strengths: candidates for r, each above 0.

    Returns:
        What was chosen.
    """
    index = task.seen_index
    attributes, means = task.attributes[index].double(), class_means(task)[index]
    middle = means.mean(dim=0)
    factor = within_class_factor(task, SHRINKAGE)
    width, strength = choose_ridge(
        attributes,
        (means - middle) / within_class_spread(task).double(),
        (LINEAR,) if path.anchors is None else WIDTHS,
        strengths,
    )
    areas = HiddenClasses.of(task, factor).areas(kernel(attributes, width), strength, STRETCHES)
    shape = Shape(width=width, strength=strength, stretch=choose_stretch(areas))
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
    path.stretch.fill_(shape.stretch)
    return shape


def choose_ridge(
    attributes_SA: Tensor, targets_SD: Tensor, widths: Sequence[float], strengths: Sequence[float]
) -> tuple[float, float]:
    """The first width, with its strength nearest to the `USUAL`, that no other beats by `EVIDENCE` standard errors.

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
    nearest_first = sorted(strengths, key=lambda strength: abs(math.log(strength / USUAL)))
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
    """The first of K candidates that the best one does not beat by `EVIDENCE` standard errors over the classes."""
    worse_KS = error_KS - error_KS[error_KS.mean(dim=1).argmin()]
    standard_error_K = worse_KS.std(dim=1, correction=0) / max(error_KS.shape[1] - 1, 1) ** 0.5
    return int((worse_KS.mean(dim=1) <= EVIDENCE * standard_error_K).int().argmax())


def choose_stretch(areas_GE: NDArray[np.float64]) -> float:
    """The stretch that gains most over none, by more than `EVIDENCE` standard errors over the groups; else none.

    A training and its folds then seldom choose differently, which matters: what is stretched needs another penalty.

    Args:
        areas_GE: of :meth:`HiddenClasses.areas`, for the `STRETCHES`.
    """
    return STRETCHES[most_gain(areas_GE, EVIDENCE)]


def kernel(attributes_SA: Tensor, width: float) -> Tensor:
    """exp(-g ||a_s - a_t||^2) of every two classes, [S, S]; with width `LINEAR` the product of their attributes."""
    if width == LINEAR:
        return attributes_SA @ attributes_SA.T
    return torch.exp(-width / mean_distance(attributes_SA) * torch.cdist(attributes_SA, attributes_SA).square())


def mean_distance(attributes_SA: Tensor) -> float:
    """Mean squared distance of two classes' attributes, above 0."""
    return max(float(torch.cdist(attributes_SA, attributes_SA).square().mean()), 1e-12)

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
from training.hidden_classes import HiddenClasses, centred, dual_weights
from training.spread import class_means, within_class_factor, within_class_spread
from training.task import Task

LINEAR = 0.0
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Candidates for g, times the mean squared distance between seen classes' attributes."""
USUAL = (0.5, 0.3)
"""Width and strength without evidence for others: with 13 to 120 classes they were hardly worse than the best."""
EVIDENCE = 2.0
"""Standard errors by which others than the usual must be better."""
STRETCHES = (0.0, 0.5, 1.0)
"""Candidates for e, none first."""
MIN_GROUPS = 2
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
    """Width and strength nearest to the `USUAL` that no others beat by `EVIDENCE` standard errors.

    What is compared is the mean squared error of classes left out; its standard error, paired over the classes, is
    large where they are few, and choosing the smallest one then loses more than it finds. The other candidates are
    compared with the one that has it. Near is a small sum of |ln(g / g0)| and |ln(r / r0)|.

    Args:
        attributes_SA: of the classes.
        targets_SD: what is predicted of them, mean 0.
        widths: candidates, see :func:`kernel`.
        strengths: candidates.
    """
    candidates, errors = [], []
    for width in widths:
        likeness = kernel(attributes_SA, width)
        gram = centred(likeness)
        for strength in strengths:
            hat = gram @ dual_weights(likeness, strength)
            alone = 1 - hat.diagonal() - 1 / len(hat)  # the mean is fitted, too
            left_out = (targets_SD - hat @ targets_SD) / alone.clamp(min=1e-9)[:, None]
            candidates.append((width, strength))
            errors.append(left_out.square().mean(dim=1))
    error_KS = torch.stack(errors)
    worse_KS = error_KS - error_KS[error_KS.mean(dim=1).argmin()]
    standard_error_K = worse_KS.std(dim=1, correction=0) / max(len(attributes_SA) - 1, 1) ** 0.5
    as_good = (worse_KS.mean(dim=1) <= EVIDENCE * standard_error_K).tolist()
    return min((c for c, good in zip(candidates, as_good, strict=True) if good), key=_distance_to_usual)


def _distance_to_usual(candidate: tuple[float, float]) -> float:
    """Of width and strength; a linear path has no width to compare."""
    width, strength = candidate
    return abs(math.log((width or USUAL[0]) / USUAL[0])) + abs(math.log(strength / USUAL[1]))


def choose_stretch(areas_GE: NDArray[np.float64]) -> float:
    """The stretch that gains most over none, by more than `EVIDENCE` standard errors over the groups; else none.

    A training and its folds then seldom choose differently, which matters: what is stretched needs another penalty.

    Args:
        areas_GE: of :meth:`HiddenClasses.areas`, for the `STRETCHES`.
    """
    groups = len(areas_GE)
    if groups < MIN_GROUPS:
        return STRETCHES[0]
    gains_GE = areas_GE - areas_GE[:, :1]
    gain_E = gains_GE.mean(axis=0)
    shown_E = gain_E > EVIDENCE * gains_GE.std(axis=0, ddof=1) / math.sqrt(groups)
    return STRETCHES[int(np.where(shown_E, gain_E, 0).argmax())]


def kernel(attributes_SA: Tensor, width: float) -> Tensor:
    """exp(-g ||a_s - a_t||^2) of every two classes, [S, S]; with width `LINEAR` the product of their attributes."""
    if width == LINEAR:
        return attributes_SA @ attributes_SA.T
    return torch.exp(-width / mean_distance(attributes_SA) * torch.cdist(attributes_SA, attributes_SA).square())


def mean_distance(attributes_SA: Tensor) -> float:
    """Mean squared distance of two classes' attributes, above 0."""
    return max(float(torch.cdist(attributes_SA, attributes_SA).square().mean()), 1e-12)

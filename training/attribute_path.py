"""Ridge regression from attributes to class means: what generators start from.

A: attributes, D: features, S: seen classes, J: likenesses, S of them or A.
"""

from __future__ import annotations

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
    Width and strength r are those with the smallest error of each class's mean predicted from the others, in units of
    the within-class spread: residual_s / (1 - h_ss) with h the hat matrix (Allen's PRESS; Hastie et al., The Elements
    of Statistical Learning, 7.10). Stretch is the one with the largest mean AUSUC where some seen classes are hidden
    and only described, see :class:`HiddenClasses`. The distance l is the median one of the seen classes' means.

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
    width, strength = best_ridge(
        attributes,
        (means - middle) / within_class_spread(task).double(),
        (LINEAR,) if path.anchors is None else WIDTHS,
        strengths,
    )
    areas = HiddenClasses.of(task, factor).areas(kernel(attributes, width), strength, STRETCHES)
    shape = Shape(width=width, strength=strength, stretch=best_stretch(areas))
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


def best_ridge(
    attributes_SA: Tensor, targets_SD: Tensor, widths: Sequence[float], strengths: Sequence[float]
) -> tuple[float, float]:
    """Width and strength with the smallest mean squared error of classes left out.

    Args:
        attributes_SA: of the classes.
        targets_SD: what is predicted of them, mean 0.
        widths: candidates, see :func:`kernel`.
        strengths: candidates.
    """
    errors: dict[tuple[float, float], float] = {}
    for width in widths:
        likeness = kernel(attributes_SA, width)
        gram = centred(likeness)
        for strength in strengths:
            hat = gram @ dual_weights(likeness, strength)
            alone = 1 - hat.diagonal() - 1 / len(hat)  # the mean is fitted, too
            left_out = (targets_SD - hat @ targets_SD) / alone.clamp(min=1e-9)[:, None]
            errors[width, strength] = float(left_out.square().mean())
    return min(errors, key=lambda candidate: errors[candidate])


def best_stretch(areas_GE: NDArray[np.float64]) -> float:
    """The stretch with the largest mean area over the groups, the least of equal ones; none without groups."""
    return STRETCHES[int(areas_GE.mean(axis=0).argmax())] if len(areas_GE) else STRETCHES[0]


def kernel(attributes_SA: Tensor, width: float) -> Tensor:
    """exp(-g ||a_s - a_t||^2) of every two classes, [S, S]; with width `LINEAR` the product of their attributes."""
    if width == LINEAR:
        return attributes_SA @ attributes_SA.T
    return torch.exp(-width / mean_distance(attributes_SA) * torch.cdist(attributes_SA, attributes_SA).square())


def mean_distance(attributes_SA: Tensor) -> float:
    """Mean squared distance of two classes' attributes, above 0."""
    return max(float(torch.cdist(attributes_SA, attributes_SA).square().mean()), 1e-12)

"""Ridge regression from attributes to class means: what generators start from.

N: rows, A: attributes, D: features, S: seen classes, J: likenesses, S of them or A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.networks.attribute_path import AttributePath
from training.hidden_classes import HiddenClasses, dual_weights
from training.spread import class_means, within_class_factor
from training.task import Task

LINEAR = 0.0
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Candidates for g, times the mean squared distance between seen classes' attributes."""
STRETCHES = (0.0, 0.5, 1.0)
"""Candidates for e."""
SHRINKAGE = 0.5
"""Of the within-class covariance in whose metric distances are measured."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A candidate for a path.

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

    min_W sum_s ||m_s - W k(a_s) - b||^2 + r tr(G)/S ||W||^2 with G the centred Gram matrix of the seen classes. Width,
    strength r and stretch are those with the best AUSUC where some seen classes are hidden and only described, see
    :class:`HiddenClasses`. The distance l is the median one of the seen classes' means from their mean.

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
    shape = best_shape(
        HiddenClasses.of(task, factor), attributes, (LINEAR,) if path.anchors is None else WIDTHS, strengths
    )
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


def best_shape(
    hidden: HiddenClasses, attributes_SA: Tensor, widths: Sequence[float], strengths: Sequence[float]
) -> Shape:
    """The candidate with the largest AUSUC, the first of equal ones; the first of all for too few classes."""
    areas = {
        Shape(width=width, strength=strength, stretch=stretch): area
        for width in widths
        for strength, row in zip(
            strengths, hidden.areas(kernel(attributes_SA, width), strengths, STRETCHES), strict=True
        )
        for stretch, area in zip(STRETCHES, row, strict=True)
    }
    return max(areas, key=lambda shape: areas[shape])


def kernel(attributes_SA: Tensor, width: float) -> Tensor:
    """exp(-g ||a_s - a_t||^2) of every two classes, [S, S]; with width `LINEAR` the product of their attributes."""
    if width == LINEAR:
        return attributes_SA @ attributes_SA.T
    return torch.exp(-width / mean_distance(attributes_SA) * torch.cdist(attributes_SA, attributes_SA).square())


def mean_distance(attributes_SA: Tensor) -> float:
    """Mean squared distance of two classes' attributes, above 0."""
    return max(float(torch.cdist(attributes_SA, attributes_SA).square().mean()), 1e-12)

"""Ridge regression from attributes to class means: what generators start from.

A: attributes, D: features, S: seen classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.networks.attribute_path import AttributePath
from training.spread import class_means, within_class_spread
from training.task import Task

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Candidates for g, times the mean squared distance between seen classes' attributes."""


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """One candidate: sharpness g, dual weights [S, D] of centred likeness, and the error of classes left out."""

    sharpness: float
    dual: Tensor
    error: float


@torch.no_grad()
def fit_path(path: AttributePath, task: Task, strengths: Sequence[float]) -> None:
    """Set a path to the (kernel) ridge map from attributes to the seen classes' mean features.

    For every candidate, min_W sum_s ||m_s - W k(a_s) - b||^2 + r tr(K)/S ||W||_K^2 with K the centred Gram matrix of
    the seen classes. Strength r, and g of a kernel, are those with the smallest error of each class's mean predicted
    from the other classes, in units of the within-class spread. That error has a closed form: residual_s / (1 - h_ss),
    with h the hat matrix (Allen's PRESS; Hastie et al., The Elements of Statistical Learning, 7.10).

    Args:
        path: zero so far.
        task: real rows and attributes.
        strengths: candidates for r, each above 0.
    """
    index = task.seen_index
    means = class_means(task)[index]
    attributes = task.attributes[index].double()
    spread = within_class_spread(task).double()
    centred = means - means.mean(dim=0)
    if path.anchors is None:
        candidates = [(1.0, attributes)]
    else:
        distance = torch.cdist(attributes, attributes).square()
        scale = 1 / max(float(distance.mean()), 1e-12)
        candidates = [(width * scale, torch.exp(-width * scale * distance)) for width in WIDTHS]
    fits = [
        _fit(sharpness, likeness, centred, spread, strength, linear=path.anchors is None)
        for sharpness, likeness in candidates
        for strength in strengths
    ]
    best = min(fits, key=lambda fit: fit.error)
    likeness = dict(candidates)[best.sharpness]
    if path.anchors is not None:
        path.anchors.copy_(attributes)
        weight = best.dual - best.dual.mean(dim=0)
    else:
        weight = (likeness - likeness.mean(dim=0)).T @ best.dual
    path.sharpness.fill_(best.sharpness)
    path.weight.copy_(weight.T)
    path.bias.copy_(means.mean(dim=0) - likeness.mean(dim=0) @ weight)


def _fit(
    sharpness: float, likeness: Tensor, centred_SD: Tensor, spread_D: Tensor, strength: float, *, linear: bool
) -> _Fit:
    classes = len(likeness)
    identity = torch.eye(classes, dtype=likeness.dtype, device=likeness.device)
    centring = identity - 1 / classes
    gram = centring @ (likeness @ likeness.T if linear else likeness) @ centring
    inverse = torch.linalg.inv(gram + strength * gram.trace() / classes * identity)
    hat = gram @ inverse + 1 / classes
    dual = inverse @ centred_SD
    left_out = (centred_SD - gram @ dual) / (1 - hat.diagonal()).clamp(min=1e-9)[:, None]
    return _Fit(sharpness=sharpness, dual=dual, error=float((left_out / spread_D).square().mean()))

"""The prior of a generator: a Gaussian for every class, its mean by ridge regression from attributes.

The covariance around the mean is that of seen classes.

N: rows, D: features, A: attributes, C: classes, S: seen classes, J: likenesses, S or A.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.config import GeneratorConfig, PathChoice
from training.datasets.dataset import Task
from training.generators.ridge_choice import (
    LINEAR,
    WIDTHS,
    PseudoUnseenClasses,
    Shape,
    choose_by_area,
    choose_ridge,
    dual_weights,
    kernel,
    mean_distance,
)
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


SHRINKAGE = 0.5
"""Of the within-class covariance in whose metric distances are measured."""


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
    widths = (LINEAR,) if path.anchors is None else WIDTHS
    targets = (means - middle) / within_class_std(task).double()
    width, strength = choose_ridge(attributes, targets, widths, strengths)
    shape = choose_by_area(
        PseudoUnseenClasses.of(task, factor),
        attributes,
        Shape(width, strength, 0.0),
        widths if choice == "ausuc" else (),
        strengths if choice == "ausuc" else (),
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
    path.norm_correction.fill_(shape.norm_correction)
    return shape


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

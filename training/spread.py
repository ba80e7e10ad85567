"""Classes as Gaussians: their means, and how rows of one class spread around them.

N: rows, D: features, C: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.task import Task

FLOOR = 1e-2  # of the scaled features' range 0..1: a dimension that hardly varies must not rule the loss


def within_class_spread(task: Task) -> Tensor:
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

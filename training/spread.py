"""How much rows of one class differ: the unit in which generators measure errors."""

from __future__ import annotations

import torch
from torch import Tensor

from training.task import Task

FLOOR = 1e-2  # of the scaled features' range 0..1: a dimension that hardly varies must not rule the loss


def within_class_spread(task: Task) -> Tensor:
    """Standard deviation of each feature around its class's mean, float32 [D], at least `FLOOR`."""
    counts = torch.bincount(task.labels, minlength=len(task.seen)).clamp(min=1)
    features = task.features.double()
    sums = torch.zeros(len(task.seen), features.shape[1], dtype=torch.float64, device=features.device)
    means = sums.index_add_(0, task.labels, features) / counts[:, None]
    variance = (features - means[task.labels]).square().mean(dim=0)
    return variance.sqrt().clamp(min=FLOOR).float()

"""Ridge regression from attributes to class means: the generator's linear path starts from it, baselines use it.

A: attributes, D: features, C: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.generator import Generator
from training.config import TrainConfig
from training.task import Task


def class_mean_ridge(task: Task, strength: float) -> tuple[Tensor, Tensor]:
    """Linear map from attributes to class means of the seen classes.

    Minimises sum_c ||mean_c - W a_c - b||^2 + s tr(K)/S ||W||^2 with K the Gram matrix of centred attributes.

    Args:
        task: real rows and attributes.
        strength: s, above 0.

    Returns:
        W [D, A] and b [D], float32.
    """
    index = task.seen_index
    counts = torch.bincount(task.labels, minlength=len(task.seen))[index]
    sums = torch.zeros(len(task.seen), task.features.shape[1], dtype=torch.float64, device=task.features.device)
    sums.index_add_(0, task.labels, task.features.double())
    means = sums[index] / counts[:, None]
    attributes = task.attributes[index].double()
    centre, mean = attributes.mean(0), means.mean(0)
    centred = attributes - centre
    gram = centred @ centred.T
    gram += strength * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, means - mean).T @ centred
    return weight.float(), (mean - weight @ centre).float()


@torch.no_grad()
def start_from_ridge(generator: Generator, task: Task, config: TrainConfig) -> None:
    """Set a generator's linear path to the ridge map and its output bias to the intercept, where it has the path."""
    if generator.linear_path is not None and config.generator.linear_path_ridge:
        slope, intercept = class_mean_ridge(task, config.generator.linear_path_ridge)
        generator.linear_path.weight.copy_(slope)
        generator.output.bias.copy_(intercept)

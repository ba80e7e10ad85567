"""Where a generator starts: a Gaussian for every class, mean from its attributes, spread that of seen classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.networks.generator import Generator
from training.attribute_path import fit_path
from training.spread import within_class_directions
from training.task import Task

HIDDEN_SHARE = 0.01
"""Scale of the hidden layer's initial output: random weights at a tenth of their size still move every class's mean."""


@torch.no_grad()
def start_from_gaussians(generator: Generator, task: Task, strengths: Sequence[float]) -> None:
    """Fit a generator's paths to a task, where it has them, and let the rest of it start small.

    Args:
        generator: freshly initialised.
        task: real rows and attributes.
        strengths: candidates for the ridge of the attribute path.
    """
    if generator.attribute_path is None or generator.noise_path is None:
        return
    fit_path(generator.attribute_path, task, strengths)
    generator.noise_path.weight.copy_(within_class_directions(task, generator.noise_dim))
    generator.spread.copy_(generator.noise_path.weight.square().sum(dim=1).sqrt())
    generator.shrink(HIDDEN_SHARE)

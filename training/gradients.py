"""How much each student loss pulls: its gradient's norm on the student, relative to that of L_cls."""

from __future__ import annotations

import torch

from training.config import TrainConfig
from training.student import StudentBatch, student_terms
from training.task import Task
from training.teacher import TeacherOutputs
from training.trainer import Networks

INERT = 0.01  # a term whose gradient is below this share of L_cls's does nothing


def gradient_shares(networks: Networks, task: Task, config: TrainConfig) -> dict[str, float]:
    """Norm of each weighted term's gradient on the student's parameters, over that of L_cls, on one batch.

    The batch is the first `batch_size` rows of a fixed permutation, so that the training's random numbers stay as
    they are. Empty where L_cls is off.
    """
    device = task.features.device
    random = torch.Generator(device=device).manual_seed(config.seed)
    rows = torch.randperm(len(task.features), generator=random, device=device)[: config.batch_size]
    labels = task.unseen_index.repeat_interleave(config.d3.synthetic_per_class)
    noise = torch.randn(len(labels), networks.generator.noise_dim, generator=random, device=device)
    with torch.no_grad():
        synthetic = networks.generator(noise, task.attributes[labels])
    batch = StudentBatch(
        synthetic=synthetic,
        synthetic_labels=labels,
        real=task.features[rows],
        real_labels=task.labels[rows],
        teacher=TeacherOutputs.of(networks.teacher, task.features[rows]),
    )
    parameters = list(networks.student.parameters())
    weights, norms = config.d3.weights(), {}
    for name, value in student_terms(networks.student, networks.teacher, batch, task.seen_index, config.d3).items():
        gradients = torch.autograd.grad(weights[name] * value, parameters, retain_graph=True, allow_unused=True)
        norms[name] = float(torch.stack([g.norm() for g in gradients if g is not None]).norm())
    reference = norms.get("cls", 0.0)
    return {name: norm / reference for name, norm in norms.items()} if reference > 0 else {}

"""Stage 0 of D3GZSL: the teacher learns the seen classes, then stays frozen.

N: rows, D: scaled features, Z: embedding, S: seen classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.config import TrainConfig
from training.datasets.dataset import Task
from training.networks.d3gzsl import Teacher


def fit_teacher(features_ND: Tensor, labels_N: Tensor, seen_classes: int, config: TrainConfig) -> Teacher:
    """Train E_o and C_o by cross-entropy on real seen rows.

    Args:
        features_ND: scaled features.
        labels_N: class of each row, 0..S-1.
        seen_classes: S.
        config: `teacher` and the embedding's shape are read.

    Returns:
        The frozen teacher.
    """
    rows, dimension = features_ND.shape
    settings = config.teacher
    teacher = Teacher(
        feature_dim=dimension,
        dim=config.d3.embedding_size(dimension),
        seen_classes=seen_classes,
        init=config.d3.embedding_init,
    ).to(features_ND.device)
    rate = settings.learning_rate
    groups = [
        {"params": teacher.classifier.parameters(), "lr": rate},
        {"params": teacher.embedding.parameters(), "lr": rate * settings.embedding_lr_factor},
    ]
    optimiser = torch.optim.Adam(groups, betas=(config.adam_beta1, 0.999), fused=True)
    size = min(settings.batch_size, rows)
    for _ in range(settings.epochs):
        order = torch.randperm(rows, device=features_ND.device)
        for batch in order[: rows - rows % size].view(-1, size):  # the last, smaller batch is dropped, as published
            _, log_probs = teacher(features_ND[batch])
            loss = F.nll_loss(log_probs, labels_N[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    optimiser.zero_grad()
    return teacher.requires_grad_(False).eval()


@dataclass(frozen=True, kw_only=True)
class TeacherOutputs:
    """What the frozen teacher says of every real row, computed once.

    Attributes:
        embeddings: [N, Z].
        log_probs: [N, S].
        scores: largest log-probability, [N].
    """

    embeddings: Tensor
    log_probs: Tensor
    scores: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, teacher: Teacher, features_ND: Tensor) -> TeacherOutputs:
        """Run the teacher over all rows."""
        embeddings, log_probs = teacher(features_ND)
        return cls(embeddings=embeddings, log_probs=log_probs, scores=log_probs.amax(dim=1))

    def take(self, rows_B: Tensor) -> TeacherOutputs:
        """The outputs of some rows."""
        return TeacherOutputs(
            embeddings=self.embeddings[rows_B], log_probs=self.log_probs[rows_B], scores=self.scores[rows_B]
        )


def new_teacher(task: Task, config: TrainConfig, state: dict[str, Any] | None) -> Teacher:
    """The teacher of a task, pre-trained; with the state of a training, that training's teacher."""
    if state is None:
        return fit_teacher(task.features, task.teacher_labels, len(task.seen_index), config)
    dimension = task.features.shape[1]
    teacher = Teacher(
        feature_dim=dimension,
        dim=config.d3.embedding_size(dimension),
        seen_classes=len(task.seen_index),
        init=config.d3.embedding_init,
    ).to(task.features.device)
    teacher.load_state_dict(state["modules"]["teacher"])
    return teacher.requires_grad_(False).eval()

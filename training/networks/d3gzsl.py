"""Teacher and student of D3GZSL (Wang et al., AAAI 2024).

B: rows, D: scaled features, Z: embedding, S: seen classes, C: all classes of training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config import EmbeddingInit
from training.networks.generator import init_normal


class Embedding(nn.Module):
    """ReLU(W x + b).

    Args:
        feature_dim: D.
        dim: Z.
        init: `normal` as published (N(0, 0.02^2)), or `identity` (needs Z = D): scaled features are at least 0, so the
            embedding starts as the features themselves and training only has to improve on them.
    """

    def __init__(self, *, feature_dim: int, dim: int, init: EmbeddingInit) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, dim)
        init_normal(self.linear)
        if init == "identity":
            nn.init.eye_(self.linear.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Scaled features [B, D] to embeddings [B, Z], at least 0."""
        return torch.relu(self.linear(features))


class Teacher(nn.Module):
    """Out-of-distribution teacher: embedding E_o and classifier C_o over the seen classes."""

    def __init__(self, *, feature_dim: int, dim: int, seen_classes: int, init: EmbeddingInit) -> None:
        super().__init__()
        self.embedding = Embedding(feature_dim=feature_dim, dim=dim, init=init)
        self.classifier = nn.Linear(dim, seen_classes)
        init_normal(self.classifier)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled features [B, D] to embeddings [B, Z] and log-probabilities [B, S]."""
        embeddings = self.embedding(features)
        return embeddings, torch.log_softmax(self.classifier(embeddings), dim=1)

    def score(self, features: Tensor) -> Tensor:
        """In-distribution score e: the largest log-probability, [B], in -ln S..0."""
        score: Tensor = self(features)[1].amax(dim=1)
        return score


class Student(nn.Module):
    """Student: embedding E_s, classifier C_s over all classes, two-way head H and the confidence's two scalars.

    The confidence of a row is c = sigmoid(w (e + b)) with e the teacher's score; w is kept positive as exp(log_w), or,
    with `free_w`, is a number of any sign, as published.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        dim: int,
        classes: int,
        init: EmbeddingInit,
        confidence_w: float,
        confidence_b: float,
        free_w: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(feature_dim=feature_dim, dim=dim, init=init)
        self.classifier = nn.Linear(dim, classes)
        self.ood_head = nn.Linear(classes, 2)
        self._free_w = free_w
        if free_w:
            self.w = nn.Parameter(torch.tensor(confidence_w))
        else:
            self.log_w = nn.Parameter(torch.tensor(confidence_w).log())
        self.b = nn.Parameter(torch.tensor(confidence_b))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled features [B, D] to embeddings [B, Z] and logits [B, C]."""
        embeddings = self.embedding(features)
        return embeddings, self.classifier(embeddings)

    def confidence(self, scores: Tensor) -> Tensor:
        """Teacher scores [B] to the probability of being in distribution, [B], in 0..1."""
        w = self.w if self._free_w else self.log_w.exp()
        return torch.sigmoid(w * (scores + self.b))

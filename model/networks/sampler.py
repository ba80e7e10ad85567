"""What every generator is once it is trained: a function from noise and attributes to scaled features.

B: rows, K: noise, A: attributes, D: features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Sampler(nn.Module, ABC):
    """Deterministic given its noise; differentiable with respect to attributes and weights.

    Attributes:
        noise_dim: K; noise is standard normal.
    """

    noise_dim: int

    @abstractmethod
    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [B, K] and attributes [B, A] to features [B, D], at least 0."""

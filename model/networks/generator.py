"""Generator and critic of the conditional WGAN-GP that synthesises features from attributes.

B: rows, K: noise, A: attributes, D: features, H: hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.networks.sampler import Sampler

SLOPE = 0.2


class Generator(Sampler):
    """Noise and attributes to scaled features: ReLU(W2 LeakyReLU(W1 [noise, a] + b1) + b2 + L a).

    The published generator (Xian et al., CVPR 2018, arXiv 1712.00981) has no L; the linear path is ours, since with few
    seen classes the linear map from attributes to class means is hard to beat. It starts at zero.
    """

    def __init__(self, *, noise_dim: int, attribute_dim: int, feature_dim: int, hidden: int, linear_path: bool) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.hidden_noise = nn.Linear(noise_dim, hidden)
        self.hidden_attributes = nn.Linear(attribute_dim, hidden, bias=False)
        self.output = nn.Linear(hidden, feature_dim)
        self.linear_path = nn.Linear(attribute_dim, feature_dim, bias=False) if linear_path else None
        for module in (self.hidden_noise, self.hidden_attributes, self.output):
            init_normal(module)
        if self.linear_path is not None:
            nn.init.zeros_(self.linear_path.weight)

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [B, K] and attributes [B, A] to features [B, D], at least 0."""
        return self.decode(self.hidden_noise(noise) + self.hidden_attributes(attributes), attributes)

    def decode(self, hidden: Tensor, attributes: Tensor) -> Tensor:
        """Pre-activations of the hidden layer [B, H] and attributes [B, A] to features [B, D]."""
        features = self.output(nn.functional.leaky_relu(hidden, SLOPE))
        if self.linear_path is not None:
            features = features + self.linear_path(attributes)
        return torch.relu(features)


class Critic(nn.Module):
    """Conditional critic: w2 . LeakyReLU(W1 [x, a] + b1) + b2, one number per row."""

    def __init__(self, *, attribute_dim: int, feature_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_features = nn.Linear(feature_dim, hidden)
        self.hidden_attributes = nn.Linear(attribute_dim, hidden, bias=False)
        self.output = nn.Linear(hidden, 1)
        for module in (self.hidden_features, self.hidden_attributes, self.output):
            init_normal(module)

    def forward(self, features: Tensor, attributes: Tensor) -> Tensor:
        """Features [B, D] and attributes [B, A] to scores [B]."""
        return self.scores(self.hidden_features(features) + self.hidden_attributes(attributes))

    def scores(self, hidden: Tensor) -> Tensor:
        """Pre-activations of the hidden layer [B, H] to scores [B]."""
        scores: Tensor = self.output(nn.functional.leaky_relu(hidden, SLOPE)).squeeze(1)
        return scores

    def input_gradient(self, hidden: Tensor) -> Tensor:
        """Gradient of the score with respect to the features, [B, D], written out.

        With h the pre-activations, [B, H]: W1x^T (LeakyReLU'(h) * w2). LeakyReLU' is piecewise constant, so
        differentiating this expression once gives what autograd's double backward gives.
        """
        slope = torch.where(hidden.detach() > 0, hidden.new_ones(()), SLOPE)
        return (slope * self.output.weight) @ self.hidden_features.weight


def init_normal(module: nn.Linear, std: float = 0.02) -> None:
    """Weights from N(0, std^2), biases 0: the initialisation of the f-CLSWGAN family."""
    nn.init.normal_(module.weight, 0.0, std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)

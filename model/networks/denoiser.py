"""Diffusion over features: a conditional denoiser and its deterministic few-step sampler.

B: rows, A: attributes, D: features, H: hidden units, T: sampling steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.networks.attribute_path import AttributePath
from model.networks.generator import SLOPE, init_normal
from model.networks.sampler import Sampler

FREQUENCIES = 8


class Denoiser(nn.Module):
    """Noisy residual, attributes and noise level to the clean residual, all [B, D] but attributes and level."""

    def __init__(self, *, feature_dim: int, attribute_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_features = nn.Linear(feature_dim, hidden)
        self.hidden_attributes = nn.Linear(attribute_dim, hidden, bias=False)
        self.hidden_level = nn.Linear(2 * FREQUENCIES, hidden, bias=False)
        self.middle = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, feature_dim)
        for module in (self.hidden_features, self.hidden_attributes, self.hidden_level, self.middle, self.output):
            init_normal(module)

    def forward(self, noisy: Tensor, attributes: Tensor, level: Tensor) -> Tensor:
        """Noisy residual [B, D], attributes [B, A] and level [B, 1] or [1, 1] in 0..1 to the clean residual [B, D]."""
        waves = (math.pi * level) * 2.0 ** torch.arange(FREQUENCIES, device=level.device)
        time = torch.cat([waves.sin(), waves.cos()], dim=1)
        hidden = self.hidden_features(noisy) + self.hidden_attributes(attributes) + self.hidden_level(time)
        hidden = nn.functional.leaky_relu(hidden, SLOPE)
        hidden = hidden + nn.functional.leaky_relu(self.middle(hidden), SLOPE)
        clean: Tensor = self.output(hidden)
        return clean


class DiffusionSampler(Sampler):
    """Noise to features in T deterministic steps (DDIM; Song et al., ICLR 2021, arXiv 2010.02502).

    What is diffused is the residual r of features around a fixed path from attributes, in units of their within-class
    spread: x = ReLU(P(a) + s * r). At level t in 0..1, r_t = cos(pi t/2) r + sin(pi t/2) e.
    """

    def __init__(self, *, attribute_dim: int, feature_dim: int, hidden: int, anchors: int, steps: int) -> None:
        super().__init__()
        self.noise_dim = feature_dim
        self.steps = steps
        self.attribute_path = AttributePath(attribute_dim=attribute_dim, feature_dim=feature_dim, anchors=anchors)
        self.denoiser = Denoiser(feature_dim=feature_dim, attribute_dim=attribute_dim, hidden=hidden)
        self.spread = nn.Buffer(torch.ones(feature_dim))

    def residual(self, features: Tensor, attributes: Tensor) -> Tensor:
        """Features [B, D] of classes with attributes [B, A] as what is diffused, [B, D]."""
        residual: Tensor = (features - self.attribute_path(attributes)) / self.spread
        return residual

    def noisy(self, residual: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """r_t for residual and noise [B, D] and level [B, 1]."""
        angle = level * (math.pi / 2)
        return angle.cos() * residual + angle.sin() * noise

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [B, D] and attributes [B, A] to features [B, D], at least 0."""
        state = clean = noise
        for step in range(self.steps, 0, -1):
            level, after = (math.pi / 2) * step / self.steps, (math.pi / 2) * (step - 1) / self.steps
            clean = self.denoiser(state, attributes, state.new_full((1, 1), step / self.steps))
            rest = (state - math.cos(level) * clean) / math.sin(level)
            state = math.cos(after) * clean + math.sin(after) * rest
        return torch.relu(self.attribute_path(attributes) + self.spread * clean)

"""Diffusion over features: a conditional denoiser and its deterministic few-step sampler.

B: rows, A: attributes, D: features, H: hidden units, K: principal directions, T: sampling steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.networks.generator import SLOPE, AttributePath, Sampler, init_normal, location

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
    spread: x = ReLU(L(P(a)) + s * r). At level t in 0..1, r_t = cos(pi t/2) r + sin(pi t/2) e. The clean residual is a
    fixed linear estimate, :meth:`expected`, plus what the denoiser adds. Without a denoiser the samples of a class are
    a Gaussian; L, see :func:`training.networks.generator.location`, moves it so that P(a) is its mean behind the ReLU.
    """

    def __init__(
        self, *, attribute_dim: int, feature_dim: int, hidden: int, anchors: int, directions: int, steps: int
    ) -> None:
        """Make a sampler whose linear estimate is zero so far; `directions` is K, how many it knows."""
        super().__init__()
        self.noise_dim = feature_dim
        self.steps = steps
        self.attribute_path = AttributePath(attribute_dim=attribute_dim, feature_dim=feature_dim, anchors=anchors)
        self.denoiser = Denoiser(feature_dim=feature_dim, attribute_dim=attribute_dim, hidden=hidden)
        self.spread = nn.Buffer(torch.ones(feature_dim))
        self.directions = nn.Buffer(torch.zeros(feature_dim, directions))
        self.variances = nn.Buffer(torch.zeros(directions))
        self.sampled_spread = nn.Buffer(torch.zeros(feature_dim))

    def start_from_gaussian(self, spread_D: Tensor, directions_DK: Tensor, variances_K: Tensor) -> None:
        """Set the linear estimate.

        Args:
            spread_D: s, standard deviation within classes, above 0.
            directions_DK: orthonormal principal directions of the residual.
            variances_K: its variance along each.
        """
        self.spread.copy_(spread_D)
        self.directions.copy_(directions_DK)
        self.variances.copy_(variances_K)
        state, clean = torch.ones_like(variances_K), torch.zeros_like(variances_K)
        for level, after in self._levels():
            clean = _gain(variances_K, variances_K.new_tensor(level)) * state
            state = _next(state, clean, level, after)
        self.sampled_spread.copy_(spread_D * (directions_DK * clean).square().sum(dim=1).sqrt())

    def residual(self, features: Tensor, attributes: Tensor) -> Tensor:
        """Features [B, D] of classes with attributes [B, A] as what is diffused, [B, D]."""
        residual: Tensor = (features - self._location(attributes)) / self.spread
        return residual

    def noisy(self, residual: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """r_t for residual and noise [B, D] and level [B, 1]."""
        angle = level * (math.pi / 2)
        return angle.cos() * residual + angle.sin() * noise

    def expected(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Mean of the clean residual given a noisy one, were it Gaussian with the variances v along U, [B, D].

        U diag(cos v / (cos^2 v + sin^2)) U^T r_t at the angle pi t/2 (Wiener's filter). Under autocast as exact as
        without.
        """
        with torch.autocast(device_type=noisy.device.type, enabled=False):
            along = noisy.to(self.directions.dtype) @ self.directions
            return (along * _gain(self.variances, level)) @ self.directions.T

    def clean(self, noisy: Tensor, attributes: Tensor, level: Tensor) -> Tensor:
        """Noisy residual [B, D], attributes [B, A] and level [B, 1] or [1, 1] to the clean residual [B, D]."""
        added: Tensor = self.denoiser(noisy, attributes, level)
        return self.expected(noisy, level) + added

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [B, D] and attributes [B, A] to features [B, D], at least 0."""
        state = clean = noise
        for level, after in self._levels():
            clean = self.clean(state, attributes, state.new_full((1, 1), level))
            state = _next(state, clean, level, after)
        return torch.relu(self._location(attributes) + self.spread * clean)

    def _levels(self) -> list[tuple[float, float]]:
        """Level of each step and of the one after it, from 1 to 0."""
        return [(step / self.steps, (step - 1) / self.steps) for step in range(self.steps, 0, -1)]

    def _location(self, attributes: Tensor) -> Tensor:
        return location(self.attribute_path(attributes), self.sampled_spread)


def _gain(variances: Tensor, level: Tensor) -> Tensor:
    angle = level * (math.pi / 2)
    total = angle.cos().square() * variances + angle.sin().square()
    return angle.cos() * variances / total.clamp(min=1e-12)  # neither variance nor noise: 0


def _next(state: Tensor, clean: Tensor, level: float, after: float) -> Tensor:
    """One step of DDIM from a level to the next."""
    angle, lower = level * math.pi / 2, after * math.pi / 2
    rest = (state - math.cos(angle) * clean) / math.sin(angle)
    return math.cos(lower) * clean + math.sin(lower) * rest

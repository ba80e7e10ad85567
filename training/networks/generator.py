"""Generators of features from noise and attributes: the path from attributes, the hidden layer, and feedback.

B: rows, D: features, A: attributes, K: noise, H: hidden units, J: likenesses (A of them, or one per seen class).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
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

    def conditions(self, attributes: Tensor) -> tuple[Tensor, ...]:
        """What is computed from attributes [B, A] alone, each [B, ...]: rows of one class can share it."""
        return (attributes,)

    def conditioned(self, noise: Tensor, *conditions: Tensor) -> Tensor:
        """Noise [B, K] and :meth:`conditions` of the rows' attributes to features [B, D], as :meth:`forward`."""
        features: Tensor = self(noise, *conditions)
        return features


class AttributePath(nn.Module):
    """m + d(a) (l / |R d(a)|)^e with d(a) = W (k(a) - k0), k(a) the attributes or their likeness to the seen classes'.

    `kernel`: k_s(a) = exp(-g ||a - a_s||^2), so that an unseen class borrows most from the seen classes nearest to it.
    Without anchors, k(a) = a. What ridge regression predicts lies nearer to the mean m of all classes than real classes
    do; e says how much of that is undone: 0 leaves it, 1 moves every class to the distance l, measured in a metric R.
    It starts at zero; training/attribute_path.py fits it.
    """

    def __init__(self, *, attribute_dim: int, feature_dim: int, anchors: int) -> None:
        """Make a path with `anchors` seen classes to compare with; 0 for a linear one."""
        super().__init__()
        size = anchors or attribute_dim
        self.anchors = nn.Buffer(torch.zeros(anchors, attribute_dim)) if anchors else None
        self.sharpness = nn.Buffer(torch.ones(()))
        self.weight = nn.Buffer(torch.zeros(feature_dim, size))
        self.centre = nn.Buffer(torch.zeros(size))
        self.bias = nn.Buffer(torch.zeros(feature_dim))
        self.metric = nn.Buffer(torch.zeros(size, size))
        self.length = nn.Buffer(torch.ones(()))
        self.norm_correction = nn.Buffer(torch.zeros(()))

    def forward(self, attributes: Tensor) -> Tensor:
        """Attributes [B, A] to features [B, D], of either sign; under autocast as exact as without."""
        with torch.autocast(device_type=attributes.device.type, enabled=False):
            likeness = self.likeness_less_centre(attributes)
            distance = (likeness @ self.metric.T).square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
            return (likeness @ self.weight.T) * (self.length / distance) ** self.norm_correction + self.bias

    def likeness_less_centre(self, attributes: Tensor) -> Tensor:
        """k(a) - k0, [B, J].

        With a flat kernel all likenesses are near 1, and the digits in which they differ are lost in them. So it is
        k - 1 that is computed, as exp(x) - 1 = 2 t / (1 - t), t = tanh(x / 2), which ONNX Runtime has, too.
        """
        if self.anchors is None:
            return attributes - self.centre
        squares = attributes.square().sum(1, keepdim=True) + self.anchors.square().sum(1)
        distance = (squares - 2 * attributes @ self.anchors.T).clamp(min=0)
        half = torch.tanh(-0.5 * self.sharpness * distance)
        return 2 * half / (1 - half) - (self.centre - 1)


SLOPE = 0.2
SOFTPLUS = math.log(2) * math.sqrt(2 * math.pi)
LEAST_MEAN = 0.02
LEAST_SPREAD = 1e-6


class Generator(Sampler):
    """Noise and attributes to scaled features: ReLU(W2 LeakyReLU(W1 [e, a] + b1) + b2 + L(P(a)) + V e).

    The published generator (Xian et al., CVPR 2018, arXiv 1712.00981) has neither P, a fixed path from attributes, nor
    V, a linear path from noise. Both are ours: with few seen classes a ridge map from attributes to class means is hard
    to beat, and together they are a Gaussian for every class, which training only has to improve on. L, see
    :func:`location`, moves it so that P(a) is its mean behind the ReLU.

    Args:
        noise_dim: K.
        attribute_dim: A.
        feature_dim: D.
        hidden: H.
        anchors: of the attribute path, see :class:`AttributePath`; None for no paths.
    """

    def __init__(
        self, *, noise_dim: int, attribute_dim: int, feature_dim: int, hidden: int, anchors: int | None
    ) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.hidden_noise = nn.Linear(noise_dim, hidden)
        self.hidden_attributes = nn.Linear(attribute_dim, hidden, bias=False)
        self.output = nn.Linear(hidden, feature_dim)
        for module in (self.hidden_noise, self.hidden_attributes, self.output):
            init_normal(module)
        self.attribute_path: AttributePath | None = None
        self.noise_path: nn.Linear | None = None
        if anchors is not None:
            self.attribute_path = AttributePath(attribute_dim=attribute_dim, feature_dim=feature_dim, anchors=anchors)
            self.noise_path = nn.Linear(noise_dim, feature_dim, bias=False)
            nn.init.zeros_(self.noise_path.weight)
            self.spread = nn.Buffer(torch.zeros(feature_dim))

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [B, K] and attributes [B, A] to features [B, D], at least 0."""
        return self.conditioned(noise, *self.conditions(attributes))

    def conditions(self, attributes: Tensor) -> tuple[Tensor, ...]:
        """The attributes' part of the hidden layer's pre-activations [B, H], and of what goes past it [B, D]."""
        hidden: Tensor = self.hidden_attributes(attributes)
        if self.attribute_path is None:
            return (hidden,)
        return hidden, location(self.attribute_path(attributes), self.spread)

    def conditioned(self, noise: Tensor, *conditions: Tensor) -> Tensor:
        """Noise [B, K] and the attributes' parts to features [B, D], at least 0."""
        return self.decode(*self.before_output(noise, *conditions))

    def before_output(self, noise: Tensor, of_attributes: Tensor, *location: Tensor) -> tuple[Tensor, Tensor | None]:
        """The hidden layer's pre-activations [B, H], and what goes past it [B, D]; None without paths."""
        hidden: Tensor = self.hidden_noise(noise) + of_attributes
        return hidden, None if self.noise_path is None else location[0] + self.noise_path(noise)

    def shrink(self, share: float) -> None:
        """Scale the weights behind the hidden layer, so that a fresh generator is little more than its paths."""
        self.output.weight.mul_(share)

    def decode(self, hidden: Tensor, paths: Tensor | None) -> Tensor:
        """Pre-activations [B, H], and what goes past them [B, D], to features [B, D]."""
        features = self.output(nn.functional.leaky_relu(hidden, SLOPE))
        return torch.relu(features if paths is None else features + paths)


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


def location(mean: Tensor, spread: Tensor) -> Tensor:
    """Where a Gaussian has to lie to have a mean behind a ReLU: u with E[ReLU(u + spread n)] = mean, n ~ N(0, 1).

    E[ReLU(u + s n)] = s h(u / s), h(v) = v Phi(v) + phi(v), which is close to softplus(b v) / b with the b that makes
    both equal at 0; u = s softplus^-1(b mean / s) / b is therefore off by at most 0.012 s. Means below 0.02 s count as
    0.02 s, as a ReLU's mean is above 0. Without spread it is the mean.

    Args:
        mean: any shape that broadcasts with `spread`.
        spread: standard deviation, at least 0.
    """
    ratio = (mean / spread.clamp(min=LEAST_SPREAD)).clamp(min=LEAST_MEAN)
    moved = spread * (ratio + torch.log1p(-torch.exp(-SOFTPLUS * ratio)) / SOFTPLUS)
    return torch.where(spread > LEAST_SPREAD, moved, mean)


def init_normal(module: nn.Linear, std: float = 0.02) -> None:
    """Weights from N(0, std^2), biases 0: the initialisation of the f-CLSWGAN family."""
    nn.init.normal_(module.weight, 0.0, std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class SemanticDecoder(nn.Module):
    """Features to attributes: W2 LeakyReLU(W1 x + b1) + b2, scaled to length 1."""

    def __init__(self, *, feature_dim: int, attribute_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(feature_dim, hidden)
        self.output = nn.Linear(hidden, attribute_dim)
        init_normal(self.hidden_layer)
        init_normal(self.output)

    def hidden(self, features: Tensor) -> Tensor:
        """Features [B, D] to the hidden layer [B, H]."""
        return nn.functional.leaky_relu(self.hidden_layer(features), SLOPE)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] to attributes [B, A] of length 1."""
        return nn.functional.normalize(self.output(self.hidden(features)), dim=1)


class FeedbackGenerator(Generator):
    """A generator that looks at its own first draft once (Narayan et al., ECCV 2020, arXiv 2003.07833).

    x0 = G(e, a); h' = h + strength * F(decoder hidden layer of x0); x = the rest of G on h', with h the pre-activations
    of G's hidden layer and F two linear layers. Without feedback (strength 0) it is f-VAEGAN-D2's generator.
    """

    def __init__(
        self,
        *,
        noise_dim: int,
        attribute_dim: int,
        feature_dim: int,
        hidden: int,
        anchors: int | None,
        strength: float,
    ) -> None:
        super().__init__(
            noise_dim=noise_dim,
            attribute_dim=attribute_dim,
            feature_dim=feature_dim,
            hidden=hidden,
            anchors=anchors,
        )
        self.strength = strength
        self.decoder = SemanticDecoder(feature_dim=feature_dim, attribute_dim=attribute_dim, hidden=hidden)
        self.feedback = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, hidden))
            if strength
            else None
        )
        for module in self.feedback or ():
            if isinstance(module, nn.Linear):
                init_normal(module)

    def shrink(self, share: float) -> None:
        """As of the base class, and the feedback's too: of random weights, it outweighs noise and attributes."""
        super().shrink(share)
        layers = [module for module in self.feedback or () if isinstance(module, nn.Linear)]
        for last in layers[-1:]:
            last.weight.mul_(share)

    def conditioned(self, noise: Tensor, *conditions: Tensor) -> Tensor:
        """Noise [B, K] and the attributes' parts to features [B, D], at least 0."""
        hidden, paths = self.before_output(noise, *conditions)
        features = self.decode(hidden, paths)
        if self.feedback is None:
            return features
        correction = self.strength * self.feedback(self.decoder.hidden(features))
        return self.decode(hidden + correction, paths)


class Encoder(nn.Module):
    """Features and attributes to mean and log-variance of the latent noise, each [B, K]."""

    def __init__(self, *, feature_dim: int, attribute_dim: int, noise_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_features = nn.Linear(feature_dim, hidden)
        self.hidden_attributes = nn.Linear(attribute_dim, hidden, bias=False)
        self.mean = nn.Linear(hidden, noise_dim)
        self.log_variance = nn.Linear(hidden, noise_dim)
        for module in (self.hidden_features, self.hidden_attributes, self.mean, self.log_variance):
            init_normal(module)

    def forward(self, features: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D] and attributes [B, A] to mean and log-variance."""
        hidden = nn.functional.leaky_relu(self.hidden_features(features) + self.hidden_attributes(attributes), SLOPE)
        return self.mean(hidden), self.log_variance(hidden)

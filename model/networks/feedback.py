"""Generator of TF-VAEGAN: a decoder reads attributes off a feature, and its hidden layer corrects the generator.

B: rows, K: noise, A: attributes, D: features, H: hidden units.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.networks.generator import SLOPE, Generator, init_normal


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

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [B, K] and attributes [B, A] to features [B, D], at least 0."""
        hidden, paths = self.hidden_units(noise, attributes), self.paths(noise, attributes)
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

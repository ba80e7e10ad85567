"""f-CLSWGAN: a conditional WGAN-GP over features with a seen-class loss (Xian et al., CVPR 2018, arXiv 1712.00981).

B: batch, D: scaled features, A: attributes, H: hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from training.config import TrainConfig
from training.datasets.dataset import Task
from training.device import at_least_float32, full_precision
from training.generators.base import CriticDraws, Method, RealBatch, Terms, frozen
from training.generators.ridge_prior import initialise_from_prior
from training.losses import generative
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import Critic, Generator


class Wgan(Method):
    """Generator against critic; the teacher plays the published pre-classifier of seen classes."""

    sampler: Generator

    def __init__(self, task: Task, teacher: Teacher, student: Student, config: TrainConfig) -> None:
        super().__init__(teacher, student, config)
        feature_dim, attribute_dim = task.features.shape[1], task.attributes.shape[1]
        self.sampler = self.new_sampler(
            feature_dim=feature_dim, attribute_dim=attribute_dim, seen_classes=len(task.seen_index)
        )
        self.critic = Critic(attribute_dim=attribute_dim, feature_dim=feature_dim, hidden=config.generator.hidden)
        initialise_from_prior(self.sampler, task, config.generator)

    def new_sampler(self, *, feature_dim: int, attribute_dim: int, seen_classes: int) -> Generator:
        """The generator that this method trains."""
        return sampler(self.config, feature_dim=feature_dim, attribute_dim=attribute_dim, seen_classes=seen_classes)

    def critic_side(self) -> Iterator[nn.Parameter]:
        """The critic."""
        return self.critic.parameters()

    def critic_draws(self, real: RealBatch, random: torch.Generator) -> CriticDraws:
        """Noise, and where between real and fake rows the penalty is taken."""
        noise = self.critic_noise(real, random)
        count = len(noise)
        penalised = self.config.generator.gp_weight > 0
        mix = torch.rand(count, 1, generator=random, device=noise.device) if penalised else None
        return CriticDraws(noise=noise, mix=mix)

    def critic_noise(self, real: RealBatch, random: torch.Generator) -> Tensor:
        """Noise of the fake rows of a critic step, [B, K]."""
        return self.noise(len(real.labels), random)

    def critic_terms(self, real: RealBatch, fake: Tensor, mix: Tensor | None) -> Terms:
        """E[D(fake)] - E[D(real)] + gp_weight * penalty."""
        return critic_terms(self.critic, real, fake, mix, gp_weight=self.config.generator.gp_weight)

    def generator_loss(self, real: RealBatch, random: torch.Generator) -> Terms:
        """-E[D(fake)] + seen_classification * cross-entropy of the teacher on the fake rows."""
        fake = self.sampler(self.noise(len(real.labels), random), real.attributes)
        return generator_terms(self, fake, real)


def sampler(config: TrainConfig, *, feature_dim: int, attribute_dim: int, seen_classes: int) -> Generator:
    """The untrained sampler of a configuration."""
    return Generator(
        noise_dim=config.generator.noise_dim or attribute_dim,
        attribute_dim=attribute_dim,
        feature_dim=feature_dim,
        hidden=config.generator.hidden,
        anchors=config.generator.anchors(seen_classes),
    )


def critic_terms(critic: Critic, real: RealBatch, fake: Tensor, mix: Tensor | None, *, gp_weight: float) -> Terms:
    """The critic's loss on real and fake rows of the same classes, `wasserstein` being E[D(fake)] - E[D(real)].

    The first layer is linear, so pre-activations between real and fake rows are those of the rows between them: the
    penalty needs no forward pass of its own. Real and fake rows pass together.

    Args:
        critic: of the rows.
        real: real rows.
        fake: of the same classes, [B, D].
        mix: share of the real row in each row between, [B, 1]; None without a penalty.
        gp_weight: of the penalty.
    """
    conditioned = critic.hidden_attributes(real.attributes)
    hidden = critic.hidden_features(torch.cat([real.features, fake])) + conditioned.repeat(2, 1)
    real_scores, fake_scores = critic.scores(hidden).chunk(2)
    with full_precision(real.features.device):
        terms = {"wasserstein": at_least_float32(fake_scores).mean() - at_least_float32(real_scores).mean()}
        if mix is not None:
            hidden_real, hidden_fake = at_least_float32(hidden).chunk(2)
            between = mix * hidden_real + (1 - mix) * hidden_fake
            terms["penalty"] = gp_weight * generative.gradient_penalty(critic.input_gradient(between))
    return terms


def generator_terms(method: Wgan, fake: Tensor, real: RealBatch) -> Terms:
    """The generator's loss on fake rows of the classes of a real batch."""
    terms = {"adversarial": -at_least_float32(frozen(method.critic, fake, real.attributes)).mean()}
    if weight := method.config.generator.seen_classification:
        log_probs = at_least_float32(method.teacher(fake)[1])
        terms["seen"] = weight * F.nll_loss(log_probs, real.teacher_labels)
    return terms

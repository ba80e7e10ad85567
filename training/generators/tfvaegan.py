"""TF-VAEGAN: a VAE and a WGAN-GP that share one generator, with a semantic decoder and feedback.

Source: Narayan et al., ECCV 2020, arXiv 2003.07833; without feedback it is f-VAEGAN-D2 (Xian et al., CVPR 2019, arXiv
1903.10132). The published reconstruction is a cross-entropy of features squeezed to 0..1; here it is a squared error in
units of the within-class variance, since our generator's output is not bounded above. Feedback is trained together with
the rest instead of in turns.

B: batch, D: scaled features, A: attributes, K: noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.datasets.dataset import Task
from training.device import at_least_float32, full_precision
from training.generators.base import RealBatch, Terms
from training.generators.ridge_prior import within_class_std
from training.generators.wgan import Wgan, generator_terms
from training.losses.generative import gaussian_kl
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import Encoder, FeedbackGenerator


class TfVaegan(Wgan):
    """Encoder and generator as a VAE, generator and critic as a GAN, decoder and feedback for semantic consistency."""

    sampler: FeedbackGenerator

    def __init__(self, task: Task, teacher: Teacher, student: Student, config: TrainConfig) -> None:
        super().__init__(task, teacher, student, config)
        self.encoder = Encoder(
            feature_dim=task.features.shape[1],
            attribute_dim=task.attributes.shape[1],
            noise_dim=self.sampler.noise_dim,
            hidden=config.generator.hidden,
        )
        self.spread = nn.Buffer(within_class_std(task), persistent=False)

    def new_sampler(self, *, feature_dim: int, attribute_dim: int, seen_classes: int) -> FeedbackGenerator:
        """A generator with decoder and feedback."""
        return sampler(self.config, feature_dim=feature_dim, attribute_dim=attribute_dim, seen_classes=seen_classes)

    def critic_noise(self, real: RealBatch, random: torch.Generator) -> Tensor:
        """Half of the fake rows are sampled, half reconstructed."""
        sampled = len(real.labels) // 2
        noise = self.noise(len(real.labels), random)
        mean, log_variance = self.encoder(real.features[sampled:], real.attributes[sampled:])
        noise[sampled:] = _reparametrised(mean, log_variance, noise[sampled:]).to(noise.dtype)
        return noise

    def generator_loss(self, real: RealBatch, random: torch.Generator) -> Terms:
        """GAN and VAE losses, and the decoder's error on real and fake rows."""
        settings = self.config.vae
        count = len(real.labels)
        mean, log_variance = self.encoder(real.features, real.attributes)
        latent = _reparametrised(mean, log_variance, self.noise(count, random))
        noise = torch.cat([self.noise(count, random), latent])
        both = self.sampler(noise, real.attributes.repeat(2, 1))
        fake, reconstructed = both[:count], both[count:]
        terms = generator_terms(self, fake, real)
        if settings.weight:
            with full_precision(fake.device):
                error = (at_least_float32(reconstructed) - real.features) / self.spread
                terms["reconstruction"] = settings.weight * error.square().mean()
                divergence = gaussian_kl(at_least_float32(mean), at_least_float32(log_variance))
                terms["divergence"] = settings.weight * divergence / real.features.shape[1]
        if settings.semantic_weight:
            decoded = self.sampler.decoder(torch.cat([real.features, fake]))
            with full_precision(fake.device):
                wrong = at_least_float32(decoded) - real.attributes.repeat(2, 1)
                terms["semantic"] = settings.semantic_weight * wrong.abs().sum(dim=1).mean()
        return terms


def sampler(config: TrainConfig, *, feature_dim: int, attribute_dim: int, seen_classes: int) -> FeedbackGenerator:
    """The untrained sampler of a configuration."""
    return FeedbackGenerator(
        noise_dim=config.generator.noise_dim or attribute_dim,
        attribute_dim=attribute_dim,
        feature_dim=feature_dim,
        hidden=config.generator.hidden,
        anchors=config.generator.anchors(seen_classes),
        strength=config.vae.feedback,
    )


def _reparametrised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + (0.5 * log_variance).exp() * noise

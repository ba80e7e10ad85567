"""A diffusion model over features, conditioned on attributes (Ho et al., NeurIPS 2020, arXiv 2006.11239).

B: batch, D: scaled features, A: attributes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from training.config import TrainConfig
from training.datasets.dataset import Task
from training.device import at_least_float32, full_precision
from training.generators.base import Method, RealBatch, Terms
from training.generators.ridge_prior import HIDDEN_SHARE, fit_path, within_class_components, within_class_std
from training.networks.d3gzsl import Student, Teacher
from training.networks.denoiser import DiffusionSampler


class Diffusion(Method):
    """A denoiser of the features' residual around the attribute path, without a critic; the student keeps its steps.

    It starts as a Gaussian for every class, and small beside it.
    """

    sampler: DiffusionSampler

    def __init__(self, task: Task, teacher: Teacher, student: Student, config: TrainConfig) -> None:
        super().__init__(teacher, student, config)
        self.sampler = sampler(
            config,
            feature_dim=task.features.shape[1],
            attribute_dim=task.attributes.shape[1],
            seen_classes=len(task.seen_index),
        )
        if config.generator.attribute_path == "none":
            self.sampler.attribute_path.bias.copy_(task.features.mean(dim=0))
        else:
            fit_path(self.sampler.attribute_path, task, config.generator.path_ridge, config.generator.path_choice)
        spread = within_class_std(task)
        variances, directions = within_class_components(task, spread, len(self.sampler.variances))
        self.sampler.start_from_gaussian(spread, directions, variances)
        with torch.no_grad():
            self.sampler.denoiser.output.weight.mul_(HIDDEN_SHARE)

    def generator_loss(self, real: RealBatch, random: torch.Generator) -> Terms:
        """Mean squared error of the clean residual predicted from a random level of noise.

        Behind the ReLU a feature of 0 may come from any residual below it, so that those count as right.
        """
        device, count = real.features.device, self.config.diffusion.batches * len(real.labels)
        attributes = real.attributes.repeat(self.config.diffusion.batches, 1)
        with full_precision(device):
            residual = self.sampler.residual(real.features, real.attributes).repeat(self.config.diffusion.batches, 1)
        level = torch.rand(count, 1, generator=random, device=device)
        noisy = self.sampler.noisy(residual, self.noise(count, random), level)
        clean = self.sampler.clean(noisy, attributes, level)
        with full_precision(device):
            wrong = at_least_float32(clean) - residual
            positive = (real.features > 0).repeat(self.config.diffusion.batches, 1)
            terms = {"denoising": torch.where(positive, wrong, wrong.clamp(min=0)).square().mean()}
        if weight := self.config.generator.seen_classification:
            fake = self.sampler(self.noise(len(real.labels), random), real.attributes)
            log_probs = at_least_float32(self.teacher(fake)[1])
            terms["seen"] = weight * F.nll_loss(log_probs, real.teacher_labels)
        return terms


def sampler(config: TrainConfig, *, feature_dim: int, attribute_dim: int, seen_classes: int) -> DiffusionSampler:
    """The untrained sampler of a configuration."""
    return DiffusionSampler(
        attribute_dim=attribute_dim,
        feature_dim=feature_dim,
        hidden=config.generator.hidden,
        anchors=config.generator.anchors(seen_classes) or 0,
        directions=min(feature_dim, config.generator.hidden),
        steps=config.diffusion.steps,
    )

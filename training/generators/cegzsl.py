"""CE-GZSL: f-CLSWGAN whose embedding learns by contrast (Han et al., CVPR 2021, arXiv 2103.16173).

The contrastive embedding is the student's E_s, so the D3GZSL losses work on the very embedding that the contrast
shapes; a projector and a comparator above it serve training only.

B: batch, Z: embedding, P: projection, S: seen classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.datasets.dataset import Task
from training.device import at_least_float32, full_precision
from training.generators.base import RealBatch, Terms, frozen
from training.generators.wgan import Wgan, generator_terms
from training.losses.generative import class_contrastive, supervised_contrastive
from training.networks.contrastive import Comparator, Projector
from training.networks.d3gzsl import Student, Teacher


class CeGzsl(Wgan):
    """WGAN-GP with instance-level contrast of projections and class-level contrast by a comparator with attributes."""

    def __init__(self, task: Task, teacher: Teacher, student: Student, config: TrainConfig) -> None:
        super().__init__(task, teacher, student, config)
        dim, settings = student.embedding.linear.out_features, config.contrastive
        self.projector = Projector(dim=dim, projection=settings.projection)
        self.comparator = Comparator(dim=dim, attribute_dim=task.attributes.shape[1], hidden=settings.comparator_hidden)
        self.seen_attributes = nn.Buffer(task.attributes[task.seen_index], persistent=False)

    def critic_side(self) -> Iterator[nn.Parameter]:
        """Critic, projector and comparator; E_s is the student's to step."""
        return chain(self.critic.parameters(), self.projector.parameters(), self.comparator.parameters())

    def critic_terms(self, real: RealBatch, fake: Tensor, mix: Tensor | None) -> Terms:
        """The critic's loss, and both contrasts of real rows with weight 1."""
        settings = self.config.contrastive
        terms = super().critic_terms(real, fake, mix)
        embedded = self.student.embedding(real.features)
        projected, scores = self.projector(embedded), self.comparator(embedded, self.seen_attributes)
        with full_precision(embedded.device):
            terms["instance"] = supervised_contrastive(
                at_least_float32(projected), real.labels, settings.instance_temperature
            )
            terms["class"] = class_contrastive(
                at_least_float32(scores), real.teacher_labels, settings.class_temperature
            )
        return terms

    def generator_loss(self, real: RealBatch, random: torch.Generator) -> Terms:
        """The generator's loss, and both contrasts of fake rows, with real rows as further instances."""
        settings = self.config.contrastive
        fake = self.sampler(self.noise(len(real.labels), random), real.attributes)
        terms = generator_terms(self, fake, real)
        embedded = frozen(self.student.embedding, fake)
        if settings.instance_weight:
            others = frozen(self.projector, frozen(self.student.embedding, real.features))
            rows: Tensor = torch.cat([frozen(self.projector, embedded), others])
            with full_precision(rows.device):
                terms["fake_instance"] = settings.instance_weight * supervised_contrastive(
                    at_least_float32(rows), real.labels.repeat(2), settings.instance_temperature
                )
        if settings.class_weight:
            scores = frozen(self.comparator, embedded, self.seen_attributes)
            with full_precision(scores.device):
                terms["fake_class"] = settings.class_weight * class_contrastive(
                    at_least_float32(scores), real.teacher_labels, settings.class_temperature
                )
        return terms

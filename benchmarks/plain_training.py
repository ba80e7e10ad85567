"""One outer step of D3GZSL on a WGAN-GP as its formulas read: five critic steps, then a generator step.

Rows are drawn by a permutation of all of them on the host, synthetic rows are made class by class and pass through host
memory, the teacher runs again on every batch, pairs are repeated, and the penalty is differentiated twice.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks import plain_forms
from training.config import TrainConfig
from training.datasets.dataset import Task
from training.networks.d3gzsl import Student, Teacher


class PlainTraining:
    """Networks, optimisers and host data of a plain training.

    Args:
        task: the data; a host copy is kept.
        config: `generator`, `d3` (forms `faithful`), `batch_size` and the optimisers' numbers are read.
        teacher: trained and frozen.
        student: copied.
        generator: of [noise, attributes].
        critic: of [features, attributes].
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        teacher: Teacher,
        student: Student,
        generator: nn.Module,
        critic: nn.Module,
    ) -> None:
        self.device = task.features.device
        self.features, self.labels, self.attributes = task.features.cpu(), task.labels.cpu(), task.attributes.cpu()
        self.seen, self.unseen = task.seen_index.cpu(), task.unseen_index.cpu()
        self.config, self.teacher, self.student = config, teacher, copy.deepcopy(student)
        self.generator, self.critic = generator, critic
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr=config.learning_rate, betas=(config.adam_beta1, 0.999))
            for name, module in (("generator", generator), ("critic", critic), ("student", self.student))
        }

    def outer_step(self) -> None:
        """`critic_steps` critic steps and one generator step, the student's losses in each."""
        settings = self.config.generator
        self.generator.requires_grad_(False)
        for _ in range(settings.critic_steps):
            real, labels, attributes = self.draw()
            fake = self.generator(torch.cat([self.noise(len(real)), attributes], dim=1))
            mix = torch.rand(len(real), 1).to(self.device)
            loss = plain_forms.critic_loss(self.critic, real, fake, attributes, mix, gp_weight=settings.gp_weight)
            self.step(loss + self.student_loss(real, labels, *self.synthesise()), "critic", "student")
        self.generator.requires_grad_(True)
        self.critic.requires_grad_(False)
        fake = self.generator(torch.cat([self.noise(len(real)), attributes], dim=1))
        loss = -self.critic(torch.cat([fake, attributes], dim=1)).mean()
        self.step(loss + self.student_loss(real, labels, *self.synthesise()), "generator", "student")
        self.critic.requires_grad_(True)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Real rows, their labels and attributes, copied to the device."""
        rows = torch.randperm(len(self.features))[: self.config.batch_size]
        labels = self.labels[rows]
        return tuple(x.to(self.device) for x in (self.features[rows], labels, self.attributes[labels]))

    def noise(self, rows: int) -> Tensor:
        """Standard normal noise, as wide as the attributes."""
        return torch.randn(rows, self.attributes.shape[1], device=self.device)

    def synthesise(self) -> tuple[Tensor, Tensor]:
        """Rows of every unseen class and their labels, by way of host memory."""
        count = self.config.d3.synthetic_per_class
        features = torch.empty(len(self.unseen) * count, self.features.shape[1])
        labels = torch.empty(len(features), dtype=torch.int64)
        for place, label in enumerate(self.unseen):
            attributes = self.attributes[label].repeat(count, 1).to(self.device)
            made = self.generator(torch.cat([self.noise(count), attributes], dim=1))
            features[place * count : (place + 1) * count] = made.cpu()
            labels[place * count : (place + 1) * count] = label
        return features.to(self.device), labels.to(self.device)

    def student_loss(self, real: Tensor, labels: Tensor, synthetic: Tensor, synthetic_labels: Tensor) -> Tensor:
        """Weighted sum of L_cls, L_kl, L_be and L_od in their published forms."""
        config, count = self.config.d3, len(synthetic)
        rows, all_labels = torch.cat([synthetic, real]), torch.cat([synthetic_labels, labels])
        taught, log_probs = self.teacher(rows)
        embeddings, logits = self.student(rows)
        seen_probs = F.softmax(logits[count:, self.seen.to(self.device)], 1)
        distilled = F.kl_div(F.log_softmax(seen_probs, 1), F.softmax(log_probs[count:].exp(), 1), reduction="batchmean")
        confidence = self.student.confidence(log_probs.max(dim=1).values)
        return (
            config.classification * F.cross_entropy(logits, all_labels)
            + config.label_distillation * distilled
            + config.embedding_distillation
            * plain_forms.pair_loss(taught[count:], embeddings[count:], labels, "faithful")
            + config.ood_distillation
            * plain_forms.ood_distillation(logits, self.student.ood_head, confidence, all_labels, "faithful")
        )

    def step(self, loss: Tensor, *sides: str) -> None:
        """Minimise by the optimisers of some networks."""
        for side in sides:
            self.optimisers[side].zero_grad()
        loss.backward()
        for side in sides:
            self.optimisers[side].step()

"""What the trainer asks of a base generator: what it minimises in either step, and how it samples.

B: batch, D: scaled features, A: attributes, K: noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import Sampler

Terms = dict[str, Tensor]
"""Weighted terms by name; what is minimised is their sum."""


@dataclass(frozen=True, kw_only=True)
class RealBatch:
    """Real seen rows of one step.

    Attributes:
        features: [B, D].
        attributes: of each row's class, [B, A].
        labels: class of each row, [B].
        teacher_labels: the same among the seen classes only, [B].
    """

    features: Tensor
    attributes: Tensor
    labels: Tensor
    teacher_labels: Tensor


@dataclass(frozen=True, kw_only=True)
class CriticDraws:
    """What a critic step draws.

    Attributes:
        noise: of the fake rows, [B, K].
        mix: share of the real row in each row between real and fake, [B, 1]; None without a gradient penalty.
    """

    noise: Tensor
    mix: Tensor | None


class Method(nn.Module, ABC):
    """A generative method with everything it trains; teacher and student belong to the trainer.

    Subclasses set `sampler`, which is what a run keeps, and define the losses. Every training step has `critic_steps`
    critic steps and one generator step; the student's losses are added to both.

    Args:
        teacher: frozen.
        student: trained beside the method.
        config: hyper-parameters.
    """

    sampler: Sampler

    def __init__(self, teacher: Teacher, student: Student, config: TrainConfig) -> None:
        super().__init__()
        # In a tuple, so that neither is taken for a part of this module.
        self._beside = (teacher, student)
        self.config = config

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        return self._beside[0]

    @property
    def student(self) -> Student:
        """The student."""
        return self._beside[1]

    @property
    def critic_steps(self) -> int:
        """Critic steps before each generator step; the student takes each of them too."""
        return self.config.generator.critic_steps

    def critic_side(self) -> Iterator[nn.Parameter]:
        """What the critic steps train beside the student; nothing, where a method has no critic."""
        return iter(())

    def critic_loss(self, real: RealBatch, random: torch.Generator) -> Terms:
        """Terms of a critic step, none where a method has no critic; nothing in them reaches the sampler."""
        with torch.no_grad():
            draws = self.critic_draws(real, random)
            fake = self.sampler(draws.noise, real.attributes) if draws else None
        return {} if draws is None or fake is None else self.critic_terms(real, fake, draws.mix)

    def critic_draws(self, real: RealBatch, random: torch.Generator) -> CriticDraws | None:
        """What a critic step draws, before any of its gradients; None where a method has no critic."""
        del real, random
        return None

    def critic_terms(self, real: RealBatch, fake: Tensor, mix: Tensor | None) -> Terms:
        """:meth:`critic_loss` of what was drawn.

        Args:
            real: real rows.
            fake: sampled from the drawn noise and the attributes of the real rows, [B, D].
            mix: as drawn.
        """
        del real, fake, mix
        return {}

    @abstractmethod
    def generator_loss(self, real: RealBatch, random: torch.Generator) -> Terms:
        """Terms of a generator step; nothing in them reaches critic or student."""

    def generator_side(self) -> Iterator[nn.Parameter]:
        """What the generator steps train: all but the critic's side."""
        critic = {id(p) for p in self.critic_side()}
        return (p for p in self.parameters() if id(p) not in critic)

    def noise(self, count: int, random: torch.Generator) -> Tensor:
        """Standard normal noise for `count` rows, [count, K]."""
        return torch.randn(count, self.sampler.noise_dim, generator=random, device=random.device)


def frozen(module: nn.Module, *inputs: Tensor) -> Tensor:
    """The module's output, through which gradients reach its inputs but not its parameters."""
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    output: Tensor = torch.func.functional_call(module, weights, inputs)
    return output

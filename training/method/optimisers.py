"""Optimisers of a training, their learning rates by role and epoch, and the generator's moving average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.generators.base import Method
from training.networks.d3gzsl import Student


@dataclass(frozen=True, kw_only=True)
class Optimisers:
    """Adam for each side; a side that trains nothing has none.

    Attributes:
        critic: of the method's critic side.
        generator: of its generator side.
        student: of the student, in groups for its embedding, its classifier and its confidence.
    """

    critic: list[torch.optim.Optimizer]
    generator: list[torch.optim.Optimizer]
    student: torch.optim.Optimizer

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        yield from (*self.critic, *self.generator, self.student)

    @classmethod
    def of(cls, method: Method, student: Student, config: TrainConfig, device: torch.device) -> Optimisers:
        """The optimisers of a fresh training."""
        named = dict(student.named_parameters())
        confidence = [named.pop("w" if "w" in named else "log_w"), named.pop("b")]
        embedding = [named.pop(name) for name in list(named) if name.startswith("embedding.")]
        apart = config.d3.classifier_lr_factor != 1  # a group of its own only then: kept trainings have none
        classifier = [named.pop(name) for name in list(named) if apart and name.startswith("classifier.")]

        def adam(*groups: tuple[str, list[nn.Parameter], float]) -> torch.optim.Optimizer:
            return torch.optim.Adam(
                [
                    {
                        "params": parameters,
                        "lr": _learning_rate(config.learning_rate * factor, device),
                        "role": role,
                        "factor": factor,
                    }
                    for role, parameters, factor in groups
                ],
                betas=(config.adam_beta1, 0.999),
                fused=True,
                capturable=device.type == "cuda",
            )

        sides = (
            ("critic", list(method.critic_side()), 1.0),
            ("generator", list(method.generator_side()), config.generator.learning_rate_factor),
        )
        critic, generator = ([adam((role, side, factor))] if side else [] for role, side, factor in sides)
        return cls(
            critic=critic,
            generator=generator,
            student=adam(
                ("embedding", embedding, config.d3.embedding_lr_factor),
                *([("student", classifier, config.d3.classifier_lr_factor)] if apart else []),
                ("student", list(named.values()), 1.0),
                ("confidence", confidence, 1.0),
            ),
        )

    def set_learning_rates(self, config: TrainConfig, epoch: int) -> None:
        """Bring every group to its rate in an epoch, from 0."""
        for optimiser in self:
            for group in optimiser.param_groups:
                rate = config.learning_rate * group["factor"] * schedule(config, group["role"], epoch)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def load(self, states: list[dict[str, object]]) -> None:
        """Continue with kept moments and rates; on a GPU the tensors that hold the rates stay where they are."""
        for optimiser, state in zip(self, states, strict=True):
            rates = [group["lr"] for group in optimiser.param_groups]
            optimiser.load_state_dict(state)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                if isinstance(rate, Tensor):
                    group["lr"] = rate.fill_(float(group["lr"]))


def _learning_rate(rate: float, device: torch.device) -> float | Tensor:
    """On a GPU a tensor, which a recorded step reads anew."""
    return torch.tensor(rate, device=device) if device.type == "cuda" else rate


def schedule(config: TrainConfig, role: str, epoch: int) -> float:
    """Factor on the learning rate of critic, generator, embedding, student or confidence in an epoch, from 0."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    if config.schedule == "published":
        growth = {"critic": 1.09, "generator": 1.09, "embedding": 0.98, "student": 0.98, "confidence": 0.99}
        return float(growth[role] ** (epoch // 20))
    return 1.0


@torch.no_grad()
def average_into(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters: average = decay * average + (1 - decay) * module."""
    kept: list[Tensor] = list(average.parameters())
    new: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(kept, new, 1 - decay)

"""Training of D3GZSL on a base generator: reads top to bottom.

N: real rows, B: batch, M: synthetic unseen rows, D: scaled features, A: attributes, C: classes of this training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import DataError
from training.config import TrainConfig
from training.datasets.dataset import Task
from training.device import LIMIT, Meter, Recorded, allow_tf32, autocast, records
from training.generators import new_method
from training.generators.base import RealBatch, Terms
from training.method.optimisers import Optimisers, average_into
from training.method.student import StudentBatch, new_student, start_from_head, student_terms
from training.method.teacher import TeacherOutputs, new_teacher
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import Sampler


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What a training gives."""

    generator: Sampler
    teacher: Teacher
    student: Student

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules, for checkpoints."""
        yield from (("generator", self.generator), ("teacher", self.teacher), ("student", self.student))

    def to(self, device: torch.device) -> Networks:
        """The same networks, moved."""
        for _, module in self.modules():
            module.to(device)
        return self


@dataclass(frozen=True, kw_only=True)
class CriticBatch:
    """Rows of one critic step.

    Attributes:
        real: real rows.
        teacher: its outputs of them.
        fake: as many synthetic ones of the same classes, [B, D]; None where a method has no critic.
        mix: what the gradient penalty draws, [B, 1].
        synthetic: of unseen classes, [M, D].
    """

    real: RealBatch
    teacher: TeacherOutputs
    fake: Tensor | None
    mix: Tensor | None
    synthetic: Tensor


TOGETHER = 2048
"""Rows that pass the generator at once: enough for fast products, little enough for memory."""


class Trainer:
    """A training that can be stopped after any epoch and continued bit for bit on a CPU.

    The generator that it gives is the moving average over its training: a GAN's weights circle around what they would
    converge to, and so does what they synthesise.

    Args:
        task: data on the device to train on.
        config: hyper-parameters.
        state: of :meth:`state`, to continue; without it the teacher is pre-trained and a training begins.
        teacher: of the same task, pre-trained and frozen; it is shared, not copied.
    """

    def __init__(
        self, task: Task, config: TrainConfig, state: dict[str, Any] | None = None, *, teacher: Teacher | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        allow_tf32(config.precision)
        self._task, self._config, self._device = task, config, task.features.device
        self.epoch = 0
        teacher = teacher or new_teacher(task, config, state)
        self._teacher_outputs = TeacherOutputs.of(teacher, task.features)
        student = new_student(task, self._teacher_outputs.scores, config)
        self._method = new_method(task, teacher, student, config)
        if config.d3.classifier_init == "head" and state is None:
            start_from_head(student, self._method.sampler, task, config)
        averaged = copy.deepcopy(self._method.sampler).requires_grad_(False)
        self.networks = Networks(generator=averaged, teacher=teacher, student=student)
        self._optimisers = Optimisers.of(self._method, student, config, self._device)
        compiled = torch.compile if config.compile == "on" else _as_it_is
        self._critic_terms = compiled(self._method.critic_terms)
        self._generator_loss = compiled(self._method.generator_loss)
        self._student_loss = compiled(self._student_losses)
        self._random = torch.Generator(self._device).manual_seed(config.seed)
        self._critic_steps: Callable[[], None] = self._take_critic_steps
        self._generator_step: Callable[[], None] = self._take_generator_step
        if records(config.compile, self._device):
            self._critic_steps = Recorded(self._critic_steps, self._random)
            self._generator_step = Recorded(self._generator_step, self._random)
        self._meter = Meter(self._device)
        self._unseen_attributes = task.attributes[task.unseen_index]
        self._synthetic_labels = task.unseen_index.repeat_interleave(config.d3.synthetic_per_class)
        self._teacher_labels, self._seen_index = task.teacher_labels, task.seen_index
        self.steps = config.steps or math.ceil(len(task.features) / self._size)
        if state is not None:
            self._restore(state)

    @property
    def _size(self) -> int:
        return min(self._config.batch_size, len(self._task.features))

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch; returns mean losses.

        Per outer step, as published: `critic_steps` times the critic's loss plus the student losses with the generator
        frozen, then once the generator's loss plus the student losses on fresh synthetic rows.

        Raises:
            DataError: a loss is not finite or beyond all bounds; names the first such step and loss.
        """
        self._optimisers.set_learning_rates(self._config, self.epoch)
        self._meter.reset()
        for step in range(self.steps):
            self._critic_steps()
            if self.epoch * self.steps + step >= self._config.generator.warm_up:
                self._generator_step()
        self._refuse_divergence()
        self.epoch += 1
        return self._meter.means()

    def _take_critic_steps(self) -> None:
        self._meter.begin_step()
        for batch in self._critic_batches():
            real, teacher = self._batch = batch.real, batch.teacher
            with autocast(self._device, self._config.precision):
                terms = {} if batch.fake is None else self._critic_terms(real, batch.fake, batch.mix)
                student_loss, unweighted = self._student_loss(real, teacher, batch.synthetic)
            self._step(terms, student_loss, [*self._optimisers.critic, self._optimisers.student])
            self._meter.add(terms)
            self._meter.add(unweighted)

    def _take_generator_step(self) -> None:
        """On the batch of the last critic step."""
        real, teacher = self._batch
        with autocast(self._device, self._config.precision):
            terms = self._generator_loss(real, self._random)
            synthetic = scale_gradient(self._synthesise(), self._config.d3.generator_share)
            student_loss, unweighted = self._student_loss(real, teacher, synthetic)
        self._step(terms, student_loss, [*self._optimisers.generator, self._optimisers.student])
        self._meter.add(terms)
        self._meter.add(unweighted)
        average_into(self.networks.generator, self._method.sampler, self._config.generator.averaging)

    def release(self) -> None:
        """Give back what only further epochs need: gradients, moments and recorded steps; the networks stay.

        On a GPU recorded steps hold as much memory as the step they record, until nothing refers to them.
        """
        for optimiser in self._optimisers:
            optimiser.zero_grad()
            optimiser.state.clear()
        self._critic_steps, self._generator_step = self._take_critic_steps, self._take_generator_step

    def state(self) -> dict[str, Any]:
        """Everything that decides how the training goes on: tensors and plain values only, not copied."""
        return {
            "epoch": self.epoch,
            "device": self._device.type,
            "modules": {name: module.state_dict() for name, module in self._modules()},
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "random": self._random.get_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if (begun_on := state["device"]) != self._device.type:
            raise DataError(
                f"--device: expected {begun_on}, where the training was begun and its random numbers are, got "
                f"{self._device.type}; --overwrite begins anew"
            )
        self.epoch = int(state["epoch"])
        for name, module in self._modules():
            module.load_state_dict(state["modules"][name])
        self._optimisers.load(state["optimisers"])
        self._random.set_state(state["random"].cpu())

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self.networks.modules()
        yield "method", self._method

    def _draw(self) -> tuple[RealBatch, TeacherOutputs]:
        """Random real rows with the teacher's view of them."""
        task = self._task
        rows = torch.randint(len(task.features), (self._size,), generator=self._random, device=self._device)
        labels = task.labels[rows]
        real = RealBatch(
            features=task.features[rows],
            attributes=task.attributes[labels],
            labels=labels,
            teacher_labels=self._teacher_labels[rows],
        )
        return real, self._teacher_outputs.take(rows)

    @torch.no_grad()
    def _critic_batches(self) -> list[CriticBatch]:
        """The batches of the critic steps before one of the generator, which rests meanwhile: it makes all at once."""
        drawn = []
        with autocast(self._device, self._config.precision):
            for _ in range(self._method.critic_steps):
                real, teacher = self._draw()
                draws = self._method.critic_draws(real, self._random)
                noise = self._method.noise(len(self._synthetic_labels), self._random)
                drawn.append((real, teacher, draws, noise))
            noises, labels = [], []
            for real, _, draws, noise in drawn:
                noises += [noise] if draws is None else [draws.noise, noise]
                labels += [self._synthetic_labels] if draws is None else [real.labels, self._synthetic_labels]
            made = self._make(torch.cat(noises), torch.cat(labels))
            rows = iter(torch.split(made, [len(noise) for noise in noises]))
        return [
            CriticBatch(
                real=real,
                teacher=teacher,
                fake=next(rows) if draws else None,
                mix=draws.mix if draws else None,
                synthetic=next(rows),
            )
            for real, teacher, draws, _ in drawn
        ]

    def _make(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Features from noise and labels; what depends on the class alone is computed once for each."""
        sampler = self._method.sampler
        conditions = sampler.conditions(self._task.attributes)
        made = [
            sampler.conditioned(some, *(of_class[classes] for of_class in conditions))
            for some, classes in zip(torch.split(noise, TOGETHER), torch.split(labels, TOGETHER), strict=True)
        ]
        return torch.cat(made)

    def _synthesise(self) -> Tensor:
        """Rows of unseen classes, [M, D]; gradients reach the sampler."""
        sampler, each = self._method.sampler, self._config.d3.synthetic_per_class
        noise = self._method.noise(len(self._synthetic_labels), self._random)
        conditions = sampler.conditions(self._unseen_attributes)
        return sampler.conditioned(noise, *(c[:, None].expand(-1, each, -1).flatten(0, 1) for c in conditions))

    def _student_losses(self, real: RealBatch, teacher: TeacherOutputs, synthetic: Tensor) -> tuple[Tensor, Terms]:
        """Weighted sum of the student losses, and each of them without its weight."""
        batch = StudentBatch(
            synthetic=synthetic,
            synthetic_labels=self._synthetic_labels,
            real=real.features,
            real_labels=real.labels,
            teacher=teacher,
        )
        weights = self._config.d3.weights()
        terms = student_terms(self.networks.student, self.networks.teacher, batch, self._seen_index, self._config.d3)
        total = sum((weights[name] * value for name, value in terms.items()), torch.zeros((), device=self._device))
        return total, terms

    @staticmethod
    def _step(terms: Terms, student_loss: Tensor, optimisers: list[torch.optim.Optimizer]) -> None:
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss = sum(terms.values(), student_loss)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            for optimiser in optimisers:
                optimiser.step()

    def _refuse_divergence(self) -> None:
        if (found := self._meter.first_bad()) is not None:
            step, names = found
            raise DivergedError(
                f"the training diverged in epoch {self.epoch + 1}, outer step {step + 1} of {self.steps}: "
                f"{' and '.join(names)} not finite or beyond {LIMIT:g}; use a lower learning_rate"
            )


class DivergedError(DataError):
    """A loss stopped being a number, or left all bounds."""


class Measuring:
    """What is measured after every epoch of a training; this one measures nothing and lets it go on to its end."""

    def measure(self, epoch: int, networks: Networks, losses: dict[str, float]) -> None:
        """Look at the networks after an epoch, counted from 1, with its mean losses."""

    def enough(self) -> bool:
        """Whether to stop early; asked before every epoch."""
        return False

    def state(self) -> dict[str, Any]:
        """What must outlive a kill with the training: tensors and plain values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""


class Checkpoint:
    """Where the state of one training is kept, to go on after a kill; this one keeps nothing."""

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The states of trainer and measuring when the training was left, if it was begun before."""
        return None

    def save(self, trainer: Trainer, measuring: Measuring) -> None:
        """Keep both states after an epoch."""


def train(
    task: Task,
    config: TrainConfig,
    *,
    epochs: int,
    measuring: Measuring | None = None,
    checkpoint: Checkpoint | None = None,
) -> Networks:
    """Pre-train the teacher, then train generator, critic and student together: the one training loop.

    Args:
        task: data on the device to train on.
        config: hyper-parameters.
        epochs: how long at most; `config.epochs` is the longest that selection considers.
        measuring: what is measured after each epoch, and whether that is enough.
        checkpoint: where the training is continued from, and kept.

    Raises:
        DivergedError: the training diverged.
    """
    measuring, checkpoint = measuring or Measuring(), checkpoint or Checkpoint()
    trainer_state, measuring_state = checkpoint.load() or (None, {})
    trainer = Trainer(task, config, trainer_state)
    measuring.restore(measuring_state)
    while trainer.epoch < epochs and not measuring.enough():
        losses = trainer.run_epoch()
        measuring.measure(trainer.epoch, trainer.networks, losses)
        checkpoint.save(trainer, measuring)
    trainer.release()
    return trainer.networks


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same values, their gradient multiplied by a factor."""
    return x * factor + (x * (1 - factor)).detach()

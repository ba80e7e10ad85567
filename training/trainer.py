"""Training of D3GZSL on a WGAN-GP generator: reads top to bottom.

N: real rows, B: batch, M: synthetic unseen rows, D: scaled features, A: attributes, C: classes of this training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from model.errors import DataError
from model.networks.d3gzsl import Student, Teacher
from model.networks.generator import Critic, Generator
from training import losses
from training.config import D3Config, TrainConfig
from training.ridge import class_mean_ridge
from training.task import Task
from training.teacher import TeacherOutputs, fit_teacher


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Everything that is trained."""

    generator: Generator
    critic: Critic
    teacher: Teacher
    student: Student

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules, for checkpoints."""
        yield from (
            ("generator", self.generator),
            ("critic", self.critic),
            ("teacher", self.teacher),
            ("student", self.student),
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that the student losses see: synthetic unseen, and real seen with the teacher's view of them."""

    synthetic: Tensor
    synthetic_labels: Tensor
    real: Tensor
    real_labels: Tensor
    teacher: TeacherOutputs


def student_losses(networks: Networks, batch: Batch, seen_index: Tensor, config: D3Config) -> dict[str, Tensor]:
    """The unweighted D3GZSL terms of one batch; a term with weight 0 is not computed."""
    student = networks.student
    x = torch.cat([batch.synthetic, batch.real])
    z, logits = student(x)
    labels = torch.cat([batch.synthetic_labels, batch.real_labels])
    count = len(batch.synthetic)
    terms: dict[str, Tensor] = {}
    if config.classification:
        terms["cls"] = losses.classification(logits, labels, config.cls_form)
    if config.label_distillation:
        terms["kl"] = losses.label_distillation(logits[count:, seen_index], batch.teacher.log_probs, config.kl_form)
    if config.embedding_distillation:
        terms["be"] = losses.embedding_distillation(
            batch.teacher.embeddings, z[count:], batch.real_labels, config.be_form
        )
    if config.ood_distillation:
        scores = torch.cat([networks.teacher.score(batch.synthetic), batch.teacher.scores])
        groups = labels if config.ood_target == "class" else (torch.arange(len(labels), device=labels.device) < count)
        terms["od"] = losses.ood_distillation(
            logits, student.ood_head, student.confidence(scores), groups, config.od_form
        )
    return terms


def weights(config: D3Config) -> dict[str, float]:
    """Weight of each student term."""
    return {
        "cls": config.classification,
        "kl": config.label_distillation,
        "be": config.embedding_distillation,
        "od": config.ood_distillation,
    }


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same values, their gradient multiplied by a factor."""
    return x * factor + (x * (1 - factor)).detach()


@torch.no_grad()
def average_into(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters: average = decay * average + (1 - decay) * module."""
    for kept, new in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def build(task: Task, teacher: Teacher, scores_N: Tensor, config: TrainConfig) -> Networks:
    """Fresh generator, critic and student for a task; the confidence starts at w = 1/std(e), b = -median(e)."""
    attribute_dim, dimension = task.attributes.shape[1], task.features.shape[1]
    generator = Generator(
        noise_dim=config.generator.noise_dim or attribute_dim,
        attribute_dim=attribute_dim,
        feature_dim=dimension,
        hidden=config.generator.hidden,
        linear_path=config.generator.linear_path,
    )
    critic = Critic(attribute_dim=attribute_dim, feature_dim=dimension, hidden=config.generator.hidden)
    student = Student(
        feature_dim=dimension,
        dim=config.d3.embedding_dim or dimension,
        classes=len(task.seen),
        init=config.d3.embedding_init,
        confidence_w=1 / max(float(scores_N.std()), 1e-3),
        confidence_b=-float(scores_N.median()),
    )
    device = task.features.device
    networks = Networks(
        generator=generator.to(device), critic=critic.to(device), teacher=teacher, student=student.to(device)
    )
    if config.generator.linear_path and config.generator.linear_path_ridge:
        slope, intercept = class_mean_ridge(task, config.generator.linear_path_ridge)
        with torch.no_grad():
            assert generator.linear_path is not None
            generator.linear_path.weight.copy_(slope)
            generator.output.bias.copy_(intercept)
    return networks


def train(
    task: Task,
    config: TrainConfig,
    *,
    epochs: int,
    on_epoch: Callable[[int, Networks, dict[str, float]], None] = lambda *_: None,
) -> Networks:
    """Pre-train the teacher, then train generator, critic and student together.

    Per outer step, as published: `critic_steps` times the critic's loss plus the student losses with the generator
    frozen, then once the generator's loss plus the student losses on fresh synthetic rows.

    Args:
        task: data on the device to train on.
        config: hyper-parameters.
        epochs: how long; `config.epochs` is the longest that selection considers.
        on_epoch: called after each epoch with its number from 1, the networks and mean losses.

    Raises:
        DataError: the training diverged.

    Returns:
        The networks, the generator being the moving average over its training: a GAN's weights circle around what they
        would converge to, and so does what they synthesise.
    """
    torch.manual_seed(config.seed)
    device = task.features.device
    teacher = fit_teacher(task.features, task.teacher_labels, len(task.seen_index), config)
    teacher_outputs = TeacherOutputs.of(teacher, task.features)
    networks = build(task, teacher, teacher_outputs.scores, config)
    generator, critic, student = networks.generator, networks.critic, networks.student
    rows, size = len(task.features), min(config.batch_size, len(task.features))
    seen_index, teacher_labels = task.seen_index, task.teacher_labels
    synthetic_labels = task.unseen_index.repeat_interleave(config.d3.synthetic_per_class)
    synthetic_attributes = task.attributes[synthetic_labels]
    term_weights = weights(config.d3)

    def adam(parameters: Iterable[nn.Parameter] | list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=config.learning_rate, betas=(config.adam_beta1, 0.999), fused=True)

    critic_optimiser, generator_optimiser = adam(critic.parameters()), adam(generator.parameters())
    embedding = list(student.embedding.parameters())
    rest = [p for name, p in student.named_parameters() if not name.startswith("embedding.")]
    slow: dict[str, Any] = {"params": embedding, "lr": config.learning_rate * config.d3.embedding_lr_factor}
    student_optimiser = adam([slow, {"params": rest}])

    def noise(count: int) -> Tensor:
        return torch.randn(count, generator.noise_dim, device=device)

    def d3_loss(batch_rows: Tensor, synthetic: Tensor, total: dict[str, Tensor]) -> Tensor:
        batch = Batch(
            synthetic=synthetic,
            synthetic_labels=synthetic_labels,
            real=task.features[batch_rows],
            real_labels=task.labels[batch_rows],
            teacher=teacher_outputs.take(batch_rows),
        )
        terms = student_losses(networks, batch, seen_index, config.d3)
        for name, value in terms.items():
            total[name] = total.get(name, torch.zeros((), device=device)) + value.detach()
        return sum((term_weights[name] * value for name, value in terms.items()), torch.zeros((), device=device))

    averaged = copy.deepcopy(generator).requires_grad_(False)
    result = replace(networks, generator=averaged)
    outer_steps = -(-rows // size)
    for epoch in range(1, epochs + 1):
        total: dict[str, Tensor] = {}
        for _ in range(outer_steps):
            for _ in range(config.generator.critic_steps):
                batch_rows = torch.randint(rows, (size,), device=device)
                real, attributes = task.features[batch_rows], task.attributes[task.labels[batch_rows]]
                with torch.no_grad():
                    fake = generator(noise(size), attributes)
                    synthetic = generator(noise(len(synthetic_labels)), synthetic_attributes)
                    mix = torch.rand(size, 1, device=device)
                    between = mix * real + (1 - mix) * fake
                penalty = losses.gradient_penalty(critic.input_gradient(between, attributes))
                scores = critic(torch.cat([fake, real]), attributes.repeat(2, 1))
                distance = scores[size:].mean() - scores[:size].mean()
                loss = config.generator.gp_weight * penalty - distance + d3_loss(batch_rows, synthetic, total)
                critic_optimiser.zero_grad()
                student_optimiser.zero_grad()
                loss.backward()
                critic_optimiser.step()
                student_optimiser.step()
                total["wasserstein"] = total.get("wasserstein", torch.zeros((), device=device)) + distance.detach()
            critic.requires_grad_(False)
            fake = generator(noise(size), attributes)
            loss = -critic(fake, attributes).mean()
            if config.generator.seen_classification:
                log_probs = networks.teacher(fake)[1]
                loss = loss + config.generator.seen_classification * F.nll_loss(log_probs, teacher_labels[batch_rows])
            synthetic = generator(noise(len(synthetic_labels)), synthetic_attributes)
            loss = loss + d3_loss(batch_rows, scale_gradient(synthetic, config.d3.generator_share), total)
            generator_optimiser.zero_grad()
            student_optimiser.zero_grad()
            loss.backward()
            generator_optimiser.step()
            student_optimiser.step()
            critic.requires_grad_(True)
            average_into(averaged, generator, config.generator.averaging)
        counts = {"wasserstein": outer_steps * config.generator.critic_steps}  # the student steps once more
        student_steps = outer_steps * (config.generator.critic_steps + 1)
        means = {name: float(value) / counts.get(name, student_steps) for name, value in total.items()}
        _refuse_divergence(epoch, means)
        on_epoch(epoch, result, means)
    return result


def _refuse_divergence(epoch: int, means: dict[str, float]) -> None:
    infinite = [f"{name} {value}" for name, value in means.items() if not math.isfinite(value)]
    if infinite:
        raise DataError(
            f"the training diverged: mean losses of epoch {epoch} are not finite ({', '.join(infinite)}); "
            "use a lower learning_rate"
        )

"""The losses and steps that benchmarks/training.py measures, each in its plain form and in the form training uses.

B: batch, C: classes, Z: embedding, A: attributes, D: features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import plain_forms
from benchmarks.timing import Case
from training.config import LossForm
from training.generators.base import RealBatch
from training.generators.wgan import critic_terms
from training.losses import d3gzsl as losses
from training.losses.generative import class_contrastive
from training.networks.contrastive import Comparator
from training.networks.generator import Critic

GP_WEIGHT, TEMPERATURE = 10.0, 0.1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes of all cases; the defaults are those of CUB as published."""

    features: int = 2048
    hidden: int = 4096
    attributes: int = 312
    seen: int = 150
    unseen: int = 50
    batch: int = 256
    synthetic_per_class: int = 5
    comparator_batch: int = 512
    comparator_hidden: int = 2048
    comparator_attributes: int = 1024
    comparator_plain_rows: int = 64
    outer_steps: int = 1
    rows: int = 7057

    @property
    def all_rows(self) -> int:
        """Rows of a D3 batch: synthetic unseen and real seen."""
        return self.unseen * self.synthetic_per_class + self.batch


def comparator_case(sizes: Sizes, device: torch.device) -> Case:
    """Class-level loss of CE-GZSL, forward and backward, gradients of the embeddings included."""
    random = torch.Generator(device).manual_seed(1)
    embeddings = torch.randn(sizes.comparator_batch, sizes.features, generator=random, device=device).relu_()
    embeddings.requires_grad_()
    attributes = torch.randn(sizes.seen, sizes.comparator_attributes, generator=random, device=device)
    labels = torch.randint(sizes.seen, (sizes.comparator_batch,), generator=random, device=device)
    network = Comparator(
        dim=sizes.features, attribute_dim=sizes.comparator_attributes, hidden=sizes.comparator_hidden
    ).to(device)
    joint = plain_forms.joint_comparator(network)
    rows = min(sizes.comparator_plain_rows, sizes.comparator_batch)

    def plain(count: int) -> Tensor:
        return plain_forms.comparator_loss(joint, embeddings[:count], attributes, labels[:count], TEMPERATURE)

    def fast(count: int) -> Tensor:
        return class_contrastive(network(embeddings[:count], attributes), labels[:count], TEMPERATURE)

    return Case(
        name=f"CE-GZSL comparator loss, B={sizes.comparator_batch}, C={sizes.seen}",
        target=20,
        plain=lambda: backward(plain(rows), embeddings, *joint.parameters()),
        fast=lambda: backward(fast(sizes.comparator_batch), embeddings, *network.parameters()),
        values=lambda: (plain(rows).item(), fast(rows).item()),
        scale=sizes.comparator_batch / rows,
        note=f"plain: {rows} of {sizes.comparator_batch} rows measured, time scaled; its cost is linear in the rows"
        if rows < sizes.comparator_batch
        else "",
    )


def pair_cases(sizes: Sizes, device: torch.device) -> Iterator[Case]:
    """L_be on the real rows and L_od on all rows, in either form."""
    random = torch.Generator(device).manual_seed(2)
    classes = sizes.seen + sizes.unseen
    teacher = torch.randn(sizes.batch, sizes.features, generator=random, device=device).relu_()
    student = torch.randn(sizes.batch, sizes.features, generator=random, device=device).relu_().requires_grad_()
    labels = torch.randint(sizes.seen, (sizes.batch,), generator=random, device=device)
    logits = torch.randn(sizes.all_rows, classes, generator=random, device=device).requires_grad_()
    groups = torch.cat([sizes.seen + torch.arange(sizes.all_rows - sizes.batch, device=device) % sizes.unseen, labels])
    confidence = torch.rand(sizes.all_rows, generator=random, device=device).requires_grad_()
    head = nn.Linear(classes, 2).to(device)

    def case(name: str, plain: Callable[[], Tensor], fast: Callable[[], Tensor], *leaves: Tensor) -> Case:
        return Case(
            name=name,
            target=10,
            plain=lambda: backward(plain(), *leaves),
            fast=lambda: backward(fast(), *leaves),
            values=lambda: (plain().item(), fast().item()),
        )

    def of(form: LossForm) -> Iterator[Case]:
        yield case(
            f"L_be {form}, B={sizes.batch}, Z={sizes.features}",
            lambda: plain_forms.pair_loss(teacher, student, labels, form),
            lambda: losses.embedding_distillation(teacher, student, labels, form),
            student,
        )
        yield case(
            f"L_od {form}, B={sizes.all_rows}",
            lambda: plain_forms.ood_distillation(logits, head, confidence, groups, form),
            lambda: losses.ood_distillation(logits, head, confidence, groups, form),
            *(logits, confidence, *head.parameters()),
        )

    yield from of("corrected")
    yield from of("faithful")


def critic_case(sizes: Sizes, device: torch.device) -> Case:
    """One critic step on given fake rows: scores, gradient penalty, backward, Adam."""
    random = torch.Generator(device).manual_seed(3)

    def rows(width: int) -> Tensor:
        return torch.rand(sizes.batch, width, generator=random, device=device)

    real, fake, attributes = rows(sizes.features), rows(sizes.features), rows(sizes.attributes)
    labels = torch.zeros(sizes.batch, dtype=torch.int64, device=device)
    batch = RealBatch(features=real, attributes=attributes, labels=labels, teacher_labels=labels)
    network = Critic(attribute_dim=sizes.attributes, feature_dim=sizes.features, hidden=sizes.hidden).to(device)
    joint = plain_forms.joint_critic(network)
    optimisers = [torch.optim.Adam(n.parameters(), lr=1e-4, betas=(0.5, 0.999), fused=True) for n in (joint, network)]
    draws = torch.Generator(device)

    def plain() -> Tensor:
        draws.manual_seed(4)
        mix = torch.rand(sizes.batch, 1, generator=draws, device=device)
        return plain_forms.critic_loss(joint, real, fake, attributes, mix, gp_weight=GP_WEIGHT)

    def fast() -> Tensor:
        draws.manual_seed(4)
        mix = torch.rand(sizes.batch, 1, generator=draws, device=device)
        terms = critic_terms(network, batch, fake, mix, gp_weight=GP_WEIGHT)
        return torch.stack(list(terms.values())).sum()

    def step(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return Case(
        name=f"critic step, B={sizes.batch}, hidden {sizes.hidden}",
        target=1.1,
        plain=lambda: step(plain(), optimisers[0]),
        fast=lambda: step(fast(), optimisers[1]),
        values=lambda: (plain().item(), fast().item()),
        note="the same Adam on both sides",
    )


def backward(loss: Tensor, *leaves: Tensor) -> None:
    """Gradients of the leaves, thrown away."""
    torch.autograd.grad(loss, leaves, allow_unused=True)

"""The whole outer step of D3GZSL on `wgan`: the trainer against PlainTraining; and a training of AWA2's size."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain_forms
from benchmarks.plain_training import PlainTraining
from benchmarks.timing import Case, synchronise
from benchmarks.training_cases import Sizes
from training.config import D3Config, GeneratorConfig, Precision, TeacherConfig, TrainConfig
from training.datasets.dataset import Task
from training.method.student import StudentBatch, student_terms
from training.method.teacher import TeacherOutputs
from training.method.trainer import Trainer
from training.networks.generator import Critic, Generator

AWA2 = {"rows": 23_527, "features": 2048, "attributes": 85, "seen": 40, "unseen": 10}


def published(sizes: Sizes, *, teacher_epochs: int, steps: int) -> TrainConfig:
    """The authors' WGAN-GP with all four D3 losses in their published forms."""
    return TrainConfig(
        batch_size=sizes.batch,
        steps=steps,
        teacher=TeacherConfig(epochs=teacher_epochs),
        generator=GeneratorConfig(
            hidden=sizes.hidden,
            attribute_path="none",
            learning_rate_factor=1.0,
            warm_up=0,
            seen_classification=0.0,
        ),
        d3=D3Config(
            classification=1e-4,
            label_distillation=1e-4,
            embedding_distillation=1e-4,
            ood_distillation=1e-4,
            generator_share=1.0,
            ood_target="class",
            cls_form="faithful",
            kl_form="faithful",
            be_form="faithful",
            od_form="faithful",
            synthetic_per_class=sizes.synthetic_per_class,
            embedding_init="normal",
        ),
    )


def generated(*, rows: int, features: int, attributes: int, seen: int, unseen: int, device: torch.device) -> Task:
    """A task of given sizes: scaled features around class means that are linear in unit-length attributes."""
    random = torch.Generator(device).manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device=device)

    described = torch.nn.functional.normalize(normal(seen + unseen, attributes), dim=1)
    means = described @ normal(attributes, features)
    labels = torch.arange(rows, device=device) % seen
    values = (means[labels] + normal(rows, features)).relu_()
    return Task(
        features=values / values.amax(dim=0).clamp(min=1e-6),
        labels=labels,
        attributes=described,
        seen=torch.arange(seen + unseen, device=device) < seen,
    )


def outer_case(sizes: Sizes, device: torch.device, *, target: float) -> Case:
    """`sizes.outer_steps` outer steps."""
    task = generated(
        rows=sizes.rows,
        features=sizes.features,
        attributes=sizes.attributes,
        seen=sizes.seen,
        unseen=sizes.unseen,
        device=device,
    )
    config = published(sizes, teacher_epochs=1, steps=sizes.outer_steps)
    trainer = Trainer(task, config)
    teacher, student = trainer.networks.teacher, trainer.networks.student
    shapes = {"attribute_dim": sizes.attributes, "feature_dim": sizes.features, "hidden": sizes.hidden}
    plain = PlainTraining(
        task,
        config,
        teacher=teacher,
        student=student,
        generator=plain_forms.joint_generator(Generator(noise_dim=sizes.attributes, anchors=None, **shapes).to(device)),
        critic=plain_forms.joint_critic(Critic(**shapes).to(device)),
    )

    def student_losses() -> tuple[float, float]:
        """The student's losses of one batch by both; the rest of the step draws its own random numbers."""
        real, labels = task.features[: sizes.batch], task.labels[: sizes.batch]
        synthetic, synthetic_labels = plain.synthesise()
        batch = StudentBatch(
            synthetic=synthetic,
            synthetic_labels=synthetic_labels,
            real=real,
            real_labels=labels,
            teacher=TeacherOutputs.of(teacher, real),
        )
        terms = student_terms(student, teacher, batch, task.seen_index, config.d3)
        weights = config.d3.weights()
        fast = sum(weights[name] * value.item() for name, value in terms.items())
        return plain.student_loss(real, labels, synthetic, synthetic_labels).item(), fast

    def run_plain() -> None:
        for _ in range(sizes.outer_steps):
            plain.outer_step()

    return Case(
        name=f"outer step of wgan + D3, B={sizes.batch}, hidden {sizes.hidden}, x {sizes.outer_steps}",
        target=target,
        plain=run_plain,
        fast=trainer.run_epoch,
        values=student_losses,
        note="values compared: the student's losses",
    )


def awa2_training(device: torch.device, *, precision: Precision, epochs: int = 100) -> dict[str, Any]:
    """Seconds of a `wgan` + D3 training of AWA2's size, teacher included, on rows generated for the purpose."""
    task = generated(**AWA2, device=device)
    config = replace(published(Sizes(), teacher_epochs=30, steps=0), precision=precision)
    synchronise(device)
    begun = time.perf_counter()
    trainer = Trainer(task, config)
    for _ in range(epochs):
        trainer.run_epoch()
    synchronise(device)
    seconds = time.perf_counter() - begun
    settings = {"batch": config.batch_size, "epochs": epochs, "precision": precision}
    return {"name": "training of AWA2's size", **AWA2, **settings, "seconds": seconds}

"""The student: how it starts, and its losses on one batch.

N: real rows, B: those of a batch, M: synthetic unseen rows, D: scaled features, C: classes of this training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.errors import DataError
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from model.noise import class_noise
from training.config import D3Config, TrainConfig
from training.datasets.dataset import Task
from training.device import at_least_float32, full_precision
from training.losses import d3gzsl as losses
from training.method.teacher import TeacherOutputs
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import Sampler

START_SHRINKAGE = 0.5
MIN_SPREAD = 1e-3  # of the teacher's scores, below which the confidence starts no steeper


@dataclass(frozen=True, kw_only=True)
class StudentBatch:
    """Rows that the student losses see: synthetic unseen, and real seen with the teacher's view of them.

    Attributes:
        synthetic: [M, D].
        synthetic_labels: [M].
        real: [B, D].
        real_labels: [B].
        teacher: outputs of the real rows.
    """

    synthetic: Tensor
    synthetic_labels: Tensor
    real: Tensor
    real_labels: Tensor
    teacher: TeacherOutputs


def student_terms(
    student: Student, teacher: Teacher, batch: StudentBatch, seen_index: Tensor, config: D3Config
) -> dict[str, Tensor]:
    """The unweighted D3GZSL terms of one batch; a term with weight 0 is not computed."""
    weights = config.weights()
    if not any(weights.values()):
        return {}
    z, logits = student(torch.cat([batch.synthetic, batch.real]))
    labels = torch.cat([batch.synthetic_labels, batch.real_labels])
    count = len(batch.synthetic)
    terms: dict[str, Tensor] = {}
    with full_precision(logits.device):
        z, logits = at_least_float32(z), at_least_float32(logits)
        if weights["cls"]:
            terms["cls"] = losses.classification(logits, labels, config.cls_form)
        if weights["kl"]:
            terms["kl"] = losses.label_distillation(logits[count:, seen_index], batch.teacher.log_probs, config.kl_form)
        if weights["be"]:
            terms["be"] = losses.embedding_distillation(
                batch.teacher.embeddings, z[count:], batch.real_labels, config.be_form
            )
        if weights["od"]:
            # The confidence divides by the spread of the real rows' scores, which may be less than bfloat16 resolves.
            scores = teacher.score(at_least_float32(batch.synthetic))
            domain = torch.arange(len(labels), device=labels.device) < count
            terms["od"] = losses.ood_distillation(
                logits,
                student.ood_head,
                student.confidence(torch.cat([scores, batch.teacher.scores])),
                labels if config.ood_target == "class" else domain,
                config.od_form,
            )
    return terms


def new_student(task: Task, scores_N: Tensor, config: TrainConfig) -> Student:
    """A fresh student; its confidence starts at w = 1/std(e), b = -median(e) of the teacher's scores on real rows.

    With the published L_od it starts at w = 1, b = 0, as published, which is at most a half, and w may turn negative.
    """
    dimension = task.features.shape[1]
    published = config.d3.free_w
    return Student(
        feature_dim=dimension,
        dim=config.d3.embedding_size(dimension),
        classes=len(task.seen),
        init=config.d3.embedding_init,
        confidence_w=1.0 if published else 1 / max(float(scores_N.std()), MIN_SPREAD),
        confidence_b=0.0 if published else -float(scores_N.median()),
        free_w=published,
    ).to(task.features.device)


@torch.no_grad()
def start_from_head(student: Student, sampler: Sampler, task: Task, config: TrainConfig) -> None:
    """Give C_s the rows of an `lda` head, w = S^-1 mu and b = -mu . w / 2, on embeddings as both networks start.

    Means are those of real rows of seen classes and of synthesised ones of unseen classes, and S is the within-class
    covariance of real rows, shrunk by `START_SHRINKAGE`: the classifier that :class:`model.lda.LdaHead` serves.

    Raises:
        DataError: the embeddings of each class are all the same.
    """
    samples = config.selection.samples
    unseen = [
        sampler(
            torch.from_numpy(class_noise("", str(index), samples, sampler.noise_dim, form="matched")).to(
                task.features.device
            ),
            task.attributes[index].expand(samples, -1),
        )
        for index in task.unseen_index.tolist()
    ]
    z = student.embedding(torch.cat([task.features, *unseen])).cpu().numpy().astype(np.float64)
    labels = torch.cat([task.labels, task.unseen_index.repeat_interleave(samples)]).cpu().numpy()
    means, _ = class_means(z, labels)
    centre = means[task.seen_index.cpu().numpy()].mean(axis=0)
    real = z[: len(task.features)] - centre
    covariance = within_class_covariance(real, task.teacher_labels.cpu().numpy())
    try:
        head = LdaHead(shrunk_cholesky(covariance, START_SHRINKAGE))
    except ValueError as error:
        raise DataError(
            f"d3.classifier_init: no head can be fitted on the embeddings of the training images: {error}"
        ) from None
    weight, bias = head.rows(means - centre)
    student.classifier.weight.copy_(torch.from_numpy(weight))
    student.classifier.bias.copy_(torch.from_numpy(bias - weight @ centre.astype(np.float32)))

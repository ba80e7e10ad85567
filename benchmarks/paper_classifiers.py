"""The classifiers that benchmarks/paper.py measures, fitted on the device of the networks.

N: rows, D: scaled features, Z: embedding, C: classes, M: synthesised rows of all unseen classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.datasets.dataset import Task
from training.method.trainer import Networks
from training.metrics import auroc
from training.networks.d3gzsl import Teacher
from training.selection.fold_scores import FoldScores, HeldOut

CLASSIFIERS = ("C_s", "softmax on x", "softmax on E_s(x)", "lda on E_s(x)")
SAMPLES = 200  # of each unseen class, as the served head takes
STEPS, RATE = 200, 5e-3
SHRINKAGE = 0.5


@torch.no_grad()
def classify(networks: Networks, task: Task, held: HeldOut, *, seed: int) -> dict[str, FoldScores]:
    """Scores of held-out rows by every classifier."""
    random = torch.Generator(task.features.device).manual_seed(seed)
    unseen = task.unseen_index.repeat_interleave(SAMPLES)
    noise = torch.randn(len(unseen), networks.generator.noise_dim, generator=random, device=task.features.device)
    x = torch.cat([task.features, networks.generator(noise, task.attributes[unseen])])
    labels = torch.cat([task.labels, unseen])
    z_held, logits = networks.student(held.features)
    z, real = networks.student.embedding(x), len(task.features)
    classes = len(task.seen)
    scores = {
        "C_s": logits,
        "softmax on x": softmax(x, labels, held.features, classes),
        "softmax on E_s(x)": softmax(z, labels, z_held, classes),
        "lda on E_s(x)": lda(z, labels, z_held, classes, real=real),
    }
    seen = task.seen.cpu().numpy()
    return {
        name: FoldScores(logits=values.float().cpu().numpy(), labels=held.labels, seen=seen)
        for name, values in scores.items()
    }


@torch.enable_grad()
def softmax(rows_ND: Tensor, labels_N: Tensor, held: Tensor, classes: int) -> Tensor:
    """Scores of held-out rows by a linear softmax, every class weighing the same; Adam on all rows at once."""
    weight = torch.zeros(classes, rows_ND.shape[1], device=rows_ND.device, requires_grad=True)
    bias = torch.zeros(classes, device=rows_ND.device, requires_grad=True)
    counts = torch.bincount(labels_N, minlength=classes)
    balance = (len(labels_N) / counts.clamp(min=1)).float()
    optimiser = torch.optim.Adam([weight, bias], lr=RATE, fused=True)
    for _ in range(STEPS):
        loss = F.cross_entropy(F.linear(rows_ND, weight, bias), labels_N, weight=balance)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return F.linear(held, weight.detach(), bias.detach())


def lda(z_NZ: Tensor, labels_N: Tensor, held: Tensor, classes: int, *, real: int) -> Tensor:
    """Scores by class means and the shrunk within-class covariance of the first `real` rows (Gaussian classes)."""
    z = z_NZ.double()
    counts = torch.bincount(labels_N, minlength=classes).clamp(min=1).double()
    means = torch.zeros(classes, z.shape[1], dtype=z.dtype, device=z.device).index_add_(0, labels_N, z)
    means /= counts[:, None]
    within = z[:real] - means[labels_N[:real]]
    covariance = within.T @ within / real
    covariance *= 1 - SHRINKAGE
    covariance.diagonal().add_(SHRINKAGE * covariance.trace() / (1 - SHRINKAGE) / len(covariance))
    weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T
    return held.double() @ weight.T - 0.5 * (weight * means).sum(dim=1)


@torch.no_grad()
def teacher_results(teacher: Teacher, task: Task, held: HeldOut) -> dict[str, float]:
    """Accuracy on held-out rows of seen classes, AUROC of its score for unseen rows, and the part the score lies in."""
    _, log_probs = teacher(held.features)
    scores = log_probs.amax(dim=1).cpu().numpy()
    seen = task.seen.cpu().numpy()[held.labels]
    order = torch.full((len(task.seen),), -1, dtype=torch.int64)
    order[task.seen_index.cpu()] = torch.arange(len(task.seen_index))
    right = (log_probs.argmax(dim=1).cpu() == order[torch.from_numpy(held.labels)]).numpy()
    return {
        "accuracy_of_seen_rows": float(right[seen].mean()),
        "auroc_of_unseen_rows": auroc(-scores[~seen], -scores[seen]),
        "median_score_of_seen_rows": float(torch.from_numpy(scores[seen]).median()),
        "median_score_of_unseen_rows": float(torch.from_numpy(scores[~seen]).median()),
    }

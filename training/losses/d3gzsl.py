"""The losses of D3GZSL: in-distribution dual-space distillation (ID2SD) and batch-wise out-of-distribution (O2DBD).

Source: Wang et al., AAAI 2024. Each loss has the form we hold right (`corrected`) and the form of the authors' code
(`faithful`), which differs from the paper's framework figure in ways that bound or invert it.

B: rows, Z: embedding, S: seen classes, C: all classes of training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from training.config import LossForm

EPSILON = 1e-4
LEAST_LENGTH = 1e-8

LossAndGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, float]]
"""Cosines [B, B] and 1 for each pair that is alike, 0 for others, to the loss, and its gradient but for a factor.

Both arguments are overwritten; the factor is left to matrices that are smaller.
"""


def balanced_pairs(a_BZ: Tensor, b_BZ: Tensor, groups_B: Tensor) -> Tensor:
    """:func:`balanced_bce` of cos(a_i, b_j) over all pairs, alike where g_i = g_j; a zero row has cosine 0 with all.

    Args:
        a_BZ: differentiable once, as is `b_BZ`.
        b_BZ: same shape.
        groups_B: bool or numbers below 2^24.
    """
    loss: Tensor = _PairLoss.apply(a_BZ, b_BZ, groups_B, balanced_bce)
    return loss


def shifted_pairs(a_BZ: Tensor, b_BZ: Tensor, groups_B: Tensor) -> Tensor:
    """:func:`shifted_bce` of the same cosines and pairs as :func:`balanced_pairs`."""
    loss: Tensor = _PairLoss.apply(a_BZ, b_BZ, groups_B, shifted_bce)
    return loss


def balanced_bce(cosine: Tensor, alike: Tensor) -> tuple[Tensor, Tensor, float]:
    """Binary cross-entropy of cosines where pairs that are alike weigh as much as those that are not.

    L = mean over the halves present of mean_alike(-log s) and mean_unlike(-log(1 - s)), s clamped to eps..1-eps.

    Args:
        cosine: any shape; overwritten, as is `alike`.
        alike: same shape and dtype, 1 or 0.

    Returns:
        L, a matrix, and the number times which it is the gradient of L with respect to the cosines.
    """
    unlike = torch.sub(1, alike, out=alike)
    rest = unlike.sum()
    count = unlike.numel() - rest
    halves = (count > 0).to(count.dtype) + (rest > 0).to(count.dtype)
    weight, other_weight = 1 / (count.clamp(min=1) * halves), 1 / (rest.clamp(min=1) * halves)
    clamped = cosine.clamp(EPSILON, 1 - EPSILON)
    inside = torch.eq(cosine, clamped, out=cosine)
    chance = clamped.sub_(unlike)  # of what the pair is, s or 1 - s; negative where it is unlike
    weights = unlike.mul_(other_weight - weight).add_(weight)
    gradient = inside.mul_(weights).div_(chance)
    return -torch.dot(weights.flatten(), chance.abs_().log_().flatten()), gradient, -1.0


def shifted_bce(cosine: Tensor, alike: Tensor) -> tuple[Tensor, Tensor, float]:
    """The published pair loss: BCE-with-logits on (cosine + 1)/2, which lies in 0..1 and so can never reach 0.

    L = mean(softplus(s) - [alike] s) with s = (cosine + 1)/2.

    Args:
        cosine: any shape; overwritten, as is `alike`.
        alike: same shape and dtype, 1 or 0.

    Returns:
        L, a matrix, and the number times which it is the gradient of L with respect to the cosines.
    """
    logits = torch.add(cosine.new_full((), 0.5), cosine, alpha=0.5, out=cosine)
    of_logits = logits.sum() - torch.dot(alike.flatten(), logits.flatten())
    chance = logits.sigmoid_()
    loss = (of_logits - _sum_of_logs(chance)) / chance.numel()  # softplus(s) = s - log sigmoid(s)
    return loss, chance.sub_(alike), 0.5 / chance.numel()


def alike_pairs(groups_B: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, B]: 1 where g_i = g_j, else 0.

    Args:
        groups_B: bool or numbers that `dtype` holds exactly.
        dtype: of floats; comparing such into such is ten times as fast on a CPU as int64 into bool.
    """
    groups = groups_B.to(dtype)
    return torch.eq(groups[:, None], groups, out=groups.new_empty(len(groups), len(groups)))


def _sum_of_logs(chance: Tensor) -> Tensor:
    """Of numbers in 0.4..1: of the products of sixteen at a time, as a logarithm takes ten times as long."""
    flat, together = chance.flatten(), 16
    whole = len(flat) - len(flat) % together
    return flat[:whole].view(together, -1).prod(dim=0).log_().sum() + flat[whole:].log().sum()


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, groups: Tensor, loss_and_gradient: LossAndGradient) -> Tensor:
        left, left_length = _unit_rows(a)
        right, right_length = _unit_rows(b)
        cosine = left @ right.T
        loss, gradient, ctx.factor = loss_and_gradient(cosine, alike_pairs(groups, cosine.dtype))
        ctx.save_for_backward(left, left_length, right, right_length, gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        left, left_length, right, right_length, gradient = ctx.saved_tensors
        wanted_a, wanted_b, *_ = ctx.needs_input_grad
        factor = ctx.factor * outer
        to_a = _before_unit_rows(gradient @ right, left, factor / left_length) if wanted_a else None
        to_b = _before_unit_rows(gradient.T @ left, right, factor / right_length) if wanted_b else None
        return to_a, to_b, None, None


def _unit_rows(rows_BZ: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, or 0, and what they were divided by, [B, 1]."""
    length = torch.linalg.vector_norm(rows_BZ, dim=1, keepdim=True).clamp(min=LEAST_LENGTH)
    return rows_BZ / length, length


def _before_unit_rows(gradient_BZ: Tensor, unit_BZ: Tensor, factor_B1: Tensor) -> Tensor:
    """The gradient with respect to rows, from that with respect to the same rows u at length 1: (g - (g . u) u) factor.

    A zero row, which was divided by a constant, has u = 0.
    """
    along = (gradient_BZ * unit_BZ).sum(dim=1, keepdim=True)
    return torch.addcmul(gradient_BZ, along, unit_BZ, value=-1).mul_(factor_B1)


TERMS = 12
"""Of the series of softplus((1 + cos)/2); the first left out weighs 3e-15."""

_NODES = chebyshev.chebpts1(2 * TERMS)
_WEIGHTS = chebyshev.chebfit(_NODES, np.logaddexp(0, (1 + _NODES) / 2), 2 * TERMS - 1)[:TERMS].tolist()


def balanced_pairs_in_plane(outputs_B2: Tensor, confidence_B: Tensor, groups_B: Tensor) -> Tensor:
    """:func:`balanced_bce` of cos(softmax(o_i), [c_j, 1 - c_j]) over all pairs, alike where g_i = g_j.

    Args:
        outputs_B2: o, logits, differentiable once, as is `confidence_B`.
        confidence_B: c, in 0..1.
        groups_B: bool or numbers below 2^24.
    """
    loss: Tensor = _Balanced.apply(outputs_B2, confidence_B, groups_B)
    return loss


def shifted_pairs_in_plane(outputs_B2: Tensor, confidence_B: Tensor, groups_B: Tensor, group_count: int) -> Tensor:
    """:func:`training.losses.d3gzsl.shifted_bce` of cos(softmax(o_i), softmax([c_j, 1 - c_j])), in time linear in B.

    With softplus((1 + cos t)/2) = sum_k w_k cos(k t), a Chebyshev series, the sum over all pairs is

        sum_ij cos(k (a_i - b_j)) = (sum_i cos k a_i)(sum_j cos k b_j) + (sum_i sin k a_i)(sum_j sin k b_j)

    for every k, and what the pairs that are alike add is the same of k = 0 and 1 within each group.

    Args:
        outputs_B2: o, logits, differentiable once, as is `confidence_B`.
        confidence_B: c, in 0..1.
        groups_B: bool or int, in 0..G-1.
        group_count: G.
    """
    loss: Tensor = _Shifted.apply(outputs_B2, confidence_B, groups_B, group_count)
    return loss


class _InPlane(torch.autograd.Function):
    """A loss of outputs, confidence and more; forward keeps its gradient, by half the outputs' difference and by c."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        by_half, by_confidence = gradient * outer
        half = by_half / 2
        return torch.stack([half, -half], dim=1), by_confidence, *[None] * (len(ctx.needs_input_grad) - 2)


class _Balanced(_InPlane):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, confidence: Tensor, groups: Tensor) -> Tensor:
        angles = torch.stack([((outputs[:, 0] - outputs[:, 1]) / 2).tanh_(), 2 * confidence - 1]).atan_()
        cosines, sines = angles.cos(), angles.sin()
        left, right = torch.stack([cosines, sines], dim=1)
        cosine = left.T @ right
        loss, gradient, factor = balanced_bce(cosine, alike_pairs(groups, cosine.dtype))
        along_cosine, along_sine = torch.stack([right @ gradient.T, left @ gradient], dim=1)
        # Slopes of the angles: twice that by the difference of the outputs, and, less 1, that by c.
        slopes = (2 * angles).cos_()
        slopes[1] += 1
        ctx.save_for_backward((cosines * along_sine - sines * along_cosine) * slopes * factor)
        return loss


class _Shifted(_InPlane):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, confidence: Tensor, groups: Tensor, group_count: int) -> Tensor:
        rows, groups = len(confidence), groups.long()
        orders, phases, weights, turns = _series(confidence.dtype, confidence.device)
        differences = torch.stack([outputs[:, 0] - outputs[:, 1], 2 * confidence - 1])
        angles = differences.div_(2).tanh_().atan_()
        waves = torch.addr(phases, orders, angles.flatten()).sin_().view(2, TERMS, 2, rows)  # cos, sin x K x sides x B
        sums = waves.sum(dim=3)
        weighted = weights * sums
        by_group = waves.new_zeros(group_count, 2, 2, 2).index_add_(0, groups, waves[:, :2].permute(3, 0, 1, 2))
        alike = torch.dot(by_group[..., 0].flatten(), by_group[..., 1].flatten())
        loss = (torch.dot(weighted[..., 0].flatten(), sums[..., 1].flatten()) - alike / 2) / rows**2
        # Of k sin and k cos, what the other side's sums give as factors, less what those of the row's group give.
        others = weighted.flip(0, 2).mul_(turns)
        gradient = (others.view(2 * TERMS, 2).T[:, None] @ waves.view(2 * TERMS, 2, rows).transpose(0, 1)).squeeze(1)
        sines, cosines = by_group[:, :, 1].flip(1, 2)[groups].permute(1, 2, 0) * waves[:, 1]
        gradient.add_(cosines.sub_(sines), alpha=0.5)
        ctx.save_for_backward(gradient.mul_(waves[0, 2]).div_(rows**2))
        return loss


@functools.cache
def _series(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Orders [2K] and phases [2K, 1] of the waves, cosines first, weights [K, 1] and signed orders [2, K, 1]."""
    orders = torch.arange(TERMS, dtype=dtype, device=device)
    phases = torch.stack([torch.full_like(orders, math.pi / 2), torch.zeros_like(orders)])
    return (
        orders.repeat(2),
        phases.view(-1, 1),
        torch.tensor(_WEIGHTS, dtype=dtype, device=device)[:, None],
        torch.stack([orders, -orders])[:, :, None],
    )


def label_distillation(seen_logits_BS: Tensor, teacher_log_probs_BS: Tensor, form: LossForm) -> Tensor:
    """L_kl, label space of ID2SD: KL(p_teacher || softmax(student's seen logits)), mean over rows, at least 0.

    `faithful` soft-maxes both probability vectors once more, which bounds the loss by (e - 1)/(e + S - 1): 0.0113 for
    150 classes, and 0.0065 against a student that knows nothing.

    Args:
        seen_logits_BS: student's logits of the seen classes for real seen rows.
        teacher_log_probs_BS: teacher's log-probabilities of the same rows and columns.
        form: which form.
    """
    if form == "corrected":
        return F.kl_div(F.log_softmax(seen_logits_BS, 1), teacher_log_probs_BS, reduction="batchmean", log_target=True)
    student = F.log_softmax(F.softmax(seen_logits_BS, 1), 1)
    teacher = F.softmax(teacher_log_probs_BS.exp(), 1)
    return F.kl_div(student, teacher, reduction="batchmean")


def embedding_distillation(teacher_BZ: Tensor, student_BZ: Tensor, labels_B: Tensor, form: LossForm) -> Tensor:
    """L_be, embedding space of ID2SD: pairs (i, j) of real seen rows are alike where their labels are equal.

    s_ij = cos(E_o(x_i), E_s(x_j)), binary cross-entropy against [y_i = y_j] over all B^2 pairs.

    Args:
        teacher_BZ: E_o of the rows.
        student_BZ: E_s of the rows, same Z.
        labels_B: class of each row.
        form: which form.
    """
    pairs = balanced_pairs if form == "corrected" else shifted_pairs
    return pairs(teacher_BZ, student_BZ, labels_B)


def ood_distillation(
    logits_BC: Tensor, head: torch.nn.Module, confidence_B: Tensor, groups_B: Tensor, form: LossForm
) -> Tensor:
    """L_od of O2DBD: the student's two-way output of row i meets the teacher's [c_j, 1 - c_j] of row j.

    a_i = softmax(H(softmax(logits_i))), b_j = [c_j, 1 - c_j], s_ij = cos(a_i, b_j), binary cross-entropy against
    [g_i = g_j] over all pairs. `faithful` feeds H log-probabilities and soft-maxes b once more.

    Args:
        logits_BC: student's logits of all rows, synthetic unseen and real seen.
        head: H, C numbers to 2.
        confidence_B: c, in 0..1.
        groups_B: what makes two rows alike: class, in 0..C-1 (as in the code), or real against synthetic, bool.
        form: which form.
    """
    if form == "corrected":
        return balanced_pairs_in_plane(head(F.softmax(logits_BC, 1)), confidence_B, groups_B)
    group_count = 2 if groups_B.dtype == torch.bool else logits_BC.shape[1]
    return shifted_pairs_in_plane(head(F.log_softmax(logits_BC, 1)), confidence_B, groups_B, group_count)


def classification(logits_BC: Tensor, labels_B: Tensor, form: LossForm) -> Tensor:
    """L_cls: cross-entropy over all classes; `corrected` gives every class in the batch the same weight.

    The published batch holds 5 synthetic rows per unseen class against 256 real rows and weighs rows equally.
    """
    if form == "faithful":
        return F.cross_entropy(logits_BC, labels_B)
    counts = torch.zeros(logits_BC.shape[1], device=logits_BC.device, dtype=logits_BC.dtype)
    counts.index_add_(0, labels_B, torch.ones_like(labels_B, dtype=logits_BC.dtype))
    weight = 1 / (counts[labels_B] * (counts > 0).sum())
    rows = F.cross_entropy(logits_BC, labels_B, reduction="none")
    loss: Tensor = torch.dot(weight, rows)
    return loss

"""Losses on the cosines of all pairs of rows, with their gradients written out.

Left to autograd, such a loss would pass some twenty times over a matrix of B^2 numbers, most of that into fresh memory.
Here every pass overwrites what is no longer needed, and what backward multiplies are B x Z matrices only.

B: rows, Z: embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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

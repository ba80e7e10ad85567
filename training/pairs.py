"""Pairs of rows: the matrix of their similarities first, then losses on it, which also work out its gradient at once.

Left to autograd, either loss would pass some twenty times over a matrix of B^2 numbers, most of that into fresh memory.

B: rows, Z: embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

EPSILON = 1e-4


def cosine_matrix(a_BZ: Tensor, b_BZ: Tensor) -> Tensor:
    """Cosine of every pair of rows, [B, B']; a zero row has cosine 0 with everything."""
    # Contiguous once transposed: with Z = 2 the products of the backward pass are then five times as fast on a CPU.
    return F.normalize(a_BZ, dim=1, eps=1e-8) @ F.normalize(b_BZ, dim=1, eps=1e-8).T.contiguous()


def balanced_bce(similarity: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of similarities in 0..1 where positive and negative pairs weigh the same.

    L = mean over the halves present of mean_pos(-log s) and mean_neg(-log(1 - s)), s clamped to eps..1-eps.

    Args:
        similarity: any shape; differentiable once.
        positive: same shape, bool.
    """
    loss: Tensor = _BalancedBce.apply(similarity, positive)
    return loss


def shifted_bce_with_logits(similarity: Tensor, positive: Tensor) -> Tensor:
    """The published pair loss: BCE-with-logits on (cosine + 1)/2, which lies in 0..1 and so can never reach 0.

    L = mean(softplus(s) - [positive] s) with s = (cosine + 1)/2.

    Args:
        similarity: cosines, any shape; differentiable once.
        positive: same shape, bool.
    """
    loss: Tensor = _ShiftedBce.apply(similarity, positive)
    return loss


class _BalancedBce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, similarity: Tensor, positive: Tensor) -> Tensor:
        alike = _zeros_and_ones(positive, similarity.dtype)  # arithmetic is several times faster than torch.where
        unlike = 1 - alike
        count, rest = alike.sum(), unlike.sum()
        halves = (count > 0).to(count.dtype) + (rest > 0).to(count.dtype)
        weight, other_weight = 1 / (count.clamp(min=1) * halves), 1 / (rest.clamp(min=1) * halves)
        inside = alike - unlike
        chance = torch.addcmul(unlike, inside, similarity)  # of what the pair is: s or 1 - s
        clamped = chance.clamp(EPSILON, 1 - EPSILON)
        torch.eq(chance, clamped, out=inside)
        log = torch.log(clamped, out=chance).flatten()
        loss = -(weight * torch.dot(alike.flatten(), log) + other_weight * torch.dot(unlike.flatten(), log))
        signed = unlike.mul_(other_weight).addcmul_(alike, -weight)
        ctx.save_for_backward(signed.div_(clamped).mul_(inside))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None


class _ShiftedBce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, similarity: Tensor, positive: Tensor) -> Tensor:
        shifted = torch.add(similarity.new_full((), 0.5), similarity, alpha=0.5)
        target = _zeros_and_ones(positive, shifted.dtype)
        chance = torch.sigmoid(shifted)
        of_shifted = shifted.sum() - torch.dot(target.flatten(), shifted.flatten())
        loss = (of_shifted - torch.log(chance, out=shifted).sum()) / shifted.numel()  # softplus(s) = s - log sigmoid(s)
        ctx.save_for_backward(chance.sub_(target))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (outer / (2 * gradient.numel())), None


def _zeros_and_ones(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask.view(torch.uint8).to(dtype)  # seven times as fast on a CPU as from bool

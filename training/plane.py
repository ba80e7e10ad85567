"""The pair losses of L_od: its vectors are two chances that sum to 1, so an angle each, their cosines of differences.

[p, 1 - p] lies at the angle atan(2p - 1) from the diagonal of the plane; if p is of softmax([x, y]), at
atan(tanh((x - y)/2)). A gradient is one number per row here, and the published form needs no matrix of pairs at all.

B: rows, K: terms of the series, G: groups.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.pairs import alike_pairs, balanced_bce

TERMS = 12
"""Of the series of softplus((1 + cos)/2); the first left out weighs 3e-15."""

_NODES = chebyshev.chebpts1(2 * TERMS)
_WEIGHTS = chebyshev.chebfit(_NODES, np.logaddexp(0, (1 + _NODES) / 2), 2 * TERMS - 1)[:TERMS].tolist()


def balanced_pairs_in_plane(outputs_B2: Tensor, confidence_B: Tensor, groups_B: Tensor) -> Tensor:
    """:func:`training.pairs.balanced_bce` of cos(softmax(o_i), [c_j, 1 - c_j]) over all pairs, alike where g_i = g_j.

    Args:
        outputs_B2: o, logits, differentiable once, as is `confidence_B`.
        confidence_B: c, in 0..1.
        groups_B: bool or numbers below 2^24.
    """
    loss: Tensor = _Balanced.apply(outputs_B2, confidence_B, groups_B)
    return loss


def shifted_pairs_in_plane(outputs_B2: Tensor, confidence_B: Tensor, groups_B: Tensor, group_count: int) -> Tensor:
    """:func:`training.pairs.shifted_bce` of cos(softmax(o_i), softmax([c_j, 1 - c_j])), in time linear in B.

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

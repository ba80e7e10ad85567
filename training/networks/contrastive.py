"""The two heads of CE-GZSL's contrastive embedding (Han et al., CVPR 2021, arXiv 2103.16173): projector and comparator.

B: rows, C: classes, Z: embedding, P: projection, A: attributes, H: hidden units.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from training.networks.generator import SLOPE, init_normal

# A row shorter than this keeps its direction but not length 1, so that the gradient of a zero row stays bounded.
SHORTEST = 1e-4
# Numbers of the [chunk, rows, H] buffer: what a core's caches hold, and what keeps a GPU busy.
CPU_CHUNK, GPU_CHUNK = 1 << 20, 1 << 26
HAS_TRITON = find_spec("triton") is not None


class Projector(nn.Module):
    """Embedding to the unit sphere of the instance-level loss: z = (W h + b) / ||W h + b||."""

    def __init__(self, *, dim: int, projection: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, projection)
        init_normal(self.linear)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings [B, Z] to projections [B, P] of length 1; 0 for a row that the linear map sends to 0."""
        return F.normalize(self.linear(embeddings), dim=1, eps=SHORTEST)


class Comparator(nn.Module):
    """Compatibility F of every embedding with every class: w2 . LeakyReLU(W_h h_i + W_a a_j + b) + b2.

    The same function as a two-layer network on the concatenation [h_i, a_j], its first layer computed once per row and
    once per class instead of once per pair.
    """

    def __init__(self, *, dim: int, attribute_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_embeddings = nn.Linear(dim, hidden, bias=False)
        self.hidden_attributes = nn.Linear(attribute_dim, hidden)
        self.output = nn.Linear(hidden, 1)
        for module in (self.hidden_embeddings, self.hidden_attributes, self.output):
            init_normal(module)

    def forward(self, embeddings: Tensor, attributes: Tensor) -> Tensor:
        """Embeddings [B, Z] and the attributes of each class [C, A] to scores [B, C], any real number."""
        rows, classes = self.hidden_embeddings(embeddings), self.hidden_attributes(attributes)
        weight = self.output.weight.squeeze(0)
        return pair_scores(rows, classes, weight) + self.output.bias


def pair_scores(rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """Scores w . LeakyReLU(p_i + q_j) of every pair; neither the forward nor the backward pass ever holds [B, C, H].

    Args:
        rows: p [B, H].
        columns: q [C, H].
        weight: w [H]; the pairs are computed in its precision, also under autocast.

    Returns:
        Scores [B, C]; differentiable once.
    """
    with torch.autocast(device_type=weight.device.type, enabled=False):
        p, q = rows.to(weight.dtype), columns.to(weight.dtype)
        scores: Tensor
        if len(q) <= len(p):
            scores = _PairScores.apply(p, q, weight)
            return scores
        scores = _PairScores.apply(q, p, weight)
        return scores.T


class _PairScores(torch.autograd.Function):
    """Where there is no kernel, loops over chunks of the second, shorter operand."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(p, q, weight)
        if _has_kernels(p):
            from training.networks import triton_kernels

            return triton_kernels.pair_scores(p, q, weight, SLOPE)
        return _chunked_scores(p, q, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """With m_ij = LeakyReLU'(p_i + q_j): dp_i = w sum_j g_ij m_ij, dq_j = w sum_i g_ij m_ij.

        LeakyReLU(x) = x LeakyReLU'(x), so dw = sum_i p_i sum_j g_ij m_ij + sum_j q_j sum_i g_ij m_ij needs no pairs.
        """
        p, q, weight = ctx.saved_tensors
        if _has_kernels(p):
            from training.networks import triton_kernels

            over_q, over_p = triton_kernels.gated_sums(p, q, gradient.T), triton_kernels.gated_sums(q, p, gradient)
        else:
            over_q, over_p = _chunked_sums(p, q, gradient.T.contiguous())
        over_q = torch.add(SLOPE * gradient.sum(1)[:, None], over_q, alpha=1 - SLOPE)
        over_p = torch.add(SLOPE * gradient.sum(0)[:, None], over_p, alpha=1 - SLOPE)
        for_p, for_q, for_weight = ctx.needs_input_grad
        return (
            over_q * weight if for_p else None,
            over_p * weight if for_q else None,
            (p * over_q).sum(0) + (q * over_p).sum(0) if for_weight else None,
        )


def _has_kernels(x: Tensor) -> bool:
    """Whether pairs are computed by kernels: float32 on a GPU, where torch came with Triton, as it does on Linux."""
    return HAS_TRITON and x.is_cuda and x.dtype == torch.float32


def _chunked_scores(p_IH: Tensor, q_JH: Tensor, weight_H: Tensor) -> Tensor:
    """Scores w . LeakyReLU(p_i + q_j), [I, J]."""
    buffer = _buffer(p_IH, q_JH)
    scores = p_IH.new_empty(len(q_JH), len(p_IH))
    for start in range(0, len(q_JH), max(len(buffer), 1)):
        part = q_JH[start : start + len(buffer)]
        pairs = torch.add(p_IH, part[:, None], out=buffer[: len(part)])
        F.leaky_relu_(pairs, SLOPE)
        torch.mv(pairs.view(-1, len(weight_H)), weight_H, out=scores[start : start + len(part)].view(-1))
    return scores.T


def _chunked_sums(p_IH: Tensor, q_JH: Tensor, gradient_JI: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over columns, sum_j g_ji [p_i + q_j > 0], [I, H], and over rows, sum_i g_ji [p_i + q_j > 0], [J, H]."""
    buffer = _buffer(p_IH, q_JH)
    over_q, over_p = torch.zeros_like(p_IH), torch.empty_like(q_JH)
    minus_q = -q_JH
    for start in range(0, len(q_JH), max(len(buffer), 1)):
        part = slice(start, start + len(buffer))
        active = torch.gt(p_IH, minus_q[part, None], out=buffer[: len(minus_q[part])])
        active.mul_(gradient_JI[part, :, None])
        torch.sum(active, 1, out=over_p[part])
        over_q += active[0] if len(active) == 1 else active.sum(0)
    return over_q, over_p


def _buffer(p: Tensor, q: Tensor) -> Tensor:
    limit = CPU_CHUNK if p.device.type == "cpu" else GPU_CHUNK
    return p.new_empty(min(max(limit // max(p.numel(), 1), 1), len(q)), *p.shape)

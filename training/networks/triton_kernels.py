"""What pairs need of a GPU, each in one pass over rows and columns: the [rows, columns, H] numbers stay in registers.

I: rows, J: columns, H: hidden units.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 32  # rows and columns of a block of scores
_GATED_ROWS, _GATED_HIDDEN = 16, 64  # of a block of gated sums


def pair_scores(p_IH: Tensor, q_JH: Tensor, weight_H: Tensor, slope: float) -> Tensor:
    """s_ij = sum_h w_h LeakyReLU(p_ih + q_jh), float32 [I, J].

    Args:
        p_IH: float32 on a GPU, as are the others.
        q_JH: likewise.
        weight_H: w.
        slope: of LeakyReLU, in 0..1.
    """
    (rows, hidden), columns = p_IH.shape, len(q_JH)
    scores = p_IH.new_empty(rows, columns)
    grid = (triton.cdiv(rows, _TILE), triton.cdiv(columns, _TILE))
    if rows and columns:
        # Transposed, so that what neighbouring threads read lies side by side.
        operands = (p_IH.T.contiguous(), q_JH.T.contiguous(), weight_H.contiguous())
        _scores[grid](*operands, scores, rows, columns, hidden, slope, _TILE)
    return scores


def gated_sums(p_IH: Tensor, q_JH: Tensor, gradient_JI: Tensor) -> Tensor:
    """o_ih = sum_j g_ji [p_ih + q_jh > 0], float32 [I, H]: what backward multiplies by w, but for LeakyReLU's slope.

    Args:
        p_IH: float32 on a GPU, as are the others.
        q_JH: likewise.
        gradient_JI: g.
    """
    (rows, hidden), columns = p_IH.shape, len(q_JH)
    sums = torch.zeros_like(p_IH, memory_format=torch.contiguous_format)
    grid = (triton.cdiv(rows, _GATED_ROWS), triton.cdiv(hidden, _GATED_HIDDEN))
    if rows and columns and hidden:
        operands = (p_IH.contiguous(), q_JH.contiguous(), gradient_JI.contiguous())
        _gated[grid](*operands, sums, rows, columns, hidden, _GATED_ROWS, _GATED_HIDDEN)
    return sums


@triton.jit  # type: ignore[untyped-decorator]
def _scores(p, q, weight, out, rows, columns, hidden, slope, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for h in tl.range(0, hidden, loop_unroll_factor=4):
        of_rows = tl.load(p + h * rows + i, mask=i < rows, other=0.0)
        of_columns = tl.load(q + h * columns + j, mask=j < columns, other=0.0)
        x = of_rows[:, None] + of_columns[None, :]
        total += tl.load(weight + h) * tl.maximum(x, slope * x)
    tl.store(out + i[:, None] * columns + j[None, :], total, mask=(i < rows)[:, None] & (j < columns)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _gated(p, q, gradient, out, rows, columns, hidden, ROWS: tl.constexpr, HIDDEN: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    h = tl.program_id(1) * HIDDEN + tl.arange(0, HIDDEN)
    inside = (i < rows)[:, None] & (h < hidden)[None, :]
    of_rows = tl.load(p + i[:, None] * hidden + h[None, :], mask=inside, other=0.0)
    total = tl.zeros((ROWS, HIDDEN), dtype=tl.float32)
    for j in tl.range(0, columns, loop_unroll_factor=4):
        of_column = tl.load(q + j * hidden + h, mask=h < hidden, other=0.0)
        factor = tl.load(gradient + j * rows + i, mask=i < rows, other=0.0)
        total += tl.where(of_rows + of_column[None, :] > 0, factor[:, None], 0.0)
    tl.store(out + i[:, None] * hidden + h[None, :], total, mask=inside)

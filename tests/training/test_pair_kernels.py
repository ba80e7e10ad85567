"""The comparator's GPU kernels against plain pairs: on a GPU, and without one by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.networks import contrastive
from training.networks.generator import SLOPE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = [(1, 1, 1), (5, 3, 7), (3, 5, 2), (33, 65, 130), (40, 1, 64), (1, 40, 65)]
runs = pytest.mark.skipif(
    not (contrastive.HAS_TRITON and (INTERPRETED or DEVICE.type == "cuda")),
    reason="needs a GPU, or Triton's interpreter",
)


@pytest.mark.skipif(
    INTERPRETED or DEVICE.type == "cuda" or not contrastive.HAS_TRITON,
    reason="interpreted already, or a GPU runs them, or there is no Triton",
)
def test_interpreted() -> None:
    """This file once more in a process whose kernels are interpreted, from its start on."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(SIZES) + 2} passed, 1 skipped" in done.stdout


def plain_scores(p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    return (F.leaky_relu(p[:, None] + q, SLOPE) * weight).sum(2)


def operands(rows: int, columns: int, hidden: int) -> list[Tensor]:
    """Some pre-activations are exactly 0, where LeakyReLU has its small slope."""
    random = torch.Generator().manual_seed(rows + columns)
    p, q = (torch.randn(count, hidden, generator=random).round(decimals=1) for count in (rows, columns))
    made = [p, q, torch.randn(hidden, generator=random)]
    return [x.to(DEVICE).requires_grad_() for x in made]


@runs
@pytest.mark.parametrize(("rows", "columns", "hidden"), SIZES)
def test_scores(rows: int, columns: int, hidden: int) -> None:
    from training.networks import triton_kernels

    p, q, weight = (x.detach() for x in operands(rows, columns, hidden))
    found = triton_kernels.pair_scores(p, q, weight, SLOPE)
    torch.testing.assert_close(
        found.double(), plain_scores(p.double(), q.double(), weight.double()), atol=1e-4, rtol=1e-5
    )


@runs
@pytest.mark.parametrize(("rows", "columns", "hidden"), SIZES)
def test_every_gradient(rows: int, columns: int, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "_has_kernels", lambda _: True)
    inputs = operands(rows, columns, hidden)
    outer = torch.randn(columns, rows, generator=torch.Generator().manual_seed(1)).T.to(DEVICE)
    found = torch.autograd.grad((contrastive.pair_scores(*inputs) * outer).sum(), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    wanted = torch.autograd.grad((plain_scores(*exact) * outer.double()).sum(), exact)
    for actual, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-5)


@runs
def test_of_nothing() -> None:
    """No rows, no columns, or no hidden units."""
    from training.networks import triton_kernels

    for rows, columns, hidden in ((0, 3, 4), (3, 0, 4), (3, 2, 0)):
        p, q = (torch.ones(count, hidden, device=DEVICE) for count in (rows, columns))
        scores = triton_kernels.pair_scores(p, q, torch.ones(hidden, device=DEVICE), SLOPE)
        assert scores.shape == (rows, columns)
        assert not scores.any()
        sums = triton_kernels.gated_sums(p, q, torch.ones(columns, rows, device=DEVICE))
        assert sums.shape == (rows, hidden)
        assert not sums.any()


@runs
def test_operands_may_be_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "_has_kernels", lambda _: True)
    p, q, weight = operands(6, 4, 5)
    whole = contrastive.pair_scores(p, q, weight)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in (p, q, weight)]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(contrastive.pair_scores(*strided), whole)

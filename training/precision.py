"""Arithmetic of a training: float32, TF32 products, or bfloat16 networks with float32 losses."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Networks in bfloat16 where the precision says so; master weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def full_precision(device: torch.device) -> torch.autocast:
    """Losses and gradient penalties as their inputs are, whatever surrounds them."""
    return torch.autocast(device.type, enabled=False)


def allow_tf32(precision: Precision) -> None:
    """TF32 for float32 products on a GPU; rounds factors to 10 bits. Holds for the process."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half-precision values as float32; others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

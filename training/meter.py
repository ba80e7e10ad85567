"""Mean losses of an epoch, gathered on the device, and the first step at which one of them went wrong."""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 1e6  # of a weighted loss; beyond it a training has diverged although every number is finite


class Meter:
    """Sums of named terms without a host round trip per step: all that it counts is on the device.

    Args:
        device: of the terms.
    """

    def __init__(self, device: torch.device) -> None:
        self._step = torch.full((), -1, dtype=torch.int64, device=device)
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], Tensor] = {}
        self._bad: dict[tuple[str, ...], Tensor] = {}

    def reset(self) -> None:
        """Forget every step, in place."""
        self._step.fill_(-1)
        for names in self._sums:
            self._sums[names].zero_()
            self._counts[names].zero_()
            self._bad[names].fill_(-1)

    def begin_step(self) -> None:
        """The terms added from here on are those of the next step."""
        self._step += 1

    def add(self, terms: dict[str, Tensor]) -> None:
        """Count some terms of a step; every call with the same names is one kind of step."""
        if not terms:
            return
        names = tuple(terms)
        values = torch.stack([value.detach().float() for value in terms.values()])
        if names not in self._sums:
            self._sums[names] = torch.zeros_like(values)
            self._counts[names] = torch.zeros_like(self._step)
            self._bad[names] = torch.full_like(values, -1, dtype=torch.int64)
        self._sums[names] += values
        self._counts[names] += 1
        bad = self._bad[names]
        bad.copy_(torch.where((bad < 0) & ~(values.abs() <= LIMIT), self._step, bad))

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps that had it."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, values in self._sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + int(self._counts[names])
        return {name: value / counts[name] for name, value in sums.items() if counts[name]}

    def first_bad(self) -> tuple[int, list[str]] | None:
        """The first step with a term that is not finite or beyond `LIMIT`, and the names of such terms; or None."""
        found = [
            (step, name)
            for names, steps in self._bad.items()
            for name, step in zip(names, steps.tolist(), strict=True)
            if step >= 0
        ]
        if not found:
            return None
        first = min(step for step, _ in found)
        return first, [name for step, name in found if step == first]

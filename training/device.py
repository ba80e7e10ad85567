"""Steps that stay on the device: their arithmetic, their recording as CUDA graphs, and the mean of their losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.errors import DataError
from training.config import Compile, Precision


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


WARM_UP = 3
"""Calls that run as they are before one is recorded: moments and workspaces are there then."""


class Recorded:
    """A function that is called again and again, on a GPU recorded once and then replayed.

    The function takes nothing and gives nothing: what it reads and writes are tensors that stay where they are, and
    random numbers of one generator. Between two calls, their contents may be changed in place. It may neither read a
    tensor's value on the host nor make tensors from host values.

    Args:
        function: what is recorded; every call has the effect of calling it.
        random: where its random numbers come from, on the GPU.
    """

    def __init__(self, function: Callable[[], None], random: torch.Generator) -> None:
        self._function, self._random = function, random
        self._calls = 0
        self._stream = torch.cuda.Stream(random.device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run the function, or replay it."""
        if self._graph is None and self._calls < WARM_UP:
            self._beside()
            self._calls += 1
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._random)
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._function()
        self._graph.replay()

    def _beside(self) -> None:
        """Run on the stream that is recorded later, as a recording expects of what ran before."""
        current = torch.cuda.current_stream(self._random.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._function()
        current.wait_stream(self._stream)


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


def records(setting: Compile, device: torch.device) -> bool:
    """Whether steps are recorded as CUDA graphs: on a GPU, whose small kernels take longer to launch than to run."""
    return device.type == "cuda" and setting != "off"


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        DataError: `cuda` without a GPU, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise DataError(f"--device: expected auto, cpu or cuda, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DataError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")

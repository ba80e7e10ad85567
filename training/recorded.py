"""A training step as a CUDA graph: hundreds of small kernels are launched at once instead of one by one from Python."""

from __future__ import annotations

from collections.abc import Callable

import torch

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

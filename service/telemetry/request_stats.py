"""What is known of the request at work, for the log, the metrics and the trace; found by a context variable."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.telemetry.metrics import Metrics
    from service.telemetry.tracing import Tracing


@dataclass(eq=False)
class RequestStats:
    """Collects what happens in a request.

    Attributes:
        metrics: counts it; None outside of requests.
        tracing: shows it as spans; None where nobody asked for traces.
        images: that had a place in the queue.
        problem: end of the type of the problem it was answered with.
        stages_ms: the longest time of each stage.
    """

    metrics: Metrics | None = None
    tracing: Tracing | None = None
    images: int = 0
    problem: str | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)

    def image(self, outcome: str) -> None:
        """An image with a place is done with: `answered`, `abandoned` or the end of a problem's type."""
        self.images += 1
        if self.metrics is not None:
            self.metrics.image(outcome)

    def embedded(self, *, decode_ms: float, queue_ms: float, inference_ms: float) -> None:
        """An image has this moment come from the model."""
        self._stages(decode=decode_ms, queue=queue_ms, inference=inference_ms)
        if self.metrics is not None:
            self.metrics.embedded(decode_ms=decode_ms, queue_ms=queue_ms)

    def ranked(self, ms: float) -> None:
        """The classes have this moment been ranked."""
        self._stages(head=ms)
        if self.metrics is not None:
            self.metrics.head(ms)

    def _stages(self, **durations_ms: float) -> None:
        """Stages one behind the other, the last of which ends now."""
        end = time.time_ns()
        for name, ms in reversed(durations_ms.items()):
            self.stages_ms[name] = max(ms, self.stages_ms.get(name, 0.0))
            start = end - round(1e6 * ms)
            if self.tracing is not None:
                self.tracing.stage(name, start, end)
            end = start


CURRENT: ContextVar[RequestStats | None] = ContextVar("request_stats", default=None)


def current_stats() -> RequestStats:
    """The numbers of the request at work; outside of requests some that nobody sees."""
    return CURRENT.get() or RequestStats()

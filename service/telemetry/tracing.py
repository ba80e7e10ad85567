"""OpenTelemetry traces: a span per request and one per stage in it, sent by OTLP over HTTP where a setting says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from model import __version__
from model.errors import MissingDependencyError
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Tracing:
    """Makes spans and sends them from a thread of its own.

    Args:
        exporter: takes the finished spans; an `opentelemetry.sdk.trace.export.SpanExporter`.
        share: of the requests that bring no decision with them, 0..1.

    Raises:
        MissingDependencyError: the OpenTelemetry SDK is not installed.
    """

    def __init__(self, exporter: Any, *, share: float = 1.0) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError:
            raise _missing() from None
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "d3gzsl", "service.version": __version__}),
            sampler=ParentBased(TraceIdRatioBased(share)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("d3gzsl", __version__)

    @classmethod
    def from_settings(cls, settings: Settings) -> Tracing | None:
        """What the settings ask for; None where they ask for no traces.

        Raises:
            MissingDependencyError: the extra `tracing` is not installed.
        """
        if settings.traces_url is None:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            raise _missing() from None
        return cls(OTLPSpanExporter(endpoint=settings.traces_url), share=settings.trace_share)

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request while the block runs, within the caller's trace where its headers name one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        outer = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span("request", context=outer, kind=SpanKind.SERVER) as span:
            yield span

    def stage(self, name: str, start: int, end: int) -> None:
        """A span within the request's; times in nanoseconds since 1970."""
        self._tracer.start_span(name, start_time=start).end(end)

    def close(self) -> None:
        """Send what is left; waits for it."""
        self._provider.shutdown()


def _missing() -> MissingDependencyError:
    return MissingDependencyError("traces need OpenTelemetry", "tracing")

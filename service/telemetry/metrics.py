"""What Prometheus is told: counters and histograms of requests, images and batches, and gauges read at each scrape.

Where several processes share the port, `PROMETHEUS_MULTIPROC_DIR` names a directory in which each keeps its
numbers, and whichever is asked answers for all of them.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from model import __version__
from service.errors import NotReadyError

if TYPE_CHECKING:
    from service.service import Service

SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STATM = Path("/proc/self/statm")
"""Sizes of this process in pages: all, resident, ..."""
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The numbers of one process.

    Args:
        service: its gauges are read at each scrape.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self._dropped_before = self._restarts_before = 0
        self.shared = bool(os.environ.get(SHARED_DIRECTORY))
        """Whether other processes show the numbers of this one."""
        self._requests = self._counter("requests", "Requests answered.", ("route", "method", "status"))
        self._request_seconds = self._histogram(
            "request_duration_seconds", "From a request's headers to its whole answer.", _REQUEST, ("route", "method")
        )
        self._rejected = self._counter("rejected_requests", "Requests answered with a problem, by type.", ("reason",))
        self._images = self._counter("images", "Images that had a place in the queue, by outcome.", ("outcome",))
        self._dropped = self._counter("dropped_images", "Images given up before the model saw them.")
        self._restarts = self._counter("model_restarts", "How often the model's worker began again.")
        self._decode_seconds = self._histogram(
            "decode_seconds", "Decoding and preprocessing of an image, with the wait for a thread.", _STAGE
        )
        self._queue_seconds = self._histogram("queue_wait_seconds", "Wait of a decoded image for the model.", _STAGE)
        self._inference_seconds = self._histogram("inference_seconds", "The model's time for a batch.", _STAGE)
        self._batch_images = self._histogram("batch_size_images", "Images in a batch.", _IMAGES)
        self._head_seconds = self._histogram("head_seconds", "Ranking of the classes for a request.", _STAGE)
        self._queue_depth = self._gauge("queue_depth_images", "Decoded images that wait for the model.", "livesum")
        self._admitted = self._gauge("admitted_images", "Images with a place, not yet answered.", "livesum")
        self._version = self._gauge("registry_version", "Version of the class table; the lowest of all.", "livemin")
        self._lag = self._gauge("registry_lag_seconds", "Since the registry was last read; the longest.", "livemax")
        self._classes = self._gauge("classes", "Classes in the table, by kind.", "livemin", ("kind",))
        self._ready = self._gauge("ready", "1 where images are answered, by every process.", "livemin")
        self._memory = self._gauge("resident_memory_bytes", "Memory that is held, of all processes.", "livesum")
        manifest = service.bundle.manifest
        self._info("build_info", "What runs here.", version=__version__, python=platform.python_version())
        self._info(
            "model_info",
            "The bundle.",
            bundle=manifest.bundle_id,
            head=manifest.head.kind,
            backbone=manifest.backbone.name,
            provider=service.settings.provider,
            precision=service.precision,
        )

    def request(self, *, route: str, method: str, status: int, seconds: float, problem: str | None) -> None:
        """Count a request that is over; `route` is the path's template and never the path."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(seconds)
        if problem is not None:
            self._rejected.labels(problem).inc()

    def image(self, outcome: str) -> None:
        """Count an image that had a place."""
        self._images.labels(outcome).inc()

    def embedded(self, *, decode_ms: float, queue_ms: float) -> None:
        """Count the stages of an image behind the model."""
        self._decode_seconds.observe(decode_ms / 1000)
        self._queue_seconds.observe(queue_ms / 1000)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch that the model has done."""
        self._batch_images.observe(images)
        self._inference_seconds.observe(seconds)

    def head(self, ms: float) -> None:
        """Count a ranking."""
        self._head_seconds.observe(ms / 1000)

    def refresh(self) -> None:
        """Read what is not counted as it happens; where processes share, each has to do this now and then."""
        service = self._service
        batcher, snapshot = service.batcher, service.snapshot
        dropped, restarts = batcher.dropped, batcher.restarts
        self._dropped.inc(dropped - self._dropped_before)
        self._restarts.inc(restarts - self._restarts_before)
        self._dropped_before, self._restarts_before = dropped, restarts
        self._queue_depth.set(batcher.waiting)
        self._admitted.set(batcher.admission.admitted)
        self._version.set(snapshot.registry_version)
        self._lag.set(service.follower.lag)
        self._memory.set(resident_memory())
        seen = int(snapshot.seen.sum())
        self._classes.labels("seen").set(seen)
        self._classes.labels("unseen").set(len(snapshot) - seen)
        try:
            service.check_ready()
            self._ready.set(1)
        except NotReadyError:
            self._ready.set(0)

    def render(self) -> bytes:
        """Everything in Prometheus's text format, of all processes where they share."""
        self.refresh()
        if not self.shared:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)

    def _counter(self, name: str, words: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"d3gzsl_{name}", words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(f"d3gzsl_{name}", words, labels, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, words: str, mode: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"d3gzsl_{name}", words, labels, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _info(self, name: str, words: str, **labels: str) -> None:
        self._gauge(name, words, "livemax", tuple(labels)).labels(**labels).set(1)


def resident_memory() -> float:
    """Bytes of memory that this process holds; not a number where the system has no ``/proc`` to tell."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        return math.nan
    return float(pages * os.sysconf("SC_PAGE_SIZE"))

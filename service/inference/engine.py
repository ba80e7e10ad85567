"""The two graphs of a bundle in ONNX Runtime, checked against its manifest.

N: images or samples, S: input side, D: features, Z: embedding, K: noise, A: attributes.
"""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from model.bundle import Bundle
from model.head import Float32
from service.inference.graph import Graph, encoder_graph, graphs_of
from service.inference.sessions import Provider, SessionConfig
from service.inference.trial import try_graphs


@dataclass(frozen=True)
class TrunkOutput:
    """What the trunk makes of N images: embedding float32 [N, Z] and teacher_score float32 [N]."""

    embedding: Float32
    teacher_score: Float32


class Engine(Protocol):
    """Runs the networks; a fake one stands in for it in tests."""

    def embed(self, images: Float32) -> TrunkOutput:
        """Embed network inputs, float32 [N, 3, S, S]; safe to call from one thread at a time."""
        ...

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        """Embeddings [N, Z] from noise [N, K] and normalised attributes [N, A]; beside `embed`, in another thread."""
        ...


class OnnxEngine:
    """The bundle's graphs on ONNX Runtime, tried in a process of their own before they are loaded in this one.

    The synthesizer always runs on the CPU: it is small, and a class gets the same row whatever the trunk runs on.

    Args:
        bundle: verified bundle.
        threads: threads each graph may use.
        provider: what runs the trunk.
        batch_size: most images that will be embedded at once.
        cache_dir: where TensorRT keeps what it builds.

    Raises:
        BundleError: a graph is not allowed, does not load, takes too much memory or time, or its inputs and outputs are
            not what the manifest promises.
        SettingsError: the provider is not there.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        provider: Provider = "cpu",
        batch_size: int = 16,
        cache_dir: Path | None = None,
    ) -> None:
        self._runtime = SessionConfig(threads=threads, provider=provider, batch_size=batch_size, cache_dir=cache_dir)
        trunk, synthesizer = graphs_of(bundle)
        encoder = encoder_graph(bundle)
        try_graphs(trunk, synthesizer, *([encoder] if encoder else []))
        self._row = trunk.inputs["image"]
        self._trunk = Graph(trunk, self._runtime)
        self._synthesizer = Graph(synthesizer, SessionConfig(threads=threads))

    def embed(self, images: Float32) -> TrunkOutput:
        """See :class:`Engine`."""
        if self._runtime.provider == "cpu":
            return self._embed(images)
        most = self._runtime.batch_size
        parts = [self._embed_padded(images[start : start + most]) for start in range(0, len(images), most)]
        return TrunkOutput(
            np.concatenate([part.embedding for part in parts]), np.concatenate([part.teacher_score for part in parts])
        )

    def warm_up(self) -> None:
        """Run every bucket once, so that no image pays for the memory and the kernels that a first batch needs."""
        for rows in self._runtime.buckets:
            self._embed(np.zeros((rows, *self._row), dtype=np.float32))

    def _embed_padded(self, images: Float32) -> TrunkOutput:
        rows = next(bucket for bucket in self._runtime.buckets if bucket >= len(images))
        padded = np.zeros((rows, *self._row), dtype=np.float32)
        padded[: len(images)] = images
        embedded = self._embed(padded)
        return TrunkOutput(embedded.embedding[: len(images)], embedded.teacher_score[: len(images)])

    def _embed(self, images: Float32) -> TrunkOutput:
        embedding, score = self._trunk.run({"image": images}, ("embedding", "teacher_score"))
        return TrunkOutput(embedding, score)

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        """See :class:`Engine`."""
        return self._synthesizer.run({"noise": noise, "attributes": attributes}, ("embedding",))[0]


def release_freed_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    ONNX Runtime reads a graph, copies its weights and packs them for its kernels. What it has freed
    on the way would stay with the process: 200 MB for a ResNet-101.
    """
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Return what the heap holds free to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""The graphs of a bundle in ONNX Runtime, checked against its manifest.

N: images or samples, S: input side, D: features, Z: embedding, K: noise, A: attributes.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from model.bundle import Bundle, BundleFiles, Precision
from model.head import Float32
from service.errors import SettingsError
from service.inference.graph import Graph, GraphFile, encoder_graph, synthesizer_graph, trunk_graph
from service.inference.sessions import PrecisionChoice, Provider, SessionConfig
from service.inference.trial import try_graphs

_TRIAL_SECONDS, _TRIAL_ROUNDS = 1.0, 5
_WORTH = 1.1
"""How many times as fast int8 must be to be chosen: less is not worth answers that are less exact."""


@dataclass(frozen=True)
class TrunkOutput:
    """What the trunk makes of N images: embedding float32 [N, Z] and teacher_score float32 [N]."""

    embedding: Float32
    teacher_score: Float32


class Engine(Protocol):
    """Runs the networks; a fake one stands in for it in tests."""

    @property
    def precision(self) -> Precision:
        """The arithmetic of the trunk that embeds images."""
        ...

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
        precision: which trunk runs; where it is `auto` and the bundle has two, both are loaded, the faster one is found
            within about a second, and the other one is let go. A GPU takes the one in float32.

    Raises:
        BundleError: a graph is not allowed, does not load, takes too much memory or time, or its inputs and outputs are
            not what the manifest promises.
        SettingsError: the provider is not there, or the bundle has no trunk in that precision, or not for a GPU.
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
        precision: PrecisionChoice = "auto",
    ) -> None:
        self._runtime = SessionConfig(threads=threads, provider=provider, batch_size=batch_size, cache_dir=cache_dir)
        files = {which: trunk_graph(bundle, which) for which in eligible_trunks(bundle, precision, provider)}
        try_graphs(*served_graphs(bundle, precision, provider))
        trunks = {which: Graph(file, self._runtime) for which, file in files.items()}
        self._row = next(iter(files.values())).inputs["image"]
        self._precision: Precision = _faster(trunks, self._row) if len(trunks) > 1 else next(iter(trunks))
        self._trunk = trunks[self._precision]
        self._synthesizer = Graph(synthesizer_graph(bundle), SessionConfig(threads=threads))

    @property
    def precision(self) -> Precision:
        """See :class:`Engine`."""
        return self._precision

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
        """Run a GPU's buckets once, so that no image pays for the kernels that a first batch needs.

        On a CPU the rows that prove the trunk have done so; the memory of a first full batch costs it some hundredths.
        """
        for rows in self._runtime.buckets if self._runtime.provider != "cpu" else ():
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


class ExactTrunk:
    """The bundle's first trunk, for example photos where the other one runs; loaded when the first photos come.

    Errors of int8 are alike in photos and in what is compared with them, so rows made of both would count them twice.

    Args:
        bundle: verified bundle.
        threads: that it may use.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        self._bundle, self._runtime = bundle, SessionConfig(threads=threads)
        self._trunk: Graph | None = None

    def embed(self, images: Float32) -> Float32:
        """Embeddings [N, Z] of network inputs, float32 [N, 3, S, S]; from one thread at a time.

        Raises:
            BundleError: the graph does not load, or does not run.
        """
        if self._trunk is None:
            file = trunk_graph(self._bundle, self._bundle.precisions[0])
            try_graphs(file)
            self._trunk = Graph(file, self._runtime)
        size = self._runtime.batch_size
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate([self._trunk.run({"image": part}, ("embedding",))[0] for part in parts])


def served_graphs(
    bundle: BundleFiles, precision: PrecisionChoice = "auto", provider: Provider = "cpu"
) -> tuple[GraphFile, ...]:
    """The graphs that an engine of a bundle loads; SettingsError as :func:`eligible_trunks`."""
    trunks = [trunk_graph(bundle, which) for which in eligible_trunks(bundle, precision, provider)]
    encoder = encoder_graph(bundle)
    return (*trunks, synthesizer_graph(bundle), *([encoder] if encoder else []))


def eligible_trunks(bundle: BundleFiles, asked: PrecisionChoice, provider: Provider = "cpu") -> tuple[Precision, ...]:
    """The trunks among which the faster one is taken; SettingsError where the bundle has none, or not for a GPU."""
    there = bundle.precisions
    if asked == "auto":
        return there if provider == "cpu" else there[:1]
    if asked not in there:
        raise SettingsError(f"precision {asked}: the bundle has a trunk in {' and '.join(there)} only")
    if asked != there[0] and provider != "cpu":
        raise SettingsError(f"precision {asked}: the trunk in int8 is made for CPUs; provider {provider} takes fp32")
    return (asked,)


def _faster(
    trunks: Mapping[Precision, Graph], row: tuple[int, ...], *, clock: Callable[[], float] = time.perf_counter
) -> Precision:
    """The precision whose trunk takes least time for an image, float32 where int8 gains less than a tenth.

    They take turns, and the least time of each counts, so that other work on the machine decides nothing.
    """
    image, began = np.zeros((1, *row), dtype=np.float32), clock()
    least = dict.fromkeys(trunks, float("inf"))
    for done in range(1, _TRIAL_ROUNDS + 1):
        for which, trunk in trunks.items():
            before = clock()
            trunk.run({"image": image}, ("embedding", "teacher_score"))
            least[which] = min(least[which], clock() - before)
        if (clock() - began) * (done + 1) / done > _TRIAL_SECONDS:
            break
    return "int8" if least["fp32"] >= _WORTH * least["int8"] else "fp32"


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

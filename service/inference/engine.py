"""The graphs of a bundle in ONNX Runtime, checked against its manifest.

N: images or samples, S: input side, D: features, Z: embedding, K: noise, A: attributes.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Protocol

import numpy as np

from model.bundle import Bundle, BundleFiles, Precision
from model.head import Float32
from service.errors import SettingsError
from service.inference.graph import Graph, GraphFile, encoder_graph, synthesizer_graph, trunk_graph
from service.inference.sessions import PrecisionChoice, Provider, SessionConfig
from service.inference.trial import try_graphs

log = logging.getLogger(__name__)

_TRIAL_SECONDS, _TRIAL_ROUNDS = 1.0, 5
_ROOM = 2
"""Times the size of a graph's file for what ONNX Runtime makes of it."""
_LEAST_SHARE = 4
"""Images in a part of the largest batch: convolutions over fewer take longer for each."""
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


class Parts(Protocol):
    """The trunk once more, for several batches at once, each on CPUs of its own."""

    @property
    def count(self) -> int:
        """How many at once."""
        ...

    def embed(self, images: Float32) -> TrunkOutput:
        """Embed network inputs, float32 [N, 3, S, S]; safe to call from as many threads at once as there are parts."""
        ...


@dataclass(frozen=True)
class TrunkParts:
    """See :class:`Parts`; for CPUs."""

    count: int
    _trunk: Graph

    def embed(self, images: Float32) -> TrunkOutput:
        """See :class:`Parts`."""
        return _run(self._trunk, images)


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
        parts: batches at once; see :func:`number_of_parts`.

    Attributes:
        parts: what runs several batches at once; None where that is one, or where the temporary directory has no room
            for the weights, which the log says.

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
        parts: int = 1,
    ) -> None:
        self.parts: TrunkParts | None = None
        self._runtime = SessionConfig(threads=threads, provider=provider, batch_size=batch_size, cache_dir=cache_dir)
        files = {which: trunk_graph(bundle, which) for which in eligible_trunks(bundle, precision, provider)}
        try_graphs(*served_graphs(bundle, precision, provider))
        self._row = next(iter(files.values())).inputs["image"]
        with _folder(files.values()) if parts > 1 else nullcontext() as folder:
            optimised = {which: None if folder is None else folder / f"{which}.onnx" for which in files}
            trunks = {which: Graph(file, self._runtime, optimised=optimised[which]) for which, file in files.items()}
            self._precision: Precision = _faster(trunks, self._row) if len(trunks) > 1 else next(iter(trunks))
            self._trunk = trunks.pop(self._precision)
            if (there := optimised[self._precision]) is not None:
                self._trunk = self._trunk.again(there, self._runtime)
                share = SessionConfig(threads=threads // parts)
                self.parts = TrunkParts(parts, self._trunk.again(there, share))
        self._synthesizer = Graph(synthesizer_graph(bundle), SessionConfig(threads=threads))

    @property
    def precision(self) -> Precision:
        """See :class:`Engine`."""
        return self._precision

    def embed(self, images: Float32) -> TrunkOutput:
        """See :class:`Engine`."""
        if self._runtime.provider == "cpu":
            return _run(self._trunk, images)
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
            _run(self._trunk, np.zeros((rows, *self._row), dtype=np.float32))

    def _embed_padded(self, images: Float32) -> TrunkOutput:
        rows = next(bucket for bucket in self._runtime.buckets if bucket >= len(images))
        padded = np.zeros((rows, *self._row), dtype=np.float32)
        padded[: len(images)] = images
        embedded = _run(self._trunk, padded)
        return TrunkOutput(embedded.embedding[: len(images)], embedded.teacher_score[: len(images)])

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


def number_of_parts(asked: int | Literal["auto"], *, threads: int, batch_size: int, provider: Provider) -> int:
    """How many batches at once: what is asked for, or parts of four images, or less to divide the threads.

    A GPU has one.
    """
    if provider != "cpu":
        return 1
    most = batch_size // _LEAST_SHARE if asked == "auto" else min(asked, batch_size)
    return next((count for count in range(min(most, threads), 0, -1) if threads % count == 0), 1)


def _run(trunk: Graph, images: Float32) -> TrunkOutput:
    embedding, score = trunk.run({"image": images}, ("embedding", "teacher_score"))
    return TrunkOutput(embedding, score)


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


@contextmanager
def _folder(files: Iterable[GraphFile]) -> Iterator[Path | None]:
    """A directory for optimised graphs, which may go once sessions have them; None where there is no room for them.

    A file that could not be written in full would end the process when its missing pages are read.
    """
    needed = _ROOM * sum(file.file.stat().st_size for file in files)
    with ExitStack() as stack:
        folder: Path | None = None
        try:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="d3gzsl-", ignore_cleanup_errors=True)))
            free = shutil.disk_usage(folder).free
        except OSError as error:
            why, folder = f"no temporary directory can be used ({error})", None
        else:
            why = f"{folder.parent} has {free // 10**6} MB free, and the weights need {needed // 10**6} for a moment"
        if folder is None or free < needed:
            log.warning("the model runs on one batch at a time: %s; TMPDIR may name another place", why)
            folder = None
        yield folder


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

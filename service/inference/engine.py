"""The two graphs of a bundle in ONNX Runtime, checked against its manifest.

N: images or samples, S: input side, D: features, Z: embedding, K: noise, A: attributes.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from model.bundle import Bundle
from model.errors import BundleError
from model.head import Float32
from service.inference.sessions import Provider, SessionConfig, first_line, open_session

Shapes = dict[str, tuple[int, ...]]
"""Names of inputs or outputs with their shapes behind the batch axis."""


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
    """The bundle's graphs on ONNX Runtime; two rows through each prove that they run before anything is served.

    The synthesizer always runs on the CPU: it is small, and a class gets the same row whatever the trunk runs on.

    Args:
        bundle: verified bundle.
        threads: threads each graph may use.
        provider: what runs the trunk.
        batch_size: most images that will be embedded at once.
        cache_dir: where TensorRT keeps what it builds.

    Raises:
        BundleError: a graph does not load, or its inputs and outputs are not what the manifest promises.
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
        manifest = bundle.manifest
        size, dimension = manifest.preprocess.size, manifest.head.dimension
        noise, attributes = manifest.head.noise_dimension, len(manifest.vocabulary)
        self._row = (3, size, size)
        self._trunk = Graph(
            bundle.trunk,
            self._runtime,
            inputs={"image": self._row},
            outputs={
                "embedding": (dimension,),
                "teacher_score": (),
                "features": (manifest.backbone.feature_dim,),
            },
        )
        self._synthesizer = Graph(
            bundle.synthesizer,
            SessionConfig(threads=threads),
            inputs={"noise": (noise,), "attributes": (attributes,)},
            outputs={"embedding": (dimension,)},
        )

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


class Graph:
    """One ONNX file in a session, with the shapes it must have.

    Args:
        file: the ONNX file.
        runtime: where it runs.
        inputs: shapes behind the batch axis, which must be free.
        outputs: likewise.

    Raises:
        BundleError: names the file, what was expected and what is there.
        SettingsError: the provider is not there.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, file: Path, runtime: SessionConfig, *, inputs: Shapes, outputs: Shapes) -> None:
        self._file = file
        self._session = open_session(file, runtime, row=inputs)
        for what, nodes, expected in (
            ("inputs", self._session.get_inputs(), inputs),
            ("outputs", self._session.get_outputs(), outputs),
        ):
            self._check_nodes(what, nodes, expected)
        zeros = {name: np.zeros((2, *shape), dtype=np.float32) for name, shape in inputs.items()}
        for (name, shape), result in zip(outputs.items(), self.run(zeros, tuple(outputs)), strict=True):
            if result.shape != (2, *shape):
                raise BundleError(f"{file}: output {name!r} gave {result.shape} for two rows, expected {(2, *shape)}")

    def run(self, inputs: dict[str, Float32], outputs: Sequence[str]) -> list[Float32]:
        """Run the graph; BundleError where ONNX Runtime refuses."""
        try:
            results: list[Float32] = self._session.run(list(outputs), inputs)
        except Exception as error:  # ONNX Runtime has one exception class per status and no common base but this
            raise BundleError(f"{self._file}: does not run: {first_line(error)}") from error
        return results

    def _check_nodes(self, what: str, nodes: Sequence[Any], expected: Shapes) -> None:
        if sorted(node.name for node in nodes) != sorted(expected):
            raise BundleError(
                f"{self._file}: {what} are {', '.join(n.name for n in nodes)}; expected {', '.join(expected)}"
            )
        for node in nodes:
            shape = expected[node.name]
            wanted = f"float32 [{', '.join(['N', *map(str, shape)])}]"
            sizes = list(node.shape)
            fits = (
                len(sizes) == len(shape) + 1
                and not isinstance(sizes[0], int)  # a fixed batch axis would refuse every other number of rows
                and all(not isinstance(got, int) or got == want for got, want in zip(sizes[1:], shape, strict=True))
            )
            if node.type != "tensor(float)" or not fits:
                raise BundleError(f"{self._file}: {node.name!r} is {node.type} {sizes}; expected {wanted}")


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

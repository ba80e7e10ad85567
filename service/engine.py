"""The two graphs of a bundle in ONNX Runtime, checked against its manifest.

N: images or samples, S: input side, D: features, Z: embedding, K: noise, A: attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from model.bundle import Bundle
from model.errors import BundleError, MissingDependencyError
from model.head import Float32

Shapes = dict[str, tuple[int, ...]]
"""Names of inputs or outputs with their shapes behind the batch axis."""

_QUIET = 4  # ONNX Runtime's "fatal": its own lines on standard error repeat what the exception says


@dataclass(frozen=True)
class Embedded:
    """What the trunk makes of N images: embedding float32 [N, Z] and teacher_score float32 [N]."""

    embedding: Float32
    teacher_score: Float32


class Engine(Protocol):
    """Runs the networks; a fake one stands in for it in tests."""

    def embed(self, images: Float32) -> Embedded:
        """Embed network inputs, float32 [N, 3, S, S]; safe to call from one thread at a time."""
        ...

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        """Embeddings [N, Z] from noise [N, K] and normalised attributes [N, A]; beside `embed`, in another thread."""
        ...


class OnnxEngine:
    """The bundle's graphs on ONNX Runtime; one image through each proves that they run before anything is served.

    Args:
        bundle: verified bundle.
        threads: threads each graph may use.

    Raises:
        BundleError: a graph does not load, or its inputs and outputs are not what the manifest promises.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        manifest = bundle.manifest
        size, dimension = manifest.preprocess.size, manifest.head.dimension
        noise, attributes = manifest.head.noise_dimension, len(manifest.vocabulary)
        self._trunk = Graph(
            bundle.trunk,
            threads=threads,
            inputs={"image": (3, size, size)},
            outputs={
                "embedding": (dimension,),
                "teacher_score": (),
                "features": (manifest.backbone.feature_dim,),
            },
        )
        self._synthesizer = Graph(
            bundle.synthesizer,
            threads=threads,
            inputs={"noise": (noise,), "attributes": (attributes,)},
            outputs={"embedding": (dimension,)},
        )

    def embed(self, images: Float32) -> Embedded:
        """See :class:`Engine`."""
        embedding, score = self._trunk.run({"image": images}, ("embedding", "teacher_score"))
        return Embedded(embedding, score)

    def synthesize(self, noise: Float32, attributes: Float32) -> Float32:
        """See :class:`Engine`."""
        return self._synthesizer.run({"noise": noise, "attributes": attributes}, ("embedding",))[0]


class Graph:
    """One ONNX file in a session, with the shapes it must have.

    Args:
        file: the ONNX file.
        threads: threads it may use.
        inputs: shapes behind the batch axis, which must be free.
        outputs: likewise.

    Raises:
        BundleError: names the file, what was expected and what is there.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, file: Path, *, threads: int, inputs: Shapes, outputs: Shapes) -> None:
        self._file = file
        self._session = _session(file, threads)
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
            raise BundleError(f"{self._file}: does not run: {_first_line(error)}") from error
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


def _session(file: Path, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingDependencyError(
            "ONNX Runtime is not installed; install d3gzsl with the extra `cpu` or `gpu`"
        ) from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    # Idle threads must not spin: they would take the CPUs from decoding the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(file), sess_options=options, providers=_providers(ort))
    except Exception as error:
        raise BundleError(f"{file}: cannot be loaded: {_first_line(error)}") from error


def _providers(ort: Any) -> list[Any]:
    """The CPU, before it a GPU where the installed runtime has one; exhaustive search would stall each new shape."""
    gpu = [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})]
    return [*(gpu if "CUDAExecutionProvider" in ort.get_available_providers() else []), "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

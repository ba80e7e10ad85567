"""One graph of a bundle in ONNX Runtime, held against what the manifest promises of it.

N: images, samples or sentences, S: input side, D: features, Z: embedding, K: noise, A: attributes, L: tokens,
T: text vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle import TEXT_ENCODER, TOKENIZER, BundleFiles, Precision
from model.errors import BundleError
from model.head import Float32
from service.inference.sessions import SessionConfig, first_line, open_session

Shapes = dict[str, tuple[int, ...]]
"""Names of inputs or outputs with their shapes behind the batch axis."""


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """An ONNX file and what it must take and give.

    Attributes:
        file: the ONNX file.
        sha256: its hash by the manifest; with that of the tokenizer where there is one.
        inputs: shapes behind the batch axis, which must be free; float32, or int64 where there is a tokenizer.
        outputs: likewise, float32.
        tokenizer: the file that makes the inputs from texts.
    """

    file: Path
    sha256: str
    inputs: Shapes
    outputs: Shapes
    tokenizer: Path | None = None


def encoder_graph(bundle: BundleFiles) -> GraphFile | None:
    """Text encoder of a bundle; None where it has none."""
    spec, files = bundle.manifest.text_encoder, bundle.manifest.files
    if spec is None:
        return None
    return GraphFile(
        file=bundle.path / TEXT_ENCODER,
        sha256=f"{files[TEXT_ENCODER]} {files[TOKENIZER]}",
        inputs={"input_ids": (spec.max_tokens,)},
        outputs={"token_embeddings": (spec.max_tokens, spec.dimension)},
        tokenizer=bundle.path / TOKENIZER,
    )


def trunk_graph(bundle: BundleFiles, precision: Precision) -> GraphFile:
    """A trunk of a bundle, which has it in that precision."""
    manifest, file = bundle.manifest, bundle.trunk_of(precision)
    size, dimension = manifest.preprocess.size, manifest.head.dimension
    return GraphFile(
        file=file,
        sha256=manifest.files[file.name],
        inputs={"image": (3, size, size)},
        outputs={"embedding": (dimension,), "teacher_score": (), "features": (manifest.backbone.feature_dim,)},
    )


def synthesizer_graph(bundle: BundleFiles) -> GraphFile:
    """Synthesizer of a bundle."""
    manifest = bundle.manifest
    return GraphFile(
        file=bundle.synthesizer,
        sha256=manifest.files[bundle.synthesizer.name],
        inputs={"noise": (manifest.head.noise_dimension,), "attributes": (manifest.vocabulary.dimension,)},
        outputs={"embedding": (manifest.head.dimension,)},
    )


class Graph:
    """One ONNX file in a session, with the shapes it must have; two rows through it prove that it runs.

    Args:
        promised: the file and its shapes.
        runtime: where it runs.
        optimised: where to leave what :meth:`again` reads, which needs about as much room as the file.

    Raises:
        BundleError: names the file, what was expected and what is there.
        SettingsError: the provider is not there.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, promised: GraphFile, runtime: SessionConfig, *, optimised: Path | None = None) -> None:
        file, inputs, outputs = promised.file, promised.inputs, promised.outputs
        self._file, self._row = file, inputs
        self._kind = "float" if promised.tokenizer is None else "int64"
        self._session = open_session(file, runtime, row=inputs, optimised=optimised)
        for what, nodes, expected in (
            ("inputs", self._session.get_inputs(), inputs),
            ("outputs", self._session.get_outputs(), outputs),
        ):
            self._check_nodes(what, nodes, expected)
        kind = np.float32 if promised.tokenizer is None else np.int64
        zeros = {name: np.zeros((2, *shape), dtype=kind) for name, shape in inputs.items()}
        for (name, shape), result in zip(outputs.items(), self.run(zeros, tuple(outputs)), strict=True):
            if result.shape != (2, *shape):
                raise BundleError(f"{file}: output {name!r} gave {result.shape} for two rows, expected {(2, *shape)}")
            if not np.isfinite(result).all():
                raise BundleError(f"{file}: output {name!r} of zeros holds numbers that are not finite")

    def again(self, optimised: Path, runtime: SessionConfig) -> Graph:
        """The same graph in another session, from what the first one wrote to `optimised`; it needs no proof."""
        other = copy(self)
        other._session = open_session(optimised, runtime, row=self._row, as_it_is=True)
        return other

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[Float32]:
        """Run the graph; BundleError where ONNX Runtime refuses."""
        try:
            results: list[Float32] = self._session.run(list(outputs), dict(inputs))
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
            kind = self._kind if what == "inputs" else "float"
            wanted = f"{kind.replace('float', 'float32')} [{', '.join(['N', *map(str, shape)])}]"
            sizes = list(node.shape)
            fits = (
                len(sizes) == len(shape) + 1
                and not isinstance(sizes[0], int)  # a fixed batch axis would refuse every other number of rows
                and all(not isinstance(got, int) or got == want for got, want in zip(sizes[1:], shape, strict=True))
            )
            if node.type != f"tensor({kind})" or not fits:
                raise BundleError(f"{self._file}: {node.name!r} is {node.type} {sizes}; expected {wanted}")

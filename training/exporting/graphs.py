"""The two graphs of a bundle, exported from the trained networks and held against torch.

N: images, S: input side, D: features, Z: embedding, K: noise, A: attributes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnx.version_converter
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import BundleError
from training.features.backbone import load_backbone
from training.features.scaler import Scaler
from training.method.novelty import Familiarity
from training.networks.d3gzsl import Embedding, Teacher
from training.networks.generator import Sampler
from training.onnx_files import forget_origin, load_graph, open_session, to_onnx

TOLERANCE = 1e-4  # of the largest value
IR_VERSION = 10


class TrunkTail(nn.Module):
    """Features as the backbone gives them to centred embedding and the score that novelty is measured by.

    Args:
        scaler: of the features.
        embedding: E_s.
        teacher: whose largest log-probability is the score, unless there is `novelty`.
        centre: subtracted from embeddings, float32 [Z].
        novelty: the score of the embedding.
    """

    def __init__(
        self,
        *,
        scaler: Scaler,
        embedding: Embedding,
        teacher: Teacher,
        centre: NDArray[np.float32],
        novelty: Familiarity | None = None,
    ) -> None:
        super().__init__()
        self.novelty = novelty
        self.embedding = embedding
        self.teacher = teacher
        self.scaling = scaler.module()
        self.register_buffer("centre", torch.from_numpy(centre))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, D] to embedding [N, Z] and score [N]."""
        scaled = self.scaling(features)
        z = self.embedding(scaled) - self.get_buffer("centre")
        return z, self.teacher.score(scaled) if self.novelty is None else self.novelty(z)


class SynthesizerGraph(nn.Module):
    """Noise and normalised attributes to centred embeddings; the generator makes scaled features."""

    def __init__(self, *, generator: Sampler, embedding: Embedding, centre: NDArray[np.float32]) -> None:
        super().__init__()
        self.generator = generator
        self.embedding = embedding
        self.register_buffer("centre", torch.from_numpy(centre))

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Noise [N, K] and attributes [N, A] to embedding [N, Z]."""
        z: Tensor = self.embedding(self.generator(noise, attributes)) - self.get_buffer("centre")
        return z


def trunk_graph(backbone: Path, tail: TrunkTail, *, feature_dim: int, side: int) -> bytes:
    """Backbone and tail as one graph: image -> embedding, teacher_score, features.

    Raises:
        BundleError: the graph's tail and torch differ by more than `TOLERANCE` of the largest value.
        DataError: the backbone's JSON does not fit it, or it cannot be joined.
    """
    source = load_backbone(backbone)
    head = to_onnx(tail, {"tail_features": torch.rand(2, feature_dim)}, ["embedding", "teacher_score"])
    joined = _join(load_graph(backbone), head, image=source.input, features=source.output)
    graph: bytes = joined.SerializeToString()
    session = open_session(graph)
    images = np.random.default_rng(0).standard_normal((3, 3, side, side), dtype=np.float32)
    embedding, score, features = session.run(["embedding", "teacher_score", "features"], {"image": images})
    with torch.no_grad():
        expected = tail(torch.from_numpy(features))
    check_parity("trunk.onnx embedding", embedding, expected[0].numpy())
    check_parity("trunk.onnx teacher_score", score, expected[1].numpy())
    check_parity("trunk.onnx features", features, source.run(source.session(), images))
    return graph


def synthesizer_graph(synthesizer: SynthesizerGraph, *, noise_dim: int, attribute_dim: int) -> bytes:
    """Generator and embedding as one graph: noise, attributes -> embedding.

    Raises:
        BundleError: the graph and torch differ by more than `TOLERANCE` of the largest value.
    """
    example = {"noise": torch.randn(3, noise_dim), "attributes": torch.randn(3, attribute_dim)}
    graph: bytes = to_onnx(synthesizer, example, ["embedding"]).SerializeToString()
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(17, noise_dim, generator=random)
    attributes = nn.functional.normalize(torch.randn(17, attribute_dim, generator=random))
    (embedding,) = open_session(graph).run(None, {"noise": noise.numpy(), "attributes": attributes.numpy()})
    with torch.no_grad():
        check_parity("synthesizer.onnx embedding", embedding, synthesizer(noise, attributes).numpy())
    return graph


def check_parity(what: str, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Raise a BundleError where two results differ by more than `TOLERANCE` of the largest value."""
    if actual.shape != expected.shape:
        raise BundleError(f"{what} has shape {actual.shape}, torch gives {expected.shape}")
    largest = float(np.abs(expected).max(initial=0))
    difference = float(np.abs(actual - expected).max(initial=0))
    if not difference <= TOLERANCE * max(largest, 1e-6):
        raise BundleError(
            f"{what} differs from torch by {difference:.3g}; at most {TOLERANCE:g} of the largest value "
            f"{largest:.3g} is allowed"
        )


def _join(backbone: onnx.ModelProto, tail: onnx.ModelProto, *, image: str, features: str) -> onnx.ModelProto:
    weights = {tensor.name for tensor in backbone.graph.initializer}
    inputs = [value for value in backbone.graph.input if value.name not in weights]  # old files list weights there too
    del backbone.graph.input[:]
    backbone.graph.input.extend(inputs)
    for model in (backbone, tail):
        model.ir_version = IR_VERSION
    prefix = "backbone/"  # on every name, so that none can meet one of the tail's
    prefixed = onnx.compose.add_prefix(backbone, prefix)
    image, features = prefix + image, prefix + features
    joined = onnx.compose.merge_models(
        prefixed, tail, io_map=[(features, "tail_features")], outputs=["embedding", "teacher_score", features]
    )
    _rename(joined, {image: "image", features: "features"})
    forget_origin(joined)
    for value in (*joined.graph.input, *joined.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]

"""A bundle small enough to build in every test: what it answers can be computed by hand.

S=8, D=6, Z=4, A=3, K=2. The trunk takes the mean and the spread of each colour, then a linear map.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model.bundle import TextEncoderFiles, sha256_bytes, write_bundle
from model.calibration import Calibration
from model.classes import ClassEntry
from model.head import HeadSpec
from model.lda import LdaHead
from model.manifest import BackboneInfo, Example, bundle_id
from model.preprocess import PreprocessSpec
from model.synthesis import class_embeddings
from model.vocabulary import Vocabulary

S, D, Z, A, K = 8, 6, 4, 3, 2
NAMES = ("red", "green", "blue")
SPEC = PreprocessSpec(size=S, resize=S, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
HEAD = HeadSpec(kind="lda", dimension=Z, samples=20, noise_dimension=K, shrinkage=0.5)
COLOURS = {"reddish": (1.0, 0.0, 0.0), "greenish": (0.0, 1.0, 0.0), "bluish": (0.0, 0.0, 1.0)}
VIOLET = (0.9, 0.0, 0.9)

_rng = np.random.default_rng(7)
W_DZ = np.concatenate([np.eye(3, Z), 0.01 * _rng.standard_normal((3, Z))]).astype(np.float32)
W_DZ[:3, 3] = 0.5
ROUNDED_DZ = (np.round(W_DZ * 8) / 8).astype(np.float32)
W_KZ = (0.05 * _rng.standard_normal((K, Z))).astype(np.float32)


def trunk(
    *,
    size: int = S,
    dimension: int = Z,
    embedding: str = "embedding",
    batch: int | str = "N",
    free: bool = False,
    weight: NDArray[np.float32] = W_DZ,
) -> bytes:
    """image [N,3,S,S] -> embedding [N,Z], teacher_score [N], features [N,D]; `free` leaves Z open in the graph."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceMax", ["image", "axes"], ["max"], keepdims=0),
        helper.make_node("Sub", ["max", "mean"], ["spread"]),
        helper.make_node("Concat", ["mean", "spread"], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "W_DZ"], [embedding]),
        helper.make_node("ReduceMean", [embedding, "last"], ["level"], keepdims=0),
        helper.make_node("Neg", ["level"], ["teacher_score"]),
    ]
    weights = {"axes": np.array([2, 3]), "last": np.array([1]), "W_DZ": weight[:, :dimension]}
    if free:  # cut at a place that only the image decides, so that no shape can be inferred
        nodes[4].output[0] = "whole"
        cut = [
            helper.make_node("ReduceMin", ["image"], ["least"], keepdims=0),
            helper.make_node("Sub", ["width", "least"], ["end"]),
            helper.make_node("Cast", ["end"], ["end_int"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["end_int", "last"], ["ends"]),
            helper.make_node("Slice", ["whole", "zero", "ends", "last"], [embedding]),
        ]
        nodes[5:5] = cut
        weights |= {"width": np.array(dimension, dtype=np.float32), "zero": np.array([0])}
    return _model(
        nodes,
        [("image", [batch, 3, size, size])],
        [(embedding, [batch, "Z" if free else dimension]), ("teacher_score", [batch]), ("features", [batch, D])],
        weights,
    )


def synthesizer(weight: NDArray[np.float32] = W_DZ[:A]) -> bytes:
    """noise [N,K], description [N,A] -> embedding [N,Z]: without other weights attributes are a class's mean colour."""
    nodes = [
        helper.make_node("MatMul", ["noise", "W_KZ"], ["jitter"]),
        helper.make_node("MatMul", ["attributes", "W_AZ"], ["centre"]),
        helper.make_node("Add", ["centre", "jitter"], ["embedding"]),
    ]
    inputs = [("noise", ["N", K]), ("attributes", ["N", len(weight)])]
    return _model(nodes, inputs, [("embedding", ["N", Z])], {"W_KZ": W_KZ, "W_AZ": weight})


def synthesize(noise, attributes, weight: NDArray[np.float32] = W_DZ[:A]):
    """The synthesizer in NumPy."""
    return (noise @ W_KZ + attributes @ weight).astype(np.float32)


def tiny_bundle(
    out: Path,
    *,
    trunk_bytes: bytes | None = None,
    trunk_int8: bytes | None = None,
    spec: HeadSpec = HEAD,
    novelty: str | None = "teacher",
    overwrite: bool = False,
) -> Path:
    """Write a valid bundle with two seen classes and an unseen one."""
    entries = tuple(
        ClassEntry(id=name, name=name.capitalize(), kind="unseen" if name == "bluish" else "seen", attributes=colour)
        for name, colour in COLOURS.items()
    )
    return write(
        out,
        entries,
        Vocabulary.from_classes(
            NAMES, [entry.attributes for entry in entries], offset=0.0, scale=1.0, unit_length=False
        ),
        trunk_bytes=trunk_bytes,
        spec=spec,
        novelty=novelty,
        examples={Example(file="examples/red.png", class_id="reddish", name="Reddish"): png((255, 0, 0))},
        trunk_int8=trunk_int8,
        overwrite=overwrite,
    )


def write(
    out: Path,
    entries: tuple[ClassEntry, ...],
    vocabulary: Vocabulary,
    *,
    weight: NDArray[np.float32] = W_DZ[:A],
    trunk_bytes: bytes | None = None,
    trunk_int8: bytes | None = None,
    text_encoder: TextEncoderFiles | None = None,
    spec: HeadSpec = HEAD,
    novelty: str | None = "teacher",
    examples: Mapping[Example, bytes] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a bundle of such classes; `weight` is what the synthesizer multiplies a description by, [A, Z]."""
    trunk_bytes, graph = trunk_bytes or trunk(), synthesizer(weight)
    identity = bundle_id(
        sha256_bytes(trunk_bytes),
        sha256_bytes(graph),
        vocabulary,
        spec,
        encoder=text_encoder.identity if text_encoder else None,
        trunk_int8_sha256=sha256_bytes(trunk_int8) if trunk_int8 else None,
    )
    head = LdaHead(0.2 * np.eye(Z)).scaled(spec.unseen_scale)
    rows = [
        head.row(
            class_embeddings(
                lambda noise, described: synthesize(noise, described, weight),
                bundle_id=identity,
                class_id=entry.id,
                attributes=vector,
                vocabulary=vocabulary,
                head=spec,
            )
        )
        for entry, vector in zip(entries, vocabulary.vectors(entries), strict=True)
    ]
    write_bundle(
        out,
        trunk=trunk_bytes,
        synthesizer=graph,
        preprocess=SPEC,
        backbone=BackboneInfo(name="tiny.onnx", fingerprint="0" * 64, feature_dim=D),
        vocabulary=vocabulary,
        classes=entries,
        head_spec=spec,
        head=head,
        weight=np.stack([row.weight for row in rows]),
        bias=np.array([row.bias for row in rows], dtype=np.float32),
        novelty=novelty,
        novelty_reference=np.linspace(-1, 0, 11, dtype=np.float32) if novelty else None,
        calibration=Calibration(seen_penalty=0.1, temperature=1.0),
        metrics={"test": {"H": 0.5}},
        training={},
        examples=examples,
        trunk_int8=trunk_int8,
        text_encoder=text_encoder,
        overwrite=overwrite,
    )
    return out


def png(colour: tuple[int, int, int], size: tuple[int, int] = (10, 12)) -> bytes:
    """An image of one colour, width and height in pixels."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def photo(seed: int, *, side: int = 24, form: str = "PNG") -> bytes:
    """An image of noise."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def _model(nodes, inputs, outputs, weights) -> bytes:
    def values(named):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in named]

    graph = helper.make_graph(
        nodes,
        "tiny",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()

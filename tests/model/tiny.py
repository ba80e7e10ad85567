"""The smallest complete bundle: 8-pixel images, 3 features, 3 attributes, 4 embedding dimensions, 4 classes.

Its graphs are real ONNX: the features are the mean colour, the rest are fixed linear maps. Attributes are that colour
in percent, so that an image of one colour is recognised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.bundle import write_bundle
from model.calibration import Calibration
from model.classes import ClassEntry
from model.head import HeadSpec
from model.lda import LdaHead
from model.manifest import BackboneInfo, Example
from model.preprocess import PreprocessSpec
from model.vocabulary import Vocabulary
from tests.model.photos import encode

FEATURES, ATTRIBUTES, NOISE, DIMENSION = 3, 3, 2, 4
NAMES = ("red", "green", "blue")
CLASSES = (
    ClassEntry(id="ruby", name="Ruby", kind="seen", attributes=(100.0, 0.0, 10.0)),
    ClassEntry(id="moss", name="Moss", kind="seen", attributes=(20.0, 80.0, 10.0), description="green and soft"),
    ClassEntry(id="sea", name="Sea", kind="seen", attributes=(0.0, 30.0, 90.0), metadata={"depth": [1, 2]}),
    ClassEntry(id="violet", name="Violet", kind="unseen", attributes=(60.0, 0.0, 80.0)),
)
EXAMPLE = Example(file="examples/violet-1.png", class_id="violet", name="Violet")
STRANGER = Example(file="examples/lemon-1.png", class_id="lemon", name="Lemon", attributes=(90.0, 90.0, 0.0))


def _map(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).integers(-8, 9, (rows, columns)) / 8).astype(np.float32)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, NDArray[np.float32]]) -> bytes:
    graph = helper.make_graph(
        nodes, "tiny", inputs, outputs, [numpy_helper.from_array(v, name) for name, v in weights.items()]
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _floats(name: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def trunk() -> bytes:
    """Image [N,3,8,8] -> features [N,3] (mean colour), embedding [N,4], teacher_score [N]."""
    return _model(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("MatMul", ["features", "embed"], ["embedding"]),
            helper.make_node("LogSoftmax", ["features"], ["teacher"]),
            helper.make_node("ReduceMax", ["teacher"], ["teacher_score"], axes=[1], keepdims=0),
        ],
        [_floats("image", "N", 3, 8, 8)],
        [_floats("embedding", "N", DIMENSION), _floats("teacher_score", "N"), _floats("features", "N", FEATURES)],
        {"embed": _map(FEATURES, DIMENSION, 1)},
    )


def synthesizer() -> bytes:
    """Noise [N,2] and attributes [N,3] -> embedding [N,4]."""
    return _model(
        [
            helper.make_node("MatMul", ["noise", "spread"], ["scatter"]),
            helper.make_node("MatMul", ["attributes", "embed"], ["centre"]),
            helper.make_node("Add", ["centre", "scatter"], ["embedding"]),
        ],
        [_floats("noise", "N", NOISE), _floats("attributes", "N", ATTRIBUTES)],
        [_floats("embedding", "N", DIMENSION)],
        {"embed": _map(ATTRIBUTES, DIMENSION, 1), "spread": 0.1 * _map(NOISE, DIMENSION, 2)},
    )


def vocabulary() -> Vocabulary:
    described = [c.attributes for c in CLASSES if c.kind == "seen"]
    return Vocabulary.from_classes(NAMES, described, offset=50, scale=100, unit_length=False)


def contents() -> dict[str, Any]:
    """The arguments of `write_bundle`, to be changed at will."""
    random = np.random.default_rng(0)
    words = vocabulary()
    means = words.normalise([c.attributes for c in CLASSES]) @ _map(ATTRIBUTES, DIMENSION, 1)
    labels = np.repeat(np.arange(3), 20)
    head = LdaHead.fit(means[labels] + 0.1 * random.normal(size=(60, DIMENSION)), labels, shrinkage=0.25)
    weight, bias = head.rows(means)
    colours = {EXAMPLE: (150, 0, 200), STRANGER: (230, 230, 10)}
    return {
        "trunk": trunk(),
        "synthesizer": synthesizer(),
        "preprocess": PreprocessSpec(size=8, resize=8, mean=(0.5, 0.5, 0.5), std=(1, 1, 1)),
        "backbone": BackboneInfo(name="mean colour", fingerprint="00" * 32, feature_dim=FEATURES),
        "vocabulary": words,
        "classes": CLASSES,
        "head_spec": HeadSpec(kind="lda", dimension=DIMENSION, samples=20, noise_dimension=NOISE, shrinkage=0.25),
        "head": head,
        "weight": weight,
        "bias": bias,
        "novelty_reference": random.normal(size=30).astype(np.float32),
        "calibration": Calibration(seen_penalty=0.5, temperature=1.5),
        "metrics": {"validation": {"protocol": "none", "H": 0.5}},
        "training": {"seed": 0},
        "examples": {
            example: encode(np.full((8, 8, 3), colour, dtype=np.uint8), "PNG") for example, colour in colours.items()
        },
    }


def write(out: Path, *, overwrite: bool = False, **changes: Any) -> str:
    """Write the tiny bundle with some arguments changed; its bundle id."""
    return write_bundle(out, overwrite=overwrite, **{**contents(), **changes})

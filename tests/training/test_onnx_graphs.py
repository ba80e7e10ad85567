"""The two graphs of a bundle against torch, for backbones as they come from other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from model.errors import BundleError, DataError
from tests.training.photos import write_backbone
from tests.training.tiny import config
from training.exporting import graphs
from training.exporting.graphs import (
    SynthesizerGraph,
    TrunkTail,
    check_parity,
    synthesizer_graph,
    trunk_graph,
)
from training.features.backbone import card_path, load_backbone
from training.features.scaler import SCALINGS, Scaler
from training.generators import new_sampler
from training.networks.d3gzsl import Embedding, Teacher
from training.networks.generator import Generator
from training.onnx_files import open_session

S, D, Z, A, K = 8, 5, 4, 3, 2  # as in the module's legend


@pytest.fixture(scope="module", params=SCALINGS)
def tail(request: pytest.FixtureRequest) -> TrunkTail:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    embedding = Embedding(feature_dim=D, dim=Z, init="normal")
    teacher = Teacher(feature_dim=D, dim=Z, seen_classes=3, init="normal")
    for parameter in (*embedding.parameters(), *teacher.parameters()):
        torch.nn.init.normal_(parameter)
    return TrunkTail(
        scaler=Scaler.fit(random.normal(size=(9, D)).astype(np.float32), request.param),
        embedding=embedding,
        teacher=teacher,
        centre=random.normal(size=Z).astype(np.float32),
    )


@pytest.fixture(scope="module")
def synthesizer() -> SynthesizerGraph:
    torch.manual_seed(1)
    generator = Generator(noise_dim=K, attribute_dim=A, feature_dim=D, hidden=6, anchors=4)
    embedding = Embedding(feature_dim=D, dim=Z, init="normal")
    for parameter in (*generator.parameters(), *embedding.parameters()):
        torch.nn.init.normal_(parameter)
    return SynthesizerGraph(generator=generator, embedding=embedding, centre=np.arange(Z, dtype=np.float32))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "b.onnx", size=S, dim=D)


def images(count: int, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, S, S), dtype=np.float32)


def close(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """To 1e-4 of the largest value, as the export itself demands."""
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@torch.no_grad()
def assert_is_trunk(graph: bytes, backbone: Path, tail: TrunkTail) -> None:
    source, session = load_backbone(backbone), open_session(graph)
    assert [node.name for node in session.get_inputs()] == ["image"]
    assert {node.name for node in session.get_outputs()} == {"embedding", "teacher_score", "features"}
    for count in (1, 7):
        z, score, features = session.run(["embedding", "teacher_score", "features"], {"image": images(count)})
        close(features, source.run(source.session(), images(count)))
        scaled = tail.scaling(torch.from_numpy(features))
        close(z, (tail.embedding(scaled) - tail.centre).numpy())
        close(score, tail.teacher(scaled)[1].max(1).values.numpy())


def test_trunk(backbone: Path, tail: TrunkTail) -> None:
    assert_is_trunk(trunk_graph(backbone, tail, feature_dim=D, side=S), backbone, tail)


@pytest.mark.usefixtures("exported_anew")
def test_trunk_is_the_same_every_time(backbone: Path, tail: TrunkTail) -> None:
    """The bundle id is a hash of it."""
    assert trunk_graph(backbone, tail, feature_dim=D, side=S) == trunk_graph(backbone, tail, feature_dim=D, side=S)


def test_graphs_hold_nothing_of_this_machine(backbone: Path, tail: TrunkTail, synthesizer: SynthesizerGraph) -> None:
    here = str(Path(graphs.__file__).parents[1]).encode()
    for graph in (
        trunk_graph(backbone, tail, feature_dim=D, side=S),
        synthesizer_graph(synthesizer, noise_dim=K, attribute_dim=A),
    ):
        assert here not in graph
        assert b".py" not in graph


SAMPLERS = {
    "wgan": (),
    "cegzsl": ("generator.attribute_path=none",),
    "tfvaegan": ("vae.feedback=0.7",),
    "tfvaegan without feedback": ("vae.feedback=0", "generator.attribute_path=linear"),
    "diffusion": (),
}


def synthesizer_of(name: str) -> SynthesizerGraph:
    """Of a method, with weights of which every one shows."""
    settings = config(f"generator.method={name.split()[0]}", f"generator.noise_dim={K}", *SAMPLERS[name])
    generator = new_sampler(settings, feature_dim=D, attribute_dim=A, seen_classes=4)
    embedding = Embedding(feature_dim=D, dim=Z, init="normal")
    random = torch.Generator().manual_seed(2)
    for parameter in (*generator.parameters(), *embedding.parameters()):
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=random) / 2)
    for buffer in generator.buffers():
        buffer.copy_(0.1 + torch.rand(buffer.shape, generator=random))
    return SynthesizerGraph(generator=generator, embedding=embedding, centre=np.arange(Z, dtype=np.float32))


@torch.no_grad()
@pytest.mark.usefixtures("exported_anew")
@pytest.mark.parametrize("name", SAMPLERS)
def test_synthesizer(name: str) -> None:
    """Of every sampler, for any number of rows."""
    synthesizer = synthesizer_of(name)
    size = synthesizer.generator.noise_dim
    assert size == (D if name.startswith("diffusion") else K)
    graph = synthesizer_graph(synthesizer, noise_dim=size, attribute_dim=A)
    session = open_session(graph)
    assert [node.name for node in session.get_inputs()] == ["noise", "attributes"]
    assert [node.name for node in session.get_outputs()] == ["embedding"]
    for count in (1, 200):
        noise, attributes = torch.randn(count, size), torch.randn(count, A)
        (z,) = session.run(None, {"noise": noise.numpy(), "attributes": attributes.numpy()})
        made = synthesizer.embedding(synthesizer.generator(noise, attributes))
        close(z, (made - torch.arange(Z)).numpy())
    if name == "diffusion":  # its hash is an id
        assert synthesizer_graph(synthesizer_of(name), noise_dim=size, attribute_dim=A) == graph


# --- backbones of other makes ---------------------------------------------------------------------


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def second_output(model: onnx.ModelProto) -> None:
    """The first of two outputs is not the one that the JSON names."""
    model.graph.output.insert(0, helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", D]))


def weights_among_inputs(model: onnx.ModelProto) -> None:
    """As files of ONNX before 1.4 have it, with the weights first."""
    shape = list(model.graph.initializer[0].dims)
    model.graph.input.insert(0, helper.make_tensor_value_info("weights", TensorProto.FLOAT, shape))


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11
    model.ir_version = 6


@pytest.mark.parametrize(
    "change",
    [
        lambda model: rename(model, "features", "embedding"),
        lambda model: rename(model, "features", "teacher_score"),
        lambda model: rename(model, "image", "features_in"),
        lambda model: rename(model, "image", "embedding"),
        lambda model: rename(model, "product", "tail_features"),
        second_output,
        weights_among_inputs,
        old_opset,
    ],
)
def test_backbones_with_other_names_and_versions(
    backbone: Path, tail: TrunkTail, change: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load(backbone)
    change(model)
    onnx.checker.check_model(model)
    onnx.save(model, backbone)
    card = json.loads(card_path(backbone).read_text())
    weights = {tensor.name for tensor in model.graph.initializer}
    card["input"] = next(value.name for value in model.graph.input if value.name not in weights)
    card["output"] = model.graph.output[-1].name
    card_path(backbone).write_text(json.dumps(card))
    assert_is_trunk(trunk_graph(backbone, tail, feature_dim=D, side=S), backbone, tail)


def test_newer_opset_is_refused(backbone: Path, tail: TrunkTail) -> None:
    model = onnx.load(backbone)
    model.opset_import[0].version = 21
    onnx.save(model, backbone)
    with pytest.raises(DataError, match=r"b\.onnx: uses ONNX opset 21; at most 20 can be joined"):
        trunk_graph(backbone, tail, feature_dim=D, side=S)


# --- parity ---------------------------------------------------------------------------------------


def scaled_initializer(graph: bytes, factor: float) -> onnx.ModelProto:
    """The graph with its largest weight changed."""
    model = onnx.load_from_string(graph)
    weights = max(model.graph.initializer, key=lambda tensor: len(onnx.numpy_helper.to_array(tensor).flatten()))
    changed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * np.float32(factor), weights.name)
    weights.CopyFrom(changed)
    return model


@pytest.mark.parametrize("which", ["trunk", "synthesizer"])
def test_graph_that_differs_from_torch_is_refused(
    backbone: Path, tail: TrunkTail, synthesizer: SynthesizerGraph, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = graphs.to_onnx
    factor = 1 + 1e-2

    def perturbed(module: torch.nn.Module, *rest: object) -> onnx.ModelProto:
        return scaled_initializer(export(module, *rest).SerializeToString(), factor)  # type: ignore[arg-type]

    def make() -> bytes:
        if which == "trunk":
            return trunk_graph(backbone, tail, feature_dim=D, side=S)
        return synthesizer_graph(synthesizer, noise_dim=K, attribute_dim=A)

    monkeypatch.setattr(graphs, "to_onnx", perturbed)
    with pytest.raises(
        BundleError, match=rf"{which}\.onnx \w+ differs from torch by .* of the largest value .* allowed"
    ):
        make()
    factor = 1.0
    make()


def test_joined_backbone_that_gives_other_features_is_refused(
    backbone: Path, tail: TrunkTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = graphs.load_graph
    monkeypatch.setattr(graphs, "load_graph", lambda path: scaled_initializer(load(path).SerializeToString(), 1.01))
    with pytest.raises(BundleError, match=r"trunk\.onnx features differs"):
        trunk_graph(backbone, tail, feature_dim=D, side=S)


def test_check_parity() -> None:
    expected = np.array([[100.0, -1.0], [0.0, 1e-3]], dtype=np.float32)
    check_parity("x", expected + np.float32(0.009), expected)  # 1e-4 of the largest value, 100
    check_parity("x", expected[:0], expected[:0])
    check_parity("x", np.zeros(3, np.float32), np.zeros(3, np.float32))
    for actual in (expected + np.float32(0.011), expected * np.float32(np.nan), expected + np.float32(np.inf)):
        with pytest.raises(BundleError, match="x differs from torch"):
            check_parity("x", actual, expected)
    with pytest.raises(BundleError, match="x differs from torch"):
        check_parity("x", expected, expected * np.float32(np.nan))
    for other in (expected[0], expected[:, :1], np.zeros((3, 5), np.float32)):
        with pytest.raises(BundleError, match="x has shape"):
            check_parity("x", other, expected)

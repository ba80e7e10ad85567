"""Backbones in int8: ranges of activations, weights that do not overflow, layers that stay in float32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.errors import DataError
from tests.training.photos import write_backbone
from training.exporting.bias8 import added_means
from training.exporting.int8 import Activations, Correction, Quantiser, quantise
from training.exporting.run_images import even_rows
from training.exporting.weights8 import bounded_weights, channel_ranges
from training.features.backbone import load_backbone
from training.onnx_files import open_session


def batches(*shape: int, seed: int = 0) -> list[NDArray[np.float32]]:
    return [np.random.default_rng(seed + i).standard_normal(shape).astype(np.float32) for i in range(3)]


def convolutions(path: Path) -> Path:
    """Convolution, batch norm, ReLU, depthwise convolution, residual sum, pooling, Flatten, with its JSON."""
    write_backbone(path, size=12, dim=6)
    random = np.random.default_rng(3)

    def weights(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape).astype(np.float32) / 3

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1], group=6),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["features"]),
    ]
    tensors = {
        "w1": weights(6, 3, 3, 3),
        "w2": weights(6, 1, 3, 3) * (10.0 ** np.arange(-3, 3))[:, None, None, None].astype(np.float32),
        "scale": weights(6) + 1,
        "shift": weights(6),
        "mean": weights(6),
        "variance": np.abs(weights(6)) + 1,
    }
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in tensors.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


# --- quantising -----------------------------------------------------------------------------------


def test_a_convolutional_backbone_keeps_its_features(tmp_path: Path) -> None:
    """Weights whose channels differ by a factor of 100,000 are the reason for a scale per channel."""
    source = load_backbone(convolutions(tmp_path / "fp32.onnx"))
    images = batches(8, 3, 12, 12)
    made = load_backbone(quantise(source.path, lambda: images, tmp_path / "int8.onnx"))
    exact = source.run(source.session(), np.concatenate(images))
    rounded = made.run(made.session(), np.concatenate(images))
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())
    np.testing.assert_allclose(rounded.mean(axis=0), exact.mean(axis=0), rtol=1e-3, atol=1e-4)  # the correction
    assert np.abs(rounded - exact).max() > 0
    graph = onnx.load(made.path).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["BatchNormalization"] == 0
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == 2
    for value in weights:
        assert (np.abs(value.reshape(len(value), -1).astype(int)).max(axis=1) >= 63).all()  # each channel's own scale


def test_extremes_are_those_of_each_image_and_averages_those_of_each_channel(tmp_path: Path) -> None:
    source, images = load_backbone(convolutions(tmp_path / "fp32.onnx")), batches(4, 3, 12, 12)
    found = Quantiser(source).watch(images)
    pixels = np.concatenate(images)
    np.testing.assert_array_equal(found.least["image"], pixels.min(axis=(1, 2, 3)))
    np.testing.assert_array_equal(found.largest["image"], pixels.max(axis=(1, 2, 3)))
    assert found.widest["image"] == (pixels.min(), pixels.max())
    assert found.mean["image"] == pytest.approx((found.least["image"].mean(), found.largest["image"].mean()))
    assert all(len(values) == 12 for values in found.largest.values())
    assert len(found.largest) >= 5  # between image and pooling
    assert sorted(len(values) for values in found.averages.values()) == [3, 6]  # one for each convolution
    np.testing.assert_allclose(found.averages["image"], pixels.mean(axis=(0, 2, 3)), atol=1e-6)


def test_first_layers_stay_in_float32_with_what_bounds_them(tmp_path: Path) -> None:
    """At most a third of the convolutions: here two of seven, of which the first has a ReLU behind it."""
    path = convolutions(tmp_path / "fp32.onnx")
    model = onnx.load(path)
    for i in range(5):
        weights = np.eye(6, dtype=np.float32)[:, :, None, None]
        model.graph.initializer.append(numpy_helper.from_array(weights, f"more{i}"))
        model.graph.node.insert(5 + i, helper.make_node("Conv", [f"e{i or ''}", f"more{i}"], [f"e{i + 1}"]))
    model.graph.node[10].input[0] = "e5"
    onnx.save_model(model, path)
    quantiser = Quantiser(load_backbone(path))
    assert [quantiser.at_most(count) for count in (0, 1, 2, 9)] == [0, 1, 2, 2]
    kinds = [[name.split("_")[0] for name in quantiser.first(count)] for count in (0, 1, 2, 9)]
    assert kinds == [[], ["Conv", "Relu"], ["Conv", "Conv", "Relu"], ["Conv", "Conv", "Relu"]]
    found = quantiser.watch(batches(4, 3, 12, 12))

    def int8_weights(kept: tuple[str, ...]) -> int:
        stored = quantiser.quantised(found.widest, averages=found.averages, kept=kept).graph.initializer
        return sum(tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4 for tensor in stored)

    assert [int8_weights(quantiser.first(count)) for count in (0, 1, 2)] == [7, 6, 5]


def test_what_stays_in_float32_does_so_when_it_is_loaded(tmp_path: Path) -> None:
    """ONNX Runtime rounds the weights of convolutions behind what was rounded: with one scale, though these differ."""
    source, images = load_backbone(convolutions(tmp_path / "fp32.onnx")), batches(4, 3, 12, 12)
    quantiser = Quantiser(source)
    found = quantiser.watch(images)
    all_rounded = quantiser.quantised(found.widest, averages=found.averages)
    depthwise = [node.name for node in all_rounded.graph.node if node.op_type == "Conv"][1]
    model = quantiser.quantised(found.widest, averages=found.averages, kept=(depthwise,))
    onnx.checker.check_model(model)
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 4]
    assert sorted(weights.dtype.name for weights in stored) == ["float32", "int8"]
    pixels = np.concatenate(images)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    as_written = source.run(ort.InferenceSession(model.SerializeToString(), plain), pixels)
    as_loaded = source.run(open_session(model.SerializeToString()), pixels)
    steps = np.abs(as_written).max() / 255
    np.testing.assert_allclose(as_loaded, as_written, atol=0.5 * steps)


def neighbours(weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Largest sum of two neighbours in the orders by channel and by pixel, each with its sign."""
    rows = (weights.reshape(len(weights), -1), np.moveaxis(weights, 1, -1).reshape(len(weights), -1))
    sums = [row[:, 0 : row.shape[1] // 2 * 2].astype(int).reshape(len(row), -1, 2).sum(axis=-1) for row in rows]
    return np.abs(np.concatenate([s.ravel() for s in sums]))


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (4, 8, 1, 1), (3, 3, 7, 7), (2, 2, 1, 1)])
def test_no_neighbours_overflow_16_bits(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, shape).astype(np.int8)
    bounded = bounded_weights(weights)
    assert 255 * neighbours(bounded).max() < 2**15
    assert ((np.sign(bounded) == np.sign(weights)) | (bounded == 0)).all()
    assert (np.abs(bounded.astype(int)) <= np.abs(weights.astype(int))).all()
    small = (weights // 2).astype(np.int8)
    np.testing.assert_array_equal(bounded_weights(small), small)  # nothing to do within 7 bits


def test_ranges_of_weights_lose_less_than_7_bits() -> None:
    weights = np.random.default_rng(1).standard_normal((16, 64, 1, 1)).astype(np.float32)
    largest = np.abs(weights).reshape(16, -1).max(axis=1)

    def error(ranges: NDArray[np.float32]) -> float:
        scale = (ranges / 127).reshape(-1, 1, 1, 1)
        return float(((bounded_weights(np.rint(weights / scale).astype(np.int8)) * scale - weights) ** 2).mean())

    ranges = channel_ranges(weights)
    assert ((largest <= ranges) & (ranges <= 2 * largest)).all()
    assert error(ranges) < 0.6 * error(2 * largest)
    assert error(ranges) < 0.6 * error(largest)
    np.testing.assert_array_equal(channel_ranges(weights, bounded=False), largest)


def test_the_bound_holds_in_the_graph_but_for_depthwise_kernels(tmp_path: Path) -> None:
    quantiser = Quantiser(load_backbone(convolutions(tmp_path / "fp32.onnx")))
    found = quantiser.watch(batches(4, 3, 12, 12))
    model = quantiser.quantised(found.widest, averages=found.averages)
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    plain, depthwise = sorted((w for w in stored if w.ndim == 4), key=lambda w: -w.shape[1])
    assert 255 * neighbours(plain).max() < 2**15
    assert (np.abs(depthwise.reshape(6, -1).astype(int)).max(axis=1) == 127).all()


def test_mean_ranges_clip_what_is_rare() -> None:
    least, largest = np.array([0.0, -1.0], dtype=np.float32), np.array([1.0, 9.0], dtype=np.float32)
    found = Activations(least={"x": least}, largest={"x": largest}, averages={})
    assert (found.widest, found.mean) == ({"x": (-1.0, 9.0)}, {"x": (-0.5, 5.0)})


def test_the_same_images_give_the_same_file(tmp_path: Path) -> None:
    source, images = convolutions(tmp_path / "fp32.onnx"), batches(4, 3, 12, 12)
    first, second = (quantise(source, lambda: images, tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second
    other = quantise(source, lambda: batches(4, 3, 12, 12, seed=9), tmp_path / "c.onnx").read_bytes()
    assert first != other


def test_a_backbone_without_weights_is_refused(tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "b.onnx", size=2, dim=12)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["features"])],
        "backbone",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 12])],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(DataError, match=r"b\.onnx: expected Conv, Gemm, MatMul to quantise, found Flatten"):
        quantise(path, lambda: batches(2, 3, 2, 2), tmp_path / "out.onnx")


def test_rows_for_calibration_take_turns() -> None:
    labels = [5, 5, 5, 5, 2, 2, 7]
    assert list(even_rows(labels, 5)) == [0, 4, 6, 1, 5]
    assert sorted(even_rows(labels, 100)) == list(range(7))


# --- biases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "groups", "inputs"), [(4, 1, 3), (6, 3, 6), (5, 5, 5), (8, 2, 4)])
def test_added_means_are_those_of_a_convolution(out: int, groups: int, inputs: int) -> None:
    """Against torch, on images that have one value in each channel, where there is no border."""
    random = np.random.default_rng(2)
    errors = random.standard_normal((out, inputs // groups, 3, 3))
    averages = random.standard_normal(inputs).astype(np.float32)
    image = torch.from_numpy(averages.astype(np.float64)).reshape(1, -1, 1, 1).expand(1, inputs, 3, 3)
    expected = torch.nn.functional.conv2d(image, torch.from_numpy(errors), groups=groups).ravel()
    np.testing.assert_allclose(added_means(errors, averages), expected.numpy(), rtol=1e-12)


def channel_means(model: onnx.ModelProto, tensor: str, images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean of each channel of a tensor away from the border, [C]."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    (values,) = open_session(watched.SerializeToString()).run([tensor], {"image": np.concatenate(images)})
    means: NDArray[np.float32] = values[:, :, 2:-2, 2:-2].mean(axis=(0, 2, 3))
    return means


def test_biases_keep_the_mean_of_each_channel(tmp_path: Path) -> None:
    """Large images of one sign, whose rounded weights would move the means of the first convolution by some steps."""
    source = load_backbone(convolutions(tmp_path / "fp32.onnx"))
    images = [np.abs(batch) + 3 for batch in batches(4, 3, 12, 12)]
    quantiser = Quantiser(source)
    found = quantiser.watch(images)
    corrected = quantiser.quantised(found.widest, averages=found.averages)
    nothing = {name: np.zeros_like(values) for name, values in found.averages.items()}
    plain = quantiser.quantised(found.widest, averages=nothing)
    exact = onnx.load(source.path)
    (first, *_) = [node.output[0] for node in plain.graph.node if node.op_type == "Conv"]
    known = channel_means(exact, "b", images)  # behind the batch norm, which is folded into the convolution
    before, after = (np.abs(channel_means(m, first, images) - known).max() for m in (plain, corrected))
    assert after < 0.5 * before


def test_biases_of_what_stays_in_float32_are_left_alone(tmp_path: Path) -> None:
    quantiser = Quantiser(load_backbone(convolutions(tmp_path / "fp32.onnx")))
    found = quantiser.watch(batches(4, 3, 12, 12))
    kept = quantiser.first(1)
    far_off = {name: values + 100 for name, values in found.averages.items()}
    models = [quantiser.quantised(found.widest, averages=some, kept=kept) for some in (found.averages, far_off)]

    def biases(model: onnx.ModelProto, kind: str) -> list[bytes]:
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        return [value.tobytes() for value in stored.values() if value.dtype == kind and value.shape == (6,)]

    assert biases(models[0], "float32") == biases(models[1], "float32") != []
    assert biases(models[0], "int32") != biases(models[1], "int32")


# --- correction -----------------------------------------------------------------------------------


def test_the_correction_gives_each_feature_its_mean_and_keeps_zeros() -> None:
    """One that is never negative is multiplied, one that may be is moved, and one that says nothing is left alone."""
    exact = np.array([[0.0, -1.0, 0.0], [2.0, 1.0, 0.0], [4.0, 3.0, 0.0]], dtype=np.float32)
    rounded = np.array([[0.0, -0.5, 0.0], [1.5, 1.5, 0.0], [3.3, 3.5, 0.0]], dtype=np.float32)
    correction = Correction.of(rounded, exact)
    corrected = correction.apply(rounded)
    np.testing.assert_allclose(corrected.mean(axis=0), exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(corrected[:, 0], rounded[:, 0] * (6 / 4.8), rtol=1e-6)
    np.testing.assert_allclose(corrected[:, 1], rounded[:, 1] - 0.5, rtol=1e-6)
    assert corrected[0, 0] == 0
    assert corrected.dtype == np.float32


def test_a_feature_that_is_nearly_always_zero_is_not_corrected_by_chance() -> None:
    exact, rounded = np.zeros((9, 1), dtype=np.float32), np.zeros((9, 1), dtype=np.float32)
    exact[0], rounded[0] = 1e-3, 1e-5
    assert Correction.of(rounded, exact).factor == 2.0
    assert Correction.of(exact, rounded).factor == 0.5

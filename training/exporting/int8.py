"""A backbone in int8: weights per channel, activations by the ranges that real images give them.

N: images of a batch, S: input side, C: channels, D: features.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from model.errors import DataError
from model.head import Float32
from training.exporting.bias8 import correct_biases
from training.exporting.weights8 import bound, overrides
from training.features.backbone import Backbone, card_path, load_backbone
from training.onnx_files import load_graph, open_session

# What has weights, and what lies between two of them, so that a tensor stays in int8 on its way. The pooling behind the
# last of them is left out: the features would otherwise be rounded to 256 values.
WEIGHTED = ("Conv", "Gemm", "MatMul")
OPERATORS = (*WEIGHTED, "Add", "Clip", "Concat", "MaxPool", "Relu")

_WATCHED = {"least": "ReduceMin", "largest": "ReduceMax", "average": "ReduceMean"}

_MOST_FACTOR = 2.0
"""By which a feature's mean is corrected at most: few images show little of one that is nearly always 0."""
FIRST = 2
"""Convolutions at the beginning that stay in float32: the one of the image itself and the next."""

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest value of each tensor that is rounded, by its name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """What values the activations had on some images.

    Attributes:
        least: of each tensor in each image, [N] by the tensor's name.
        largest: likewise.
        averages: of each channel of what convolutions are given, over all images and places, [C] by the tensor's name.
    """

    least: Mapping[str, Float32]
    largest: Mapping[str, Float32]
    averages: Mapping[str, Float32]

    @property
    def widest(self) -> Ranges:
        """From the least value in any image to the largest in any: nothing is clipped."""
        return {name: (float(low.min()), float(self.largest[name].max())) for name, low in self.least.items()}

    @property
    def mean(self) -> Ranges:
        """From the mean of the images' least values to the mean of their largest: finer steps, outliers are clipped."""
        return {name: (float(low.mean()), float(self.largest[name].mean())) for name, low in self.least.items()}


class Quantiser:
    """Brings one backbone to int8.

    Weights are signed and have a scale for each output channel, activations are unsigned and have one for each tensor.
    Weights of convolutions have 8 bits, bounded so that no CPU overflows (:mod:`training.exporting.weights8`); others
    have 7. So every CPU computes the same numbers. Biases take back what rounded weights add to the mean of a channel
    (:mod:`training.exporting.bias8`).

    Args:
        backbone: to be brought there.

    Raises:
        DataError: the graph has nothing to quantise.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._prepared = _prepared(backbone.path)
        self._weights = overrides(self._prepared)
        kinds = {node.op_type for node in self._prepared.graph.node}
        if not kinds & set(WEIGHTED):
            raise DataError(
                f"{self.backbone.path}: expected {', '.join(WEIGHTED)} to quantise, found {', '.join(sorted(kinds))}"
            )

    def at_most(self, count: int) -> int:
        """How many of `count` convolutions may stay in float32: no more than a third of all."""
        convolutions = [node for node in self._prepared.graph.node if node.op_type == "Conv"]
        return min(count, len(convolutions) // 3)

    def first(self, count: int) -> tuple[str, ...]:
        """The first convolutions of the graph, and what behind them only bounds what they give.

        What is lost there is lost for all layers behind them. Of EfficientNet-Lite2's 64, the first two make half
        of the features' squared error and take a twentieth of the time.

        Args:
            count: how many convolutions, of which :meth:`at_most` says how many are taken.
        """
        nodes = self._prepared.graph.node
        chosen = [node for node in nodes if node.op_type == "Conv"][: self.at_most(count)]
        made = {name for node in chosen for name in node.output}
        bounds = [node for node in nodes if node.op_type in ("Clip", "Relu") and node.input[0] in made]
        return tuple(node.name for node in (*chosen, *bounds))

    def watch(self, batches: Iterable[Float32]) -> Activations:
        """The extremes of every tensor that would be rounded, and the means of what convolutions are given.

        Args:
            batches: preprocessed images, float32 [N, 3, S, S] each.
        """
        model, tensors, inputs = self._watched()
        session = open_session(model.SerializeToString())
        keys = [f"{end}({name})" for name in tensors for end in ("least", "largest")]
        keys += [f"average({name})" for name in inputs]
        found: dict[str, list[Float32]] = {key: [] for key in keys}
        for batch in batches:
            for key, values in zip(keys, session.run(keys, {self.backbone.input: batch}), strict=True):
                found[key].append(values)
        joined = {key: np.concatenate(values) for key, values in found.items()}
        return Activations(
            least={name: joined[f"least({name})"] for name in tensors},
            largest={name: joined[f"largest({name})"] for name in tensors},
            averages={name: joined[f"average({name})"].mean(axis=0) for name in inputs},
        )

    def _watched(self) -> tuple[ModelProto, tuple[str, ...], tuple[str, ...]]:
        """The graph that gives the extremes of tensors and the averages of channels in each image, and their names."""
        model = ModelProto()
        model.CopyFrom(self._prepared)
        graph = model.graph
        floats = {
            value.name
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        } - {tensor.name for tensor in graph.initializer}
        rounded = [node for node in graph.node if node.op_type in OPERATORS]
        names = tuple(dict.fromkeys(name for node in rounded for name in (*node.input, *node.output) if name in floats))
        inputs = tuple(dict.fromkeys(node.input[0] for node in rounded if node.op_type == "Conv"))
        del graph.output[:]
        for constant, value in (("shape", [0, -1]), ("channels", [0, 0, -1]), ("axis", [1]), ("places", [2])):
            graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.int64), f"watched_{constant}"))
        wanted = [(name, end, "shape", "axis") for name in names for end in ("least", "largest")]
        wanted += [(name, "average", "channels", "places") for name in inputs]
        for name, what, shape, axis in wanted:
            flat, result = f"{what}_of({name})", f"{what}({name})"
            graph.node.append(helper.make_node("Reshape", [name, f"watched_{shape}"], [flat]))
            graph.node.append(helper.make_node(_WATCHED[what], [flat, f"watched_{axis}"], [result], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
        return model, names, inputs

    def quantised(self, ranges: Ranges, *, averages: Mapping[str, Float32], kept: Collection[str] = ()) -> ModelProto:
        """The graph in int8.

        Args:
            ranges: of the activations.
            averages: of the channels of what convolutions are given, [C] by the tensor's name.
            kept: names of nodes that stay in float32.

        Raises:
            DataError: ONNX Runtime cannot do it.
        """
        with tempfile.TemporaryDirectory() as folder:
            known, out = Path(folder) / "ranges.json", Path(folder) / "int8.onnx"
            save_tensors_data(_tensors_data(ranges), known)
            try:
                quantize_static(
                    self._prepared,
                    out,
                    None,
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(OPERATORS),
                    nodes_to_exclude=list(kept),
                    per_channel=True,
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                    calibration_cache_path=known,
                    extra_options={"TensorQuantOverrides": self._weights},
                )
            except Exception as error:  # what ONNX Runtime raises has no common base
                raise DataError(f"{self.backbone.path}: ONNX Runtime cannot quantise it: {error}") from error
            model = onnx.load(out)
        bound(model)
        correct_biases(model, self._prepared, averages)
        _keep_weights(model, kept)
        return model


def _keep_weights(model: ModelProto, kept: Collection[str]) -> None:
    """Have the weights of convolutions that stay in float32 stay so when ONNX Runtime loads the graph.

    Its transformer WeightBiasQuantization rounds the weights of every convolution behind one that was rounded, with one
    scale for all channels, which loses more than to round them well does. It leaves alone what stands behind a
    DequantizeLinear with a scale for each channel, so they get one in which all scales are the same.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "Conv" and node.name in kept else None
        if maker is not None and maker.op_type == "DequantizeLinear":
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            channels = groups * values[node.input[1]].dims[1]
            result = f"{node.name}_input"
            ends = []
            for name in maker.input[1:]:
                each = np.repeat(numpy_helper.to_array(values[name]), channels)
                ends.append(f"{result}_{name}")
                graph.initializer.append(numpy_helper.from_array(each, ends[-1]))
            nodes.append(
                helper.make_node("DequantizeLinear", [maker.input[0], *ends], [result], name=f"{result}_dq", axis=1)
            )
            node.input[0] = result
        nodes.append(node)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    left = [n for n in nodes if n.op_type != "DequantizeLinear" or used & set(n.output)]
    del graph.node[:]
    graph.node.extend(left)


def _tensors_data(ranges: Ranges) -> TensorsData:
    ends = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, ends)


def _prepared(backbone: Path) -> ModelProto:
    """The graph with batch norms folded into convolutions, which would each be rounded for itself.

    Nodes have names, and every convolution has a bias.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        onnx.save_model(load_graph(backbone), plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
    opsets = {opset.domain if opset.domain != "ai.onnx" else "": opset.version for opset in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    for place, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{place}"
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in stored:
            none = np.zeros(stored[node.input[1]].dims[0], dtype=np.float32)
            model.graph.initializer.append(numpy_helper.from_array(none, f"{node.name}_bias"))
            node.input.append(f"{node.name}_bias")
    return model


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """What brings the mean of each rounded feature back to that of the exact one.

    Bias correction: Nagel et al., ICCV 2019, arXiv 1906.04721. A feature that is never negative gets a factor in place
    of a difference: where it was 0 it stays 0. A scaling by ranks sees a great change where it does not.

    Attributes:
        factor: float32 [D].
        shift: subtracted then, float32 [D].
    """

    factor: Float32
    shift: Float32

    @classmethod
    def of(cls, rounded_ND: Float32, exact_ND: Float32) -> Correction:
        """From what both give for some images, float32 [N, D]."""
        rounded, exact = rounded_ND.mean(axis=0, dtype=np.float64), exact_ND.mean(axis=0, dtype=np.float64)
        positive = (rounded_ND.min(axis=0) >= 0) & (exact_ND.min(axis=0) >= 0) & (rounded > 0)
        ratio = np.clip(exact / np.where(positive, rounded, 1.0), 1 / _MOST_FACTOR, _MOST_FACTOR)
        return cls(
            factor=np.where(positive, ratio, 1.0).astype(np.float32),
            shift=np.where(positive, 0.0, rounded - exact).astype(np.float32),
        )

    def apply(self, features: Float32) -> Float32:
        """Corrected features, float32 [..., D]."""
        return features * self.factor - self.shift


def save_corrected(model: ModelProto, backbone: Backbone, correction: Correction, out: Path) -> Path:
    """Write a backbone in int8 whose features are corrected, with its JSON beside it."""
    graph, before, scaled = model.graph, f"{backbone.output}_rounded", f"{backbone.output}_scaled"
    for node in graph.node:
        node.input[:] = [before if name == backbone.output else name for name in node.input]
        node.output[:] = [before if name == backbone.output else name for name in node.output]
    steps = (("Mul", before, correction.factor, scaled), ("Sub", scaled, correction.shift, backbone.output))
    for operator, given, amounts, result in steps:
        amount = f"{backbone.output}_{operator.lower()}"
        graph.initializer.append(numpy_helper.from_array(amounts, amount))
        graph.node.append(helper.make_node(operator, [given, amount], [result], name=f"{amount}_correction"))
    onnx.save_model(model, out)
    shutil.copyfile(card_path(backbone.path), card_path(out))
    return out


def quantise(backbone: Path, images: Callable[[], Iterable[Float32]], out: Path) -> Path:
    """Write a backbone in int8, rounded behind its first layers within the widest ranges, with its JSON beside it.

    Args:
        backbone: the ONNX file, its JSON beside it.
        images: gives batches of preprocessed images that show which values occur, float32 [N, 3, S, S].
        out: the file to write.

    Returns:
        `out`.

    Raises:
        DataError: the graph has nothing to quantise.
    """
    source = load_backbone(backbone)
    quantiser, exact = Quantiser(source), source.session()
    found = quantiser.watch(images())
    model = quantiser.quantised(found.widest, averages=found.averages, kept=quantiser.first(FIRST))
    rounded = open_session(model.SerializeToString())
    both = [(source.run(rounded, batch), source.run(exact, batch)) for batch in images()]
    given, known = (np.concatenate(features) for features in zip(*both, strict=True))
    return save_corrected(model, source, Correction.of(given, known), out)

"""A backbone in int8: weights per channel, activations by the ranges that real images give them.

N: images of a batch, S: input side, D: features.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
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
from training.exporting.weights8 import bound, overrides
from training.features.backbone import Backbone, card_path, load_backbone
from training.onnx_files import load_graph, open_session

# What has weights, and what lies between two of them, so that a tensor stays in int8 on its way. The pooling behind the
# last of them is left out: the features would otherwise be rounded to 256 values.
WEIGHTED = ("Conv", "Gemm", "MatMul")
OPERATORS = (*WEIGHTED, "Add", "Clip", "Concat", "MaxPool", "Relu")

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest value of each tensor that is rounded, by its name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Extremes:
    """What values the activations had on some images.

    Attributes:
        least: of each tensor in each image, [N] by the tensor's name.
        largest: likewise.
    """

    least: Mapping[str, Float32]
    largest: Mapping[str, Float32]

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
    have 7. So every CPU computes the same numbers.

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

    @property
    def sensitive(self) -> tuple[str, ...]:
        """Nodes with little to compute that lose much by rounding, and what behind them only bounds what they give.

        These are the convolutions of the image itself and those in groups.
        """
        nodes, source = self._prepared.graph.node, self.backbone.input
        grouped = [
            node
            for node in nodes
            if node.op_type == "Conv"
            and (source in node.input or any(a.name == "group" and a.i > 1 for a in node.attribute))
        ]
        made = {name for node in grouped for name in node.output}
        bounds = [node for node in nodes if node.op_type in ("Clip", "Relu") and node.input[0] in made]
        return tuple(node.name for node in (*grouped, *bounds))

    def watch(self, batches: Iterable[Float32]) -> Extremes:
        """The extremes of every tensor that would be rounded.

        Args:
            batches: preprocessed images, float32 [N, 3, S, S] each.
        """
        model, names = self._watched()
        session = open_session(model.SerializeToString())
        found: dict[str, list[Float32]] = {f"{end}({name})": [] for name in names for end in ("least", "largest")}
        for batch in batches:
            for key, values in zip(found, session.run(list(found), {self.backbone.input: batch}), strict=True):
                found[key].append(values)
        joined = {key: np.concatenate(values) for key, values in found.items()}
        return Extremes(
            least={name: joined[f"least({name})"] for name in names},
            largest={name: joined[f"largest({name})"] for name in names},
        )

    def _watched(self) -> tuple[ModelProto, tuple[str, ...]]:
        """The graph whose outputs are the extremes of each tensor in each image, and the tensors' names."""
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
        del graph.output[:]
        graph.initializer.append(numpy_helper.from_array(np.array([0, -1], dtype=np.int64), "watched_shape"))
        graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "watched_axis"))
        for name in names:
            graph.node.append(helper.make_node("Reshape", [name, "watched_shape"], [f"flat({name})"]))
            for end, operator in (("least", "ReduceMin"), ("largest", "ReduceMax")):
                result = f"{end}({name})"
                graph.node.append(helper.make_node(operator, [f"flat({name})", "watched_axis"], [result], keepdims=0))
                graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [None]))
        return model, names

    def quantised(self, ranges: Ranges, *, kept: Iterable[str] = ()) -> ModelProto:
        """The graph in int8.

        Args:
            ranges: of the activations.
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
        return model


def _tensors_data(ranges: Ranges) -> TensorsData:
    ends = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, ends)


def _prepared(backbone: Path) -> ModelProto:
    """The graph with batch norms folded into convolutions, which would each be rounded for itself; nodes have names."""
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
    return model


def save_corrected(model: ModelProto, backbone: Backbone, shift_D: Float32, out: Path) -> Path:
    """Write a backbone in int8 that subtracts what rounding moved the mean features by, with its JSON beside it.

    Bias correction: Nagel et al., ICCV 2019, arXiv 1906.04721.
    """
    graph, before, amount = model.graph, f"{backbone.output}_rounded", f"{backbone.output}_shift"
    for node in graph.node:
        node.input[:] = [before if name == backbone.output else name for name in node.input]
        node.output[:] = [before if name == backbone.output else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(shift_D, amount))
    correction = f"{backbone.output}_correction"
    graph.node.append(helper.make_node("Sub", [before, amount], [backbone.output], name=correction))
    onnx.save_model(model, out)
    shutil.copyfile(card_path(backbone.path), card_path(out))
    return out


def quantise(backbone: Path, images: Callable[[], Iterable[Float32]], out: Path) -> Path:
    """Write a backbone in int8, rounded in all layers within the widest ranges, with its JSON beside it.

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
    model = quantiser.quantised(quantiser.watch(images()).widest)
    rounded = open_session(model.SerializeToString())
    shifts = [source.run(rounded, batch) - source.run(exact, batch) for batch in images()]
    return save_corrected(model, source, np.concatenate(shifts).mean(axis=0), out)

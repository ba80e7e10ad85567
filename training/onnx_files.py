"""ONNX files: the one place where torch modules become graphs, graphs are read, and sessions are opened."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnx.version_converter
import onnxruntime as ort
import torch
from torch import Tensor, nn

from model.errors import BundleError, DataError
from model.outside.threads import available_cpus

OPSET = 20


def to_onnx(
    module: nn.Module, example: dict[str, Tensor], outputs: list[str], *, dynamic: tuple[str, ...] = ("batch",)
) -> onnx.ModelProto:
    """Export a module with every weight inside and the named first dimensions of all inputs dynamic."""
    module = module.cpu().eval()
    free = {place: torch.export.Dim(name, min=1) for place, name in enumerate(dynamic)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module,
            tuple(example.values()),
            input_names=list(example),
            output_names=outputs,
            dynamic_shapes=tuple(free for _ in example),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise BundleError("torch exported no ONNX program")
    model = program.model_proto
    forget_origin(model)
    return model


def open_session(graph: bytes, threads: int | None = None) -> ort.InferenceSession:
    """A CPU session on so many cores, by default all that this process may use."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cpus()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def load_graph(backbone: Path) -> onnx.ModelProto:
    """The graph of a backbone, converted to opset `OPSET`; DataError where it cannot be."""
    model = onnx.load(backbone)
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version > OPSET:
        raise DataError(f"{backbone}: uses ONNX opset {version}; at most {OPSET} can be joined with the classifier")
    if version < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter raises bare RuntimeErrors and its own types
            raise DataError(f"{backbone}: cannot be converted from ONNX opset {version} to {OPSET}: {error}") from None
    return model


def forget_origin(model: onnx.ModelProto) -> None:
    """Remove what exporters note beside the network.

    Their stack traces hold paths of the machine, and with them the hash of a file would depend on where the program
    lies.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")

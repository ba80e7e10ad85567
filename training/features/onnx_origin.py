"""What an ONNX file tells of the machine that made it, taken out."""

from __future__ import annotations

import onnx


def forget_origin(model: onnx.ModelProto) -> None:
    """Remove what exporters note beside the network.

    Their stack traces hold paths of the machine, and with them the hash of a file would depend on where the program
    lies.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")

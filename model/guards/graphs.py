"""An ONNX graph of a stranger: which operators it has, where its weights lie, and how large its tensors become.

All of it is read from the file; nothing runs. What is refused here could read other files, run without end, or take any
amount of memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from model.errors import BundleError

MAX_NODES = 50_000
MAX_TENSOR_BYTES = 2**28
"""Of any tensor inside a graph, for two rows."""

_STANDARD = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil
    Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN
    LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink
    Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor

    Attention BatchNormalization Conv ConvInteger ConvTranspose DequantizeLinear DynamicQuantizeLinear Einsum Gemm
    GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization MatMul
    MatMulInteger MeanVarianceNormalization QLinearConv QLinearMatMul QuantizeLinear RMSNormalization Softmax
    AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool

    ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare TopK

    Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike Flatten Gather GatherElements GatherND
    Identity NonZero OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size Slice SpaceToDepth Split
    Squeeze Tile Transpose Trilu Unsqueeze Upsample
"""
# What ONNX Runtime's own quantisation writes in the form QOperator, and for 16 bits.
_CONTRIBUTED = """
    DequantizeLinear QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu
    QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QuantizeLinear
"""
ALLOWED: Mapping[str, frozenset[str]] = {
    "": frozenset(_STANDARD.split()),
    "com.microsoft": frozenset(_CONTRIBUTED.split()),
}
"""Operators by domain: what backbones and our own graphs are made of. No control flow, no state, no chance, no text."""

_SIZED_BY = {
    "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2), "Resize": (1, 2, 3),
    "Tile": (1,), "Upsample": (1,),
}  # fmt: skip
"""Operators whose results may be larger than what goes in, with the inputs that say how large."""

_TYPES = {
    4: (TensorProto.INT4, TensorProto.UINT4),
    8: (TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8),
    16: (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16),
    32: (TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32),
    64: (TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64),
}
_BITS: Mapping[int, int] = {int(kind): bits for bits, kinds in _TYPES.items() for kind in kinds}
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_SMALL = 1024  # elements up to which a tensor may say how large another becomes


def read_graph(data: bytes, name: str) -> ModelProto:
    """The model in an ONNX file.

    Raises:
        BundleError: it is none.
    """
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise BundleError(f"{name}: not readable as ONNX, cannot be loaded: {error}") from None


def check_graph(model: ModelProto, name: str, *, inputs: Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Refuse a model that is more than a bounded computation on its inputs.

    Args:
        model: as it was read, without external data.
        name: of the file, for errors.
        inputs: names of the inputs with their shapes for two rows, from which other shapes are inferred.

    Raises:
        BundleError: names what is not allowed.
    """
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise BundleError(f"{name}: functions, training steps and sparse weights are not allowed in a graph")
    if len(graph.node) > MAX_NODES:
        raise BundleError(f"{name}: the graph has {len(graph.node)} nodes; at most {MAX_NODES} are allowed")
    if any(isinstance(text, bytes) for text in _names(graph)):
        raise BundleError(f"{name}: a name in the graph is no text in UTF-8")
    for tensor in graph.initializer:
        _check_tensor(tensor, name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.HasField("type") and value.type.WhichOneof("value") not in (None, "tensor_type"):
            raise BundleError(f"{name}: {value.name!r} is no tensor; only tensors are allowed in a graph")
    for node in graph.node:
        _check_node(node, name)
    _check_order(graph, name)
    if inputs is not None:
        _check_sizes(model, name, inputs)


def _names(graph: GraphProto) -> Iterator[str | bytes]:
    """Every name in a graph; protobuf gives bytes where one is no text."""
    yield graph.name
    yield from (item.name for item in (*graph.initializer, *graph.input, *graph.output, *graph.value_info))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _check_node(node: NodeProto, name: str) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if node.op_type not in ALLOWED.get(domain, ()):
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise BundleError(f"{name}: the operator {_short(operator)} is not allowed in a graph")
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs:
            raise BundleError(f"{name}: graphs inside the operator {node.op_type} are not allowed")
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors or attribute.HasField("tp"):
            raise BundleError(f"{name}: sparse tensors in the operator {node.op_type} are not allowed")
        if node.op_type == "Constant" and attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
            raise BundleError(f"{name}: text in a graph is not allowed")
        for tensor in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
            _check_tensor(tensor, name)


def _check_tensor(tensor: TensorProto, name: str) -> None:
    """The numbers lie in the file, and there are as many as the shape says."""
    label = f"{name}: the weight {_short(tensor.name)!r}"
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data or tensor.HasField("segment"):
        raise BundleError(f"{label} lies in another file; save the network as one ONNX file")
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise BundleError(f"{label} has the type {tensor.data_type}; expected numbers")
    if any(size < 0 for size in tensor.dims):
        raise BundleError(f"{label} has the shape {list(tensor.dims)[:8]}")
    elements = math.prod(tensor.dims)
    stored = len(tensor.raw_data) * 8 // bits if tensor.HasField("raw_data") else _typed_elements(tensor, bits)
    if stored < elements:
        raise BundleError(f"{label} has {elements} elements by its shape, but only {stored} are stored")


def _typed_elements(tensor: TensorProto, bits: int) -> int:
    stored = sum(len(getattr(tensor, field)) for field in _TYPED)
    return stored * 8 // bits if bits < 8 else stored


def _check_order(graph: GraphProto, name: str) -> None:
    """Nodes use what others before them made; and how large a result is does not depend on what an image shows."""
    known = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    of_image = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        missing = [used for used in node.input if used and used not in known]
        if missing:
            raise BundleError(f"{name}: {node.op_type} uses {_short(missing[0])!r}, which nothing before it makes")
        for place in _SIZED_BY.get(node.op_type, ()):
            if place < len(node.input) and node.input[place] in of_image:
                raise BundleError(f"{name}: the size of what {node.op_type} makes depends on the image's content")
        known.update(node.output)
        if node.op_type not in ("Shape", "Size") and not of_image.isdisjoint(node.input):
            of_image.update(node.output)


def _check_sizes(model: ModelProto, name: str, inputs: Mapping[str, tuple[int, ...]]) -> None:
    """No tensor of those whose shape can be inferred is too large."""
    plan = _without_weights(model)
    for value in plan.graph.input:
        if value.name in inputs:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for size in inputs[value.name]:
                shape.dim.add().dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(plan, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise BundleError(f"{name}: its shapes do not fit together: {_short(str(error))}") from None
    for value in (*inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        size = _bytes_of(tensor)
        if size > MAX_TENSOR_BYTES:
            shape = "x".join(str(dim.dim_value) for dim in tensor.shape.dim)
            raise BundleError(
                f"{name}: {_short(value.name)!r} would have {size} bytes ({shape}); "
                f"at most {MAX_TENSOR_BYTES} are allowed for two rows"
            )


def _bytes_of(tensor: TypeProto.Tensor) -> int:
    """Bytes of a tensor whose shape is known; else those of the sizes that are."""
    known: list[int] = [dim.dim_value for dim in tensor.shape.dim if dim.WhichOneof("value") == "dim_value"]
    return math.prod(known) * _BITS.get(tensor.elem_type, 32) // 8


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with the shapes of its weights but not their numbers, so that nothing large is copied."""
    graph = model.graph
    plan = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    plan.graph.name = graph.name
    plan.graph.node.extend(graph.node)
    plan.graph.input.extend(graph.input)
    plan.graph.output.extend(_untyped_outputs(graph))
    for tensor in graph.initializer:
        small = math.prod(tensor.dims) <= _SMALL
        plan.graph.initializer.append(
            tensor if small else TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        )
    return plan


def _untyped_outputs(graph: GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """The outputs without the shapes that the file claims for them."""
    for value in graph.output:
        yield onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}..."

"""Weights of 8 bits that no CPU overflows with: neighbours that are added first are bounded together.

Without VNNI a CPU multiplies unsigned activations of 8 bits by signed weights and adds the products of two neighbours
in 16 bits, which saturate. 7 bits for every weight (`reduce_range` of ONNX Runtime) avoid that and double the step. It
is enough that two neighbours of one sign have a sum of at most 128, since 255 * 128 < 2^15. So each output channel has
the scale whose squared error is least, with neighbours beyond the bound moved to it: about 1.3 times the finest one.

O: output channels, I: input channels of a group, K: weights of an output channel in the order of multiplication.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

_BOUND = 128
_LARGEST = 127
_FACTORS = np.linspace(1, 2, 11)

Overrides = dict[str, list[dict[str, Any]]]
"""What ONNX Runtime's quantisation is told of a tensor, for each of its channels."""


def channel_ranges(weights: NDArray[np.float32], *, bounded: bool = True) -> NDArray[np.float32]:
    """The largest value that each output channel can hold, float32 [O].

    Args:
        weights: of a convolution, [O, I, ...].
        bounded: whether neighbours are; else it is the largest weight.
    """
    flat = np.abs(weights).reshape(len(weights), -1)
    largest: NDArray[np.float32] = np.maximum(flat.max(axis=1), np.finfo(np.float32).tiny)
    if not bounded:
        return largest
    best, chosen = np.full(len(weights), np.inf), largest.copy()
    for factor in _FACTORS:
        scale = (largest * factor / _LARGEST).astype(np.float64)
        rounded = weights / scale.reshape(-1, *[1] * (weights.ndim - 1))
        moved = sum((np.maximum(_excess(row), 0) ** 2).sum(axis=1) / 2 for row in _orders(rounded))
        error = (moved + flat.shape[1] / 12) * scale**2  # a twelfth of a step, squared, is lost by rounding
        better = error < best
        best[better], chosen[better] = error[better], (largest * factor)[better]
    return chosen


def overrides(model: ModelProto) -> Overrides:
    """Ranges of the weights of all convolutions in a graph."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: Overrides = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in stored:
            weights = numpy_helper.to_array(stored[node.input[1]])
            ranges = channel_ranges(weights, bounded=not _is_depthwise(node, weights))
            channels: list[dict[str, Any]] = [{"rmin": -largest, "rmax": largest} for largest in ranges]
            channels[0] |= {"axis": 0, "reduce_range": False}
            found[node.input[1]] = channels
    return found


def bound(model: ModelProto) -> None:
    """Move the neighbours in the convolutions of a quantised graph to the bound where they are beyond it."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, (of_weights, *_) in rounded_convolutions(model):
        tensor = stored[of_weights.input[0]]
        weights = numpy_helper.to_array(tensor)
        if not _is_depthwise(node, weights):
            tensor.CopyFrom(numpy_helper.from_array(bounded_weights(weights), tensor.name))


def rounded_convolutions(model: ModelProto) -> Iterator[tuple[NodeProto, list[NodeProto]]]:
    """Convolutions of a quantised graph that have stored weights, with what brings weights and bias back to floats."""
    stored = {tensor.name for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in made and made[node.input[1]].input[0] in stored:
            yield node, [made[name] for name in node.input[1:]]


def bounded_weights(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights of a convolution, [O, I, ...], with no two neighbours of one sign beyond the bound."""
    by_channel = _moved(weights.reshape(len(weights), -1).astype(np.int32)).reshape(weights.shape)
    by_pixel = np.moveaxis(by_channel, 1, -1)
    moved = _moved(by_pixel.reshape(len(weights), -1)).reshape(by_pixel.shape)
    return np.ascontiguousarray(np.moveaxis(moved, -1, 1).astype(np.int8))


def _moved(row_OK: NDArray[np.int32]) -> NDArray[np.int32]:
    excess = np.maximum(_excess(row_OK), 0)
    pairs, half = excess.shape[1], excess // 2
    moved = row_OK.copy()
    moved[:, : 2 * pairs : 2] -= np.sign(row_OK[:, : 2 * pairs : 2]) * half
    moved[:, 1 : 2 * pairs : 2] -= np.sign(row_OK[:, 1 : 2 * pairs : 2]) * (excess - half)
    return moved


def _excess(row_OK: NDArray[Any]) -> NDArray[Any]:
    """How far each two neighbours are beyond the bound, at most 0 where they are not, [O, K/2]."""
    pairs = row_OK.shape[1] // 2
    even, odd = row_OK[:, : 2 * pairs : 2], row_OK[:, 1 : 2 * pairs : 2]
    return np.where(even * odd > 0, np.abs(even) + np.abs(odd) - _BOUND, 0)


def _orders(weights: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The orders in which kernels multiply, [O, K]: channel by channel, and pixel by pixel."""
    channels = len(weights)
    yield weights.reshape(channels, -1)
    if weights[0, 0].size > 1:
        yield np.moveaxis(weights, 1, -1).reshape(channels, -1)


def _is_depthwise(node: NodeProto, weights: NDArray[Any]) -> bool:
    """Whether each channel has a kernel of its own; these are multiplied in 32 bits."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return weights.shape[1] == 1 and groups == len(weights)

"""Biases of convolutions in int8 that take back what the rounding of their weights adds to each channel.

Bias correction, Nagel et al., ICCV 2019, arXiv 1906.04721, section 4.2: rounding changes the weights W by E, and so the
mean of an output channel by E times the mean of the inputs. These errors are the same in every image, add up from layer
to layer, and cost nothing to undo.

O: output channels, I: input channels of a group, C: input channels of all groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from model.head import Float32
from training.exporting.weights8 import rounded_convolutions


def correct_biases(model: ModelProto, exact: ModelProto, averages: Mapping[str, Float32]) -> None:
    """Subtract from the biases what the rounded weights add to the mean of each channel.

    Convolutions in float32 are left as they are. What padding adds at the border is not counted.

    Args:
        model: quantised, with the names of nodes in `exact`; changed in place.
        exact: the graph before, in which every convolution has a bias.
        averages: mean of each channel of the inputs of convolutions, [C] by the tensor's name in `exact`.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {tensor.name: tensor for tensor in exact.graph.initializer}
    before = {node.name: node for node in exact.graph.node}
    for node, (of_weights, of_bias) in rounded_convolutions(model):
        given, kernel = before[node.name].input[:2]
        values, scale = (numpy_helper.to_array(stored[name]) for name in of_weights.input[:2])
        rounded = values * scale.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float64)
        added = added_means(rounded - numpy_helper.to_array(weights[kernel]), averages[given])
        bias, step = of_bias.input[:2]
        steps = np.rint(added / numpy_helper.to_array(stored[step])).astype(np.int32)
        stored[bias].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored[bias]) - steps, bias))


def added_means(errors: NDArray[np.float64], averages: Float32) -> NDArray[np.float64]:
    """What errors of the weights add to the mean of each output channel, float64 [O].

    Args:
        errors: rounded weights less exact ones, [O, I, ...].
        averages: of the input channels, [C].
    """
    by_input = errors.reshape(*errors.shape[:2], -1).sum(axis=2)
    groups = len(averages) // by_input.shape[1]
    by_group = by_input.reshape(groups, -1, by_input.shape[1])
    added: NDArray[np.float64] = np.einsum("goi,gi->go", by_group, averages.reshape(groups, -1)).ravel()
    return added

"""Benchmark features as pictures: a backbone that reads each feature off one pixel, so that they can go through HTTP.

The three bytes of a pixel are a whole number of 24 bits, which is as much as a float32 distinguishes; the features lie
between their least and their largest value in steps of 2^-24 of the range. N: images, S: side, D: features.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model import manifest
from training.datasets.dataset import BackboneSource, Dataset
from training.features.backbone import card_path, load_backbone

LEVELS = 2**24 - 1


@dataclass(frozen=True, kw_only=True)
class PixelCode:
    """Features to pixels and back.

    Attributes:
        low: the least feature.
        step: between neighbouring numbers.
        dimension: D.
    """

    low: float
    step: float
    dimension: int

    @classmethod
    def of(cls, features_ND: NDArray[np.float32]) -> PixelCode:
        """The code for the range of these features."""
        low, high = float(features_ND.min()), float(features_ND.max())
        return cls(low=low, step=(high - low) / LEVELS, dimension=features_ND.shape[1])

    @property
    def side(self) -> int:
        """S, the least square that holds all features."""
        return math.ceil(math.sqrt(self.dimension))

    def picture(self, feature_D: NDArray[np.float32]) -> bytes:
        """A PNG of one row."""
        numbers = np.zeros(self.side**2, dtype=np.int64)
        numbers[: self.dimension] = np.rint((feature_D.astype(np.float64) - self.low) / self.step)
        pixels = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels.reshape(self.side, self.side, 3)).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def write(self, file: Path) -> Path:
        """The backbone as an ONNX file with its JSON beside it: image [N, 3, S, S] in 0..1 to features [N, D]."""
        weights = {
            "levels": np.float32(255),
            "places": np.array([65536, 256, 1], dtype=np.float32).reshape(1, 3, 1, 1),
            "channel": np.array([1]),
            "start": np.array([0]),
            "end": np.array([self.dimension]),
            "step": np.float32(self.step),
            "low": np.float32(self.low),
        }
        nodes = [
            helper.make_node("Mul", ["image", "levels"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["bytes"]),
            helper.make_node("Mul", ["bytes", "places"], ["parts"]),
            helper.make_node("ReduceSum", ["parts", "channel"], ["numbers"], keepdims=0),
            helper.make_node("Flatten", ["numbers"], ["flat"]),
            helper.make_node("Slice", ["flat", "start", "end", "channel"], ["codes"]),
            helper.make_node("Mul", ["codes", "step"], ["above"]),
            helper.make_node("Add", ["above", "low"], ["features"]),
        ]
        side = self.side
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, side, side])
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", self.dimension])
        stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
        graph = helper.make_graph(nodes, "pixels", [image], [features], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, file)
        spec = {"size": side, "resize": side, "mean": [0, 0, 0], "std": [1, 1, 1], "feature_dim": self.dimension}
        card_path(file).write_text(json.dumps(spec))
        return file


def with_pixel_backbone(dataset: Dataset, folder: Path) -> tuple[Dataset, PixelCode]:
    """A data set without a backbone with this one, which is written into a folder."""
    code = PixelCode.of(dataset.features)
    opened = load_backbone(code.write(folder / "pixels.onnx"))
    source = BackboneSource(
        path=opened.path,
        spec=opened.spec,
        description=manifest.BackboneInfo(name="pixels", fingerprint=opened.fingerprint, feature_dim=code.dimension),
    )
    return dataclasses.replace(dataset, backbone=source), code

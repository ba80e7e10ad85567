"""Small data folders and backbones for the tests of the path from photos to features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

CLASSES = {"ape": ("seen", (1.0, 0.0)), "Blue Whale": ("seen", (0.0, 1.0)), "fox": ("unseen", (0.5, 0.25))}
ATTRIBUTES = ("furry", "wet")


def write_photo(path: Path, seed: int, size: tuple[int, int] = (24, 20)) -> None:
    """A photo of coarse noise; the format follows the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


def write_table(
    root: Path,
    classes: Mapping[str, tuple[str, Sequence[float]]] = CLASSES,
    attributes: Sequence[str] = ATTRIBUTES,
) -> None:
    lines = [",".join(["class", "split", *attributes])]
    lines += [",".join([name, split, *(f"{v:g}" for v in values)]) for name, (split, values) in classes.items()]
    (root / "classes.csv").write_text("\n".join(lines) + "\n")


def write_data(root: Path, per_class: int = 4) -> Path:
    """A sound data folder with `per_class` photos of each of `CLASSES`."""
    root.mkdir(parents=True, exist_ok=True)
    write_table(root)
    for number, name in enumerate(CLASSES):
        for i in range(per_class):
            ending = "jpg" if i % 2 else "png"
            write_photo(root / "images" / name / f"{i:02d}.{ending}", seed=100 * number + i)
    return root


def write_backbone(
    path: Path,
    *,
    size: int = 8,
    dim: int = 5,
    seed: int = 0,
    batch: str | int = "batch",
    card: Mapping[str, Any] | None = None,
    function: str = "Tanh",
) -> Path:
    """A backbone of one matrix and one elementwise function, with its JSON; `card` replaces fields of the JSON."""
    weights = np.random.default_rng(seed).standard_normal((3 * size * size, dim)).astype(np.float32) / size
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["product"]),
            helper.make_node(function, ["product"], ["features"]),
        ],
        "backbone",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, dim])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, path)
    fields = {
        "input": "image",
        "output": "features",
        "layout": "NCHW",
        "size": size,
        "resize": f"shorter side to {size}, centre crop, bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "feature_dim": dim,
        **(card or {}),
    }
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return path


def save_random_resnet101(path: Path) -> None:
    """torchvision's ResNet-101 with random weights as a state dict.

    Its BatchNorm statistics come from one forward pass, without which the features of 101 random layers overflow.
    """
    import torch
    from torchvision.models import resnet101

    torch.manual_seed(0)
    network = resnet101(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over passes, so one pass is enough
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    torch.save(network.state_dict(), path)

"""Backbone files from torch networks, torchvision's ResNet-101 among them: ONNX for batches of any size, and a JSON.

N: images, D: features.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torchvision.models import ResNet101_Weights, resnet101

from model.bundle import sha256_of
from model.errors import DataError
from model.preprocess import PreprocessSpec
from training.console import OnProgress
from training.download import download
from training.features.backbone import Backbone, card_path, load_backbone
from training.onnx_files import to_onnx

TOLERANCE = 1e-4  # of the largest feature
_TRACED, _TRIED = 2, 3  # images per batch in the export and in the comparison: unlike, so that a fixed batch shows


def export_backbone(
    module: torch.nn.Module,
    spec: PreprocessSpec,
    out: Path,
    *,
    feature_dim: int,
    trained_on: str,
    licence: str,
    seed: int = 0,
) -> Backbone:
    """Write a network as ONNX with its JSON, after comparing both on a random batch.

    Args:
        module: maps float32 [N, 3, S, S] to float32 [N, D]; it is exported in evaluation mode and left as it is.
        spec: the preprocessing it was trained with.
        out: the ONNX file; the JSON goes beside it. What is there is replaced.
        feature_dim: D.
        trained_on: written into the JSON.
        licence: written into the JSON.
        seed: of the random batch.

    Returns:
        The backbone, as :func:`training.features.backbone.load_backbone` would read it.

    Raises:
        DataError: `out` does not end in `.onnx`, the graph does not have the announced shapes, or ONNX Runtime and
            torch differ by more than `TOLERANCE` of the largest feature.
    """
    if out.suffix != ".onnx":
        raise DataError(f"{out}: expected a file name that ends in .onnx")
    network = copy.deepcopy(module).cpu().eval()
    folder = out.with_name(f"{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        draft = folder / out.name
        example = {"image": torch.zeros(_TRACED, 3, spec.size, spec.size)}
        draft.write_bytes(to_onnx(network, example, ["features"]).SerializeToString())
        card = {
            "input": "image",
            "output": "features",
            "layout": "NCHW",
            **spec.to_json(),
            "feature_dim": feature_dim,
            "trained_on": trained_on,
            "licence": licence,
        }
        card_path(draft).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        backbone = load_backbone(draft)
        compare(network, backbone, seed=seed)
        draft.replace(out)
        card_path(draft).replace(card_path(out))
    finally:
        shutil.rmtree(folder)
    return replace(backbone, path=out)


def compare(network: torch.nn.Module, backbone: Backbone, *, seed: int = 0) -> float:
    """The largest difference between torch and ONNX Runtime on a random batch, relative to the largest feature.

    Raises:
        DataError: it is above `TOLERANCE`, or a feature is not finite.
    """
    size = backbone.spec.size
    images = np.random.default_rng(seed).standard_normal((_TRIED, 3, size, size), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    if not np.isfinite(expected).all():
        raise DataError(
            "the network gives features that are not finite numbers on a random batch; are its weights sound?"
        )
    actual = backbone.run(backbone.session(), images)
    if actual.shape != expected.shape:
        raise DataError(f"{backbone.path}: expected features {expected.shape} as torch gives, got {actual.shape}")
    difference = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not difference <= TOLERANCE:
        raise DataError(
            f"{backbone.path}: ONNX Runtime and torch differ by {difference:.2e} of the largest feature, "
            f"at most {TOLERANCE:.0e} is allowed"
        )
    return difference


FEATURE_DIM = 2048
# torchvision's first ImageNet weights: plain cross-entropy training like that behind the features of the GZSL
# literature. The second ones were trained with mixing and label smoothing, which changes the pooled features.
IMAGENET = ResNet101_Weights.IMAGENET1K_V1
SPEC = PreprocessSpec(size=224, resize=256)
_HEAD = ("fc.weight", "fc.bias")
_SHOWN = 5  # keys named in an error


def resnet101_features(state: Mapping[str, torch.Tensor], source: str) -> torch.nn.Module:
    """ResNet-101 without its last layer: float32 [N, 3, 224, 224] to pooled features [N, 2048].

    Args:
        state: torchvision's state dict, with or without the last layer, which is left out.
        source: named in errors.

    Raises:
        DataError: keys are missing or unexpected, or a tensor has another shape.
    """
    network = resnet101(weights=None)
    network.fc = torch.nn.Identity()
    wanted = network.state_dict()
    given = {key: value for key, value in state.items() if key not in _HEAD}
    # Files from before torch 0.4 lack these counters, which evaluation never reads.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key} (expected {_shape(wanted[key])}, found {_shape(value)})"
        for key, value in given.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    faults = [
        f"{what}: {', '.join(keys[:_SHOWN])}{f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("other shapes", shapes))
        if keys
    ]
    if faults:
        raise DataError(f"{source} is no state dict of torchvision's resnet101: {'; '.join(faults)}")
    network.load_state_dict(given, strict=False)
    network.eval()
    return cast("torch.nn.Module", network)


def resnet101_backbone(weights: Path, out: Path, *, imagenet: bool) -> Backbone:
    """Write torchvision's ResNet-101 without its last layer as a backbone; see :func:`export_backbone`.

    Args:
        weights: a state dict.
        out: the ONNX file.
        imagenet: whether they are those of :func:`fetch_imagenet_weights`, which the JSON then says.

    Raises:
        DataError: the weights are no state dict of this network, or as :func:`export_backbone`.
    """
    return export_backbone(
        resnet101_features(read_state_dict(weights), source=str(weights)),
        SPEC,
        out,
        feature_dim=FEATURE_DIM,
        trained_on="ImageNet-1k (torchvision IMAGENET1K_V1)" if imagenet else describe_weights(weights),
        licence="BSD-3-Clause" if imagenet else "unknown",
    )


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict without running any code in the file.

    A checkpoint with the state dict under `state_dict` is accepted, and so are keys with the prefix `module.` that
    data-parallel training leaves.

    Raises:
        DataError: there is no such file, it holds more than tensors, or something else than a state dict.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file with a state dict, found no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes the unpickler raise has no common class
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: not readable as a state dict of plain tensors: {reason}") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, torch.Tensor) for v in content.values())
    ):
        raise DataError(f"{path}: expected a state dict, names to tensors, found {type(content).__name__}")
    return {str(key).removeprefix("module."): cast("torch.Tensor", value) for key, value in content.items()}


def fetch_imagenet_weights(*, url: str = IMAGENET.url, progress: OnProgress | None = None) -> Path:
    """Path of torchvision's ImageNet weights, downloaded into torch's own cache unless they are there.

    Raises:
        DataError: the download failed or has another checksum.
    """
    name = url.rsplit("/", 1)[-1]
    try:
        return download(url, Path(torch.hub.get_dir()) / "checkpoints" / name, progress=progress)
    except DataError as error:
        raise DataError(f"{error}; or pass a state dict of your own with --weights FILE") from None


def describe_weights(path: Path) -> str:
    """What a backbone's JSON says about weights from a file."""
    return f"state dict {path.name}, sha256 {sha256_of(path)}"


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"

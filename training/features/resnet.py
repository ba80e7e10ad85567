"""torchvision's ResNet-101 as a backbone: where its weights come from, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torchvision.models import ResNet101_Weights, resnet101

from model.errors import DataError
from model.preprocess import PreprocessSpec
from training.download import Progress, download

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


def fetch_imagenet_weights(*, url: str = IMAGENET.url, progress: Progress | None = None) -> Path:
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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"state dict {path.name}, sha256 {digest}"


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"

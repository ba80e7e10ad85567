"""From images or a benchmark to features, to a D3GZSL classifier, to a bundle.

The names below are what programs may import; they are loaded when they are first used, so that importing this package
alone costs next to nothing. `docs/architecture.md` says which folder holds what.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.datasets.benchmark import load_benchmark
    from training.datasets.dataset import Dataset
    from training.datasets.opening import open_data
    from training.evaluation import evaluate
    from training.exporting.export import export
    from training.features.backbone import load_backbone
    from training.features.extraction import extract
    from training.features.own_photos import read_own_photos
    from training.recipes import load_recipe
    from training.runs.contents import Trained
    from training.runs.fit import fit

__all__ = [
    "Dataset",
    "TrainConfig",
    "Trained",
    "evaluate",
    "export",
    "extract",
    "fit",
    "load_backbone",
    "load_benchmark",
    "load_recipe",
    "open_data",
    "read_own_photos",
]

_DEFINED_IN = {
    "Dataset": "training.datasets.dataset",
    "TrainConfig": "training.config",
    "Trained": "training.runs.contents",
    "evaluate": "training.evaluation",
    "export": "training.exporting.export",
    "extract": "training.features.extraction",
    "fit": "training.runs.fit",
    "load_backbone": "training.features.backbone",
    "load_benchmark": "training.datasets.benchmark",
    "load_recipe": "training.recipes",
    "open_data": "training.datasets.opening",
    "read_own_photos": "training.features.own_photos",
}

# ONNX Runtime's official builds send usage events to their maker over the network and keep a device id in the home
# directory, unless this variable stands before the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_DEFINED_IN[name]), name)
    except ModuleNotFoundError as error:
        from model.outside.extras import what_is_missing

        raise what_is_missing(error) or error from None

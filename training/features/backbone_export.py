"""A torch network as a backbone file: one ONNX file for batches of any size, and its JSON.

N: images; S: input side; D: features.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model.errors import DataError
from model.preprocess import PreprocessSpec
from training.features.backbone import Backbone, card_path, load_backbone
from training.features.onnx_origin import forget_origin

OPSET = 20
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
        _write_graph(network, spec, draft)
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


def _write_graph(network: torch.nn.Module, spec: PreprocessSpec, path: Path) -> None:
    example = torch.zeros(_TRACED, 3, spec.size, spec.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own libraries; the comparison decides
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise DataError(f"{path}: torch exported no ONNX program")
    model = program.model_proto  # made anew at every access
    forget_origin(model)
    path.write_bytes(model.SerializeToString())

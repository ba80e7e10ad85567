"""What `--backbone` of `make` names: the ImageNet weights, an ONNX file, or a bundle, whose own backbone is taken."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from model.bundle import Bundle
from model.errors import BundleError, DataError
from model.manifest import MANIFEST
from training.console import OnStage
from training.features.backbone import Backbone, card_path, load_backbone
from training.files import renamed

IMAGENET = "imagenet"
_IMAGE, _FEATURES = "image", "features"  # of a bundle's trunk


def named_backbone(name: str, folder: Path, *, progress: OnStage = lambda *_: None) -> Backbone:
    """The backbone that a name stands for; one that has to be made is kept, and is there the next time.

    Args:
        name: `imagenet` (torchvision's ResNet-101, downloaded), the path of an ONNX file, or that of a bundle.
        folder: existing folder for a backbone that has to be made.
        progress: told what is downloaded.

    Raises:
        DataError: there is no such file, it is no backbone, or the weights cannot be downloaded.
        BundleError: the bundle is damaged, or its trunk does not give the features.
    """
    if name == IMAGENET:
        return _imagenet(folder / "resnet101-imagenet.onnx", progress)
    path = Path(name)
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise DataError(f"--backbone {name}: expected {IMAGENET}, an ONNX file or a bundle, found another folder")
        bundle = Bundle.load(path)
        return _of_bundle(bundle, folder / f"backbone-of-{bundle.manifest.bundle_id[:12]}.onnx")
    return load_backbone(path)


def _imagenet(out: Path, progress: OnStage) -> Backbone:
    if not _is_made(out):
        from training.features import backbone_export  # torchvision, which nothing else here needs

        weights = backbone_export.fetch_imagenet_weights(
            progress=lambda got, total: progress("bytes of the weights", got, total)
        )
        return backbone_export.resnet101_backbone(weights, out, imagenet=True)
    return load_backbone(out)


def _of_bundle(bundle: Bundle, out: Path) -> Backbone:
    """The part of a bundle's trunk that ends with the features."""
    if not _is_made(out):
        try:
            part = onnx.utils.Extractor(onnx.load(bundle.trunk)).extract_model([_IMAGE], [_FEATURES])
        except Exception as error:  # onnx raises what it meets
            raise BundleError(f"{bundle.trunk}: no backbone can be taken out of it: {error}") from None
        manifest = bundle.manifest
        card = {
            "input": _IMAGE,
            "output": _FEATURES,
            "layout": "NCHW",
            **manifest.preprocess.to_json(),
            "feature_dim": manifest.backbone.feature_dim,
            "trained_on": f"the backbone of bundle {manifest.bundle_id}",
        }
        with renamed(card_path(out)) as beside:
            beside.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        with renamed(out) as beside:  # last, so that it stands for both
            beside.write_bytes(part.SerializeToString())
    return load_backbone(out)


def _is_made(out: Path) -> bool:
    return out.is_file() and card_path(out).is_file()

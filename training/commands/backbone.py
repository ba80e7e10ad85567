"""`d3gzsl-train backbone`: torchvision's ResNet-101 as a backbone file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from model.errors import MissingDependencyError
from training import console


class Architecture(StrEnum):
    """The architectures this command knows; any other network comes as an ONNX file of its own."""

    RESNET101 = "resnet101"


def backbone(
    out: Annotated[Path, typer.Option(help="ONNX file to write; its JSON goes beside it.")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="imagenet|FILE",
            help="`imagenet` downloads torchvision's first ImageNet weights (IMAGENET1K_V1); FILE is a state dict.",
        ),
    ],
    arch: Annotated[Architecture, typer.Option(help="Network.")] = Architecture.RESNET101,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a torchvision network without its last layer as a backbone.

    ResNet-101 gives 2048 pooled features of images whose shorter side is resized to 256 pixels and whose centre of
    224 x 224 is kept.
    """
    try:
        from training.features import resnet
        from training.features.backbone_export import export_backbone
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"`d3gzsl-train backbone` needs {error.name}: install d3gzsl with the extra `training`"
        ) from None

    if weights == "imagenet":
        with console.progress_bar(quiet=as_json, unit="bytes") as bar:
            task = bar.add_task("weights", total=None)
            path = resnet.fetch_imagenet_weights(
                progress=lambda got, total: bar.update(task, completed=got, total=total)
            )
        trained_on, licence = "ImageNet-1k (torchvision IMAGENET1K_V1)", "BSD-3-Clause"
    else:
        path = Path(weights)
        trained_on, licence = "", "unknown"
    network = resnet.resnet101_features(resnet.read_state_dict(path), source=str(path))
    with console.progress_bar(quiet=as_json) as bar:
        task = bar.add_task("export and comparison", total=1)
        made = export_backbone(
            network,
            resnet.SPEC,
            out,
            feature_dim=resnet.FEATURE_DIM,
            trained_on=trained_on or resnet.describe_weights(path),
            licence=licence,
        )
        bar.update(task, completed=1)
    fields = {"out": str(out), "arch": arch.value, "feature_dim": made.feature_dim, "sha256": made.fingerprint}
    console.result(
        fields, f"{out}: {arch.value}, {made.feature_dim} features, sha256 {made.fingerprint}", as_json=as_json
    )

"""`d3gzsl-train backbone`, `extract` and `fetch`: what a training starts from."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from training import console
from training.commands.options import AsJson, IgnoreUnlisted, Overwrite, SkipBad, Splits, TextEncoderFile


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
    from training.features import backbone_export

    if weights == "imagenet":
        with console.progress_bar(quiet=as_json, unit="bytes") as bar:
            task = bar.add_task("weights", total=None)
            path = backbone_export.fetch_imagenet_weights(
                progress=lambda got, total: bar.update(task, completed=got, total=total)
            )
    else:
        path = Path(weights)
    with console.progress_bar(quiet=as_json) as bar:
        task = bar.add_task("export and comparison", total=1)
        made = backbone_export.resnet101_backbone(path, out, imagenet=weights == "imagenet")
        bar.update(task, completed=1)
    fields = {"out": str(out), "arch": arch.value, "feature_dim": made.feature_dim, "sha256": made.fingerprint}
    console.result(
        fields, f"{out}: {arch.value}, {made.feature_dim} features, sha256 {made.fingerprint}", as_json=as_json
    )


def extract(
    images_dir: Annotated[
        Path, typer.Argument(metavar="IMAGES_DIR", help="Folder with images/<class>/* and classes.csv.")
    ],
    backbone: Annotated[Path, typer.Option(help="Backbone in ONNX format, with its JSON beside it.")],
    out: Annotated[Path, typer.Option(help="Folder the features are written to.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images per run of the backbone.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode images; by default one per available CPU.")
    ] = None,
    skip_bad: SkipBad = False,
    ignore_unlisted: IgnoreUnlisted = False,
    text_encoder: TextEncoderFile = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace features of another backbone; compute everything anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute one feature vector per image with a backbone.

    A killed extraction goes on where it was when the same command is given again. Features that are there already are
    used again for images that have not changed.
    """
    from training.features.backbone import load_backbone
    from training.features.extraction import extract as run
    from training.features.own_photos import read_own_photos, shown
    from training.features.text_encoder import load_text_encoder

    encoder = None if text_encoder is None else load_text_encoder(text_encoder)
    data = read_own_photos(images_dir, ignore_unlisted=ignore_unlisted, text_encoder=encoder)
    for warning in data.warnings:
        console.warn(warning)
    network = load_backbone(backbone)
    with console.counts(quiet=as_json) as counted:
        done = run(
            data,
            network,
            out,
            batch_size=batch_size,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=lambda count, total: counted("images", count, total),
        )
    for image in done.store.skipped:
        console.warn(f"left out {shown(image.path)}: {image.reason}")
    rows, dim = done.store.features.shape
    fields = {
        "out": str(out),
        "images": rows,
        "feature_dim": dim,
        "classes": len(done.store.classes),
        "extracted": done.extracted,
        "reused": done.reused,
        "skipped": [{"path": image.path, "reason": image.reason} for image in done.store.skipped],
        "warnings": list(data.warnings),
        "changed": done.changed,
        "backbone_sha256": done.store.fingerprint,
        "data_hash": done.store.data_hash,
    }
    if done.changed:
        counts = f"{done.extracted} computed, {done.reused} there already, {len(done.store.skipped)} left out"
        sentence = f"{shown(out)}: {rows} images x {dim} features of {len(done.store.classes)} classes ({counts})"
    else:
        sentence = f"{shown(out)} is complete already: {rows} images x {dim} features; nothing to do"
    console.result(fields, sentence, as_json=as_json)


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="AWA1, AWA2, CUB, SUN, APY or FLO.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder the benchmark is written to; by default data/NAME.")
    ] = None,
    splits: Splits = None,
    url: Annotated[
        str | None, typer.Option(help="A zip archive with the folder NAME in it, instead of the public one.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the archive's sha256 must be, or begin with.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder archives are kept in; by default ~/.cache/d3gzsl.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Download a public benchmark, unpack what is needed and check it.

    An interrupted download goes on where it stopped when the same command is given again. The archive is kept in the
    cache, its sha256 beside it.
    """
    from training.datasets.fetch import fetch as run
    from training.datasets.fetch import known_name

    known = known_name(name)
    with console.progress_bar(quiet=as_json, unit="bytes") as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        fetched = run(
            known,
            out or Path("data") / known,
            splits=splits or "att",
            url=url,
            sha256=sha256,
            cache=cache,
            overwrite=overwrite,
            progress=progress,
        )
    split = fetched.dataset.split
    for note in split["notes"]:
        console.warn(note)
    rows, classes = split["rows"], split["classes"]
    digest = fetched.source.get("archive_sha256")
    fields = {
        "out": str(fetched.path),
        "changed": fetched.changed,
        "archive_sha256": digest,
        "data_hash": fetched.dataset.data_hash,
        "split": split,
    }
    state = f"archive sha256 {digest}" if fetched.changed else "there already, checked again"
    option = "" if split["splits"] == "att" else f" --splits {split['splits']}"
    sentence = (
        f"{fetched.path}: {known}, {rows['trainval']} training rows, {rows['test_seen']} test rows of "
        f"{classes['seen']} seen and {rows['test_unseen']} of {classes['unseen']} unseen classes ({state}); "
        f"next: d3gzsl-train fit {shlex.quote(str(fetched.path))}{option} --out RUN_DIR"
    )
    console.result(fields, sentence, as_json=as_json)

"""`d3gzsl-train extract`: photos to features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import console


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
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images, listing them.")] = False,
    ignore_unlisted: Annotated[
        bool, typer.Option("--ignore-unlisted", help="Leave out image folders that classes.csv does not name.")
    ] = False,
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
    from training.features.own_data import read_own_data, shown

    data = read_own_data(images_dir, ignore_unlisted=ignore_unlisted)
    for warning in data.warnings:
        console.warn(warning)
    network = load_backbone(backbone)
    with console.progress_bar(quiet=as_json) as bar:
        task = bar.add_task("images", total=len(data.images))
        done = run(
            data,
            network,
            out,
            batch_size=batch_size,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=lambda count, total: bar.update(task, completed=count, total=total),
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

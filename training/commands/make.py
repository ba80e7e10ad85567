"""`d3gzsl-train make` and `sample-photos`: from a folder of photos to a bundle in one command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from training import console
from training.commands.options import (
    AsJson,
    Device,
    IgnoreUnlisted,
    RecipeName,
    SettingOverrides,
    SkipBad,
    SplitSeed,
    TestFraction,
    TextEncoderFile,
    settled,
)

RECIPES = {"cpu": "cpu-wgan", "cuda": "wgan"}


def make(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with images/<class>/* and classes.csv.")],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="imagenet|FILE.onnx|BUNDLE",
            help="ResNet-101 with ImageNet's weights, which are downloaded; an ONNX file with its JSON beside it; or a "
            "bundle, whose own backbone is taken.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder the bundle is written to.")],
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of what is made on the way: features/, and run/ with report.html; by default BUNDLE-training.",
        ),
    ] = None,
    recipe: RecipeName = None,
    settings: SettingOverrides = None,
    test_fraction: TestFraction = 0.3,
    split_seed: SplitSeed = 0,
    text_encoder: TextEncoderFile = None,
    skip_bad: SkipBad = False,
    ignore_unlisted: IgnoreUnlisted = False,
    device: Device = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace what is of other photos, settings or another backbone; keep the rest."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle of a folder of photos: extract, fit, evaluate, export and verify.

    How long it will take is said first. A command that was stopped goes on when it is given again, and what is
    finished and unchanged is kept. Without --recipe the settings are those of cpu-wgan, on a GPU those of wgan.
    """
    import torch

    from model.outside.threads import available_cpus
    from training.device import choose_device
    from training.making.steps import MakeOptions, Told
    from training.making.steps import make as run
    from training.reporting.verdict import verdict
    from training.runs.checkpoints import Interrupted, interruptible
    from training.runs.contents import CONFIG, read_json
    from training.runs.fit import FitOptions

    target = choose_device(device)
    chosen, config = settled(recipe or RECIPES[target.type], None, settings or [])
    torch.set_num_threads(available_cpus())
    place = work or out.with_name(f"{out.name}-training")
    quiet = as_json
    try:
        with (
            interruptible() as interruption,
            console.counts(quiet=quiet) as counted,
            console.steps(quiet=quiet) as steps,
        ):
            options = MakeOptions(
                data=data,
                backbone=backbone,
                out=out,
                work=place,
                config=config,
                device=target,
                fit=FitOptions(interruption=interruption, recipe=None if chosen is None else chosen.to_json()),
                test_fraction=test_fraction,
                split_seed=split_seed,
                text_encoder=text_encoder,
                skip_bad=skip_bad,
                ignore_unlisted=ignore_unlisted,
                overwrite=overwrite,
            )
            told = Told(
                say=(lambda _: None) if quiet else console.say, warn=console.warn, counted=counted, step=steps.of("")
            )
            made = run(options, told)
    except Interrupted as stopped:
        console.warn(f"stopped; {stopped}. The same command goes on from there")
        raise typer.Exit(stopped.status) from None
    sentences = verdict(made.metrics, read_json(place / "run" / CONFIG))
    fields = {
        "out": str(out),
        "bundle_id": made.bundle_id,
        "work": str(place),
        "report": str(made.report),
        "done": dict(made.done),
        "verified": made.verified,
        "verdict": sentences,
        "metrics": None if made.metrics is None else dict(made.metrics),
    }
    lines = [
        *sentences,
        f"report: {made.report}",
        f"{out}: bundle {made.bundle_id}; next: d3gzsl serve --bundle {shlex.quote(str(out))}",
    ]
    console.result(fields, "\n".join(lines), as_json=as_json)


def sample_photos(
    out: Annotated[Path, typer.Option(metavar="DATA", help="Folder the drawings and classes.csv are written to.")],
    per_class: Annotated[int, typer.Option(min=1, help="Drawings of each class.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Which drawings; other seeds give others.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw a data folder to try everything on: 34 seen and 7 unseen classes of coloured shapes, with their attributes.

    It stands in for photos of your own, has the same form, and needs no download.
    """
    from training.demo.dataset import render_dataset
    from training.demo.world import SEEN, UNSEEN

    classes = (*SEEN[::3], *UNSEEN[::2])
    with console.counts(quiet=as_json) as counted:
        render_dataset(
            out,
            per_class=per_class,
            seed=seed,
            classes=classes,
            progress=lambda done, total: counted("drawings", done, total),
        )
    seen = sum(kind in SEEN for kind in classes)
    fields = {"out": str(out), "drawings": per_class * len(classes), "seen": seen, "unseen": len(classes) - seen}
    console.result(
        fields,
        f"{out}: {fields['drawings']} drawings of {seen} seen and {fields['unseen']} unseen classes; next: "
        f"d3gzsl-train make {shlex.quote(str(out))} --backbone imagenet --out BUNDLE",
        as_json=as_json,
    )

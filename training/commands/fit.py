"""`d3gzsl-train fit`: features to a trained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import console
from training.commands.options import AsJson, Device, GeneratorName, Overwrite, RecipeName, Settings, Splits, settled


def fit(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Features made by `d3gzsl-train extract`, or a benchmark folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN_DIR", help="Folder the run is written to.")],
    recipe: RecipeName = None,
    generator: GeneratorName = None,
    settings: Settings = None,
    d3: Annotated[
        bool, typer.Option("--d3/--no-d3", help="Distil the student from the teacher, or train it on L_cls only.")
    ] = True,
    test_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="Share of each seen class's images kept for testing; a benchmark has its own."
        ),
    ] = 0.3,
    split_seed: Annotated[int, typer.Option(help="Which split into training and test images.")] = 0,
    splits: Splits = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the training; short for --set seed=.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Several runs with these seeds (0,1,2) or this many (3), each in RUN_DIR/seed-<n>."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="validation|test-best",
            help="Choose on pseudo-unseen validation classes, or on the test images as papers do; short for --set "
            "selection.protocol=.",
        ),
    ] = None,
    select_folds_used: Annotated[
        int | None,
        typer.Option(min=0, help="Train this many of the selection's folds; short for --set selection.used_folds=."),
    ] = None,
    device: Device = "auto",
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="How often the training is saved at most; 0 saves it after every epoch.")
    ] = 60.0,
    monitor: Annotated[
        bool, typer.Option("--monitor/--no-monitor", help="Measure the test images while the final training goes on.")
    ] = True,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's events to RUN_DIR/tensorboard.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run at --out; where there is none, begin it.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train D3GZSL; length and calibration are chosen on pseudo-unseen classes, or as papers do it with --protocol.

    RUN_DIR then holds config.json, checkpoint.pt, log.jsonl, report.html and, with test images, metrics.json and
    curves.json. Ctrl-C finishes the epoch, saves and stops; --resume goes on.
    """
    import torch

    from model.errors import DataError
    from model.threads import available_cpus
    from training.fit import FitOptions, choose_device, without_d3
    from training.interruption import Interrupted, interruptible
    from training.progress import Bars
    from training.runs import Order, run
    from training.seeds import parse_seeds, run_seeds, table
    from training.sources import open_data

    if seeds is not None and seed is not None:
        raise DataError("--seed is for one run and --seeds for several: give one of them")
    short = {"seed": seed, "selection.protocol": protocol, "selection.used_folds": select_folds_used}
    given = [f"{name}={value}" for name, value in short.items() if value is not None]
    chosen, config = settled(recipe, generator, [*(settings or []), *given])
    if not d3:
        config = without_d3(config)
    several = None if seeds is None else parse_seeds(seeds)
    target = choose_device(device)
    torch.set_num_threads(available_cpus())
    dataset, described = open_data(data, test_fraction=test_fraction, split_seed=split_seed, splits=splits)
    for note in dataset.split.get("notes", ()):
        console.warn(note)
    if config.selection.protocol == "test-best":
        console.warn(
            "protocol test-best: epoch, head and penalty are CHOSEN ON THE TEST IMAGES; the results compare with "
            "papers that do so, and say nothing about new images"
        )
    try:
        with interruptible() as asked, Bars(console.progress_bar(quiet=as_json)) as bars:
            options = FitOptions(
                checkpoint_seconds=checkpoint_seconds,
                monitor=monitor,
                tensorboard=tensorboard,
                asked=asked,
                recipe=None if chosen is None else chosen.to_json(),
            )
            order = Order(
                dataset=dataset, data=described, device=target, options=options, resume=resume, overwrite=overwrite
            )
            if several is not None:
                summary = run_seeds(order, config, several, out, progress=lambda seed: bars.of(f"seed {seed} "))
            else:
                finished = run(order, config, out, progress=bars.of(""))
    except Interrupted as stopped:
        console.warn(f"stopped; {stopped}. The same command with --resume goes on from there")
        raise typer.Exit(stopped.status) from None
    if several is not None:
        console.result({"out": str(out), **summary}, f"{table(summary)}\n{out}: {len(several)} runs", as_json=as_json)
        return
    selected = finished.trained.selected
    choice = {"epochs": selected.epochs, "head": selected.served.choice.name, "validation_H": selected.validation["H"]}
    fields = {"out": str(out), "selected": choice, "metrics": finished.metrics}
    where = "validation" if config.selection.protocol == "validation" else "THE TEST IMAGES"
    sentence = (
        f"{out}: trained for {console.plural(selected.epochs, 'epoch')}, chosen on {where} "
        f"(H {selected.validation['H']:.3f}); next: d3gzsl-train evaluate {out}"
    )
    console.result(fields, sentence, as_json=as_json)

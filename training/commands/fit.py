"""`d3gzsl-train fit`: features to a trained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import console
from training.commands.options import AsJson, Overwrite, Splits


def fit(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Features made by `d3gzsl-train extract`, or a benchmark folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN_DIR", help="Folder the run is written to.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. generator.hidden=512. Repeatable."),
    ] = None,
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
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train D3GZSL; length and calibration are chosen on pseudo-unseen validation classes, never on test images.

    RUN_DIR then holds config.json, checkpoint.pt, log.jsonl, report.html and, with test images, metrics.json and
    curves.json.
    """
    import torch

    from model.threads import available_cpus
    from training.evaluation import testable
    from training.fit import choose_device, without_d3
    from training.fit import fit as run
    from training.overrides import configured
    from training.report import write_report
    from training.results import write_results
    from training.run_dir import new_run_dir
    from training.sources import open_data

    config = configured([*(settings or []), *([] if seed is None else [f"seed={seed}"])])
    if not d3:
        config = without_d3(config)
    target = choose_device(device)
    torch.set_num_threads(available_cpus())
    dataset, described = open_data(data, test_fraction=test_fraction, split_seed=split_seed, splits=splits)
    for note in dataset.split.get("notes", ()):
        console.warn(note)
    with new_run_dir(out, overwrite=overwrite) as folder, console.progress_bar(quiet=as_json) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in ("selection", "training")}
        trained = run(
            dataset,
            config,
            folder,
            data=described,
            device=target,
            progress=lambda name, done, total: bar.update(tasks[name], completed=done, total=total),
        )
        metrics = write_results(folder, dataset, trained) if testable(dataset) else None
    write_report(out)
    selected = trained.selected
    chosen = {"epochs": selected.epochs, "shrinkage": selected.shrinkage, "validation_H": selected.validation["H"]}
    fields = {"out": str(out), "selected": chosen, "metrics": metrics}
    sentence = (
        f"{out}: trained for {selected.epochs} epochs, chosen on validation (H {selected.validation['H']:.3f}); "
        f"next: d3gzsl-train evaluate {out}"
    )
    console.result(fields, sentence, as_json=as_json)

"""`d3gzsl-train tune`: settings with the best H on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from training import console
from training.commands.options import AsJson, Device, GeneratorName, Overwrite, RecipeName, Settings, Splits, settled


def tune(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Features made by `d3gzsl-train extract`, or a benchmark folder.")
    ],
    study: Annotated[str, typer.Option(metavar="NAME", help="Name of the study; one that exists is continued.")],
    storage: Annotated[
        str, typer.Option(metavar="URL", help="Where the study is kept: sqlite:///FILE, or postgresql://...")
    ],
    trials: Annotated[int, typer.Option(min=1, help="How many finished trials the study shall have.")],
    recipe: RecipeName = None,
    generator: GeneratorName = None,
    settings: Settings = None,
    space: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What is searched, instead of the default.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Begin no other trial after this time.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="Stop trials below the median of the others after the same fold.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Write the best settings as a recipe for `fit --recipe`.")
    ] = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="Share of each seen class's images kept for testing; a benchmark has its own."
        ),
    ] = 0.3,
    split_seed: Annotated[int, typer.Option(help="Which split into training and test images.")] = 0,
    splits: Splits = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Search settings by Optuna for the best H on pseudo-unseen validation classes; test images are never looked at.

    Several processes and machines may work on one study at a time. Ctrl-C keeps what has finished; the same command
    goes on.
    """
    import torch

    from model.threads import available_cpus
    from training.fit import choose_device
    from training.interruption import Interrupted, interruptible
    from training.progress import Bars
    from training.search.space import default_space, read_space
    from training.search.tune import Search, best_recipe, best_trial, refuse_other_file, summarise, write_recipe
    from training.search.tune import tune as run
    from training.sources import open_data

    chosen, base = settled(recipe, generator, settings or [])
    searched = default_space(base) if space is None else read_space(space, base)
    if out is not None:
        refuse_other_file(out, study, overwrite=overwrite)
    target = choose_device(device)
    torch.set_num_threads(available_cpus())
    dataset, _ = open_data(data, test_fraction=test_fraction, split_seed=split_seed, splits=splits)
    for note in dataset.split.get("notes", ()):
        console.warn(note)
    stopped: Interrupted | None = None
    with interruptible() as asked, Bars(console.progress_bar(quiet=as_json)) as bars:
        search = Search(dataset=dataset, base=base, space=searched, device=target, recipe=chosen, asked=asked)
        opened = search.open(study, storage, prune=prune)
        try:
            run(search, opened, trials=trials, timeout=timeout, on_step=bars.of(""))
        except Interrupted as signal:
            stopped = signal
            console.warn(f"stopped; {signal}. The same command goes on from there")
    fields: dict[str, Any] = {"out": None if out is None else str(out), **summarise(opened)}
    best = best_trial(opened)
    if best is None:
        console.warn(f"no trial of the study {study} has finished well")
    elif out is not None:
        write_recipe(best_recipe(search, opened, best), out)
    console.result(fields, _sentence(fields), as_json=as_json)
    if stopped is not None:
        raise typer.Exit(stopped.status)


def _sentence(fields: dict[str, Any]) -> str:
    counts, best = fields["trials"], fields["best"]
    lines = [
        f"study {fields['study']}: {counts['complete']} trials finished, {counts['pruned']} stopped early, "
        f"{counts['failed']} failed"
    ]
    if best is not None:
        lines.append(f"best: trial {best['number']}, validation H {best['H']:.3f} at epoch {best['epochs']}")
        lines += [f"  {name} = {value}" for name, value in best["settings"].items()]
        if fields["out"] is not None:
            lines.append(f"next: d3gzsl-train fit DATA --recipe {fields['out']} --out RUN_DIR")
    return "\n".join(lines)

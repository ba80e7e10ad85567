"""`d3gzsl-train fit`, `tune` and `recipes`: features to a trained classifier."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from training import console
from training.commands.options import (
    AsJson,
    Device,
    GeneratorName,
    Overwrite,
    RecipeName,
    SettingOverrides,
    Splits,
    SplitSeed,
    TestFraction,
    settled,
)


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="Print this recipe with all its settings.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes that `fit --recipe` and `tune --recipe` know, or print one with all its settings resolved.

    What is printed is TOML and a recipe itself.
    """
    from training.recipes import known_recipes, load_recipe

    if name is None:
        found = [load_recipe(known) for known in known_recipes()]
        width = max(len(recipe.name) for recipe in found)
        lines = "\n".join(f"{recipe.name:{width}}  {recipe.summary}" for recipe in found)
        console.result({"recipes": [recipe.to_json() for recipe in found]}, lines, as_json=as_json)
        return
    recipe = load_recipe(name)
    fields = {**recipe.to_json(), "config": recipe.config.to_json()}
    console.result(fields, recipe.resolved_text().rstrip("\n"), as_json=as_json)


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
    settings: SettingOverrides = None,
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
    test_fraction: TestFraction = 0.3,
    split_seed: SplitSeed = 0,
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

    from model.outside.threads import available_cpus
    from training.datasets.opening import open_data
    from training.device import choose_device
    from training.runs.checkpoints import Interrupted, interruptible
    from training.search.space import default_space, read_space
    from training.search.tune import Search, best_recipe, best_trial, refuse_other_file, summarise, write_recipe
    from training.search.tune import tune as run

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
    with interruptible() as interruption, console.steps(quiet=as_json) as bars:
        search = Search(
            dataset=dataset, base=base, space=searched, device=target, recipe=chosen, interruption=interruption
        )
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
            lines.append(f"next: d3gzsl-train fit DATA --recipe {shlex.quote(str(fields['out']))} --out RUN_DIR")
    return "\n".join(lines)


def fit(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Features made by `d3gzsl-train extract`, or a benchmark folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN_DIR", help="Folder the run is written to.")],
    recipe: RecipeName = None,
    generator: GeneratorName = None,
    settings: SettingOverrides = None,
    d3: Annotated[
        bool, typer.Option("--d3/--no-d3", help="Distil the student from the teacher, or train it on L_cls only.")
    ] = True,
    test_fraction: TestFraction = 0.3,
    split_seed: SplitSeed = 0,
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
    from model.outside.threads import available_cpus
    from training.datasets.opening import open_data
    from training.device import choose_device
    from training.experiment import Order, parse_seeds, run, run_seeds, table
    from training.runs.checkpoints import Interrupted, interruptible
    from training.runs.fit import FitOptions, without_d3

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
        with interruptible() as interruption, console.steps(quiet=as_json) as bars:
            options = FitOptions(
                checkpoint_seconds=checkpoint_seconds,
                monitor=monitor,
                tensorboard=tensorboard,
                interruption=interruption,
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
    choice = {"epochs": selected.epochs, "head": selected.head.name, "validation_H": selected.validation["H"]}
    fields = {"out": str(out), "selected": choice, "metrics": finished.metrics}
    where = "validation" if config.selection.protocol == "validation" else "THE TEST IMAGES"
    run_dir = shlex.quote(str(out))
    after = f"evaluate {run_dir}" if dataset.testable else f"export {run_dir} --out BUNDLE"
    sentence = (
        f"{out}: trained for {console.plural(selected.epochs, 'epoch')}, chosen on {where} "
        f"(H {selected.validation['H']:.3f}); next: d3gzsl-train {after}"
    )
    console.result(fields, sentence, as_json=as_json)

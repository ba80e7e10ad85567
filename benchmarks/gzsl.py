"""Base generator x {base, +D3, ablations} x seeds on benchmark folders, against the baselines that learn nothing.

    python benchmarks/gzsl.py SETS... --out benchmarks/results/DATE-gzsl [--jobs 2]

SETS are benchmark folders (`res101.mat`, `att_splits.mat`). Every row is one `d3gzsl-train fit` with a recipe, under
the protocol `validation`; the baselines choose ridge, shrinkage and penalty on the same folds. Rows are written to
OUT.json as they finish, and rows that are there are not repeated, so that the same command goes on where it was
stopped; with --runs also within a row, whose seconds are then those of its epochs. OUT.md and OUT.svg are made from
the rows. With --resplits each set is measured on so many draws of other unseen classes instead of on its own split,
under the names SET-resplit-1 and so on. With --jobs, each of so many runs at once has its share of the cores to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.gzsl_table import RESPLIT, draw, table  # noqa: E402
from benchmarks.resplit import write_resplit  # noqa: E402
from benchmarks.rows import command, rows_of, save  # noqa: E402

VARIANTS = {
    "base": ["--no-d3"],
    "+D3": [],
    "+D3 without ID2SD": ["--set", "d3.label_distillation=0", "--set", "d3.embedding_distillation=0"],
    "+D3 without O2DBD": ["--set", "d3.ood_distillation=0"],
}
NORMAL = ", normal features"
SCORES = ("U", "S", "H", "T1", "AUSUC", "ece")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the table that is to be filled."""

    data: str
    generator: str
    variant: str
    seed: int


def plan(sets: list[str], *, ablations_on: str, recipes: str) -> Iterator[Cell]:
    """What is measured, the most wanted first."""
    for seed in (0, 1, 2):
        for data in sets:
            yield Cell(data=data, generator="ridge + LDA", variant="no learning", seed=seed)
            yield Cell(data=data, generator="kernel ridge + LDA", variant="no learning", seed=seed)
            for generator in ("ridge + LDA", "kernel ridge + LDA"):
                yield Cell(data=data, generator=f"{generator}{NORMAL}", variant="no learning", seed=seed)
    for seed in (0, 1, 2):
        for data in sets:
            for generator in ("wgan", "cegzsl"):
                for variant in ("base", "+D3"):
                    yield Cell(data=data, generator=recipe_name(recipes, generator), variant=variant, seed=seed)
        if seed == 0:
            for data in sets:
                for generator in ("tfvaegan", "diffusion"):
                    for variant in ("base", "+D3"):
                        yield Cell(data=data, generator=recipe_name(recipes, generator), variant=variant, seed=seed)
            for generator in ("wgan", "cegzsl"):
                for variant in ("+D3 without ID2SD", "+D3 without O2DBD"):
                    yield Cell(data=ablations_on, generator=recipe_name(recipes, generator), variant=variant, seed=seed)


def recipe_name(recipes: str, generator: str) -> str:
    """The recipe of a generator, `full` ones being named as it is."""
    return generator if recipes == "full" else f"{recipes}-{generator}"


def main() -> None:
    arguments = parse()
    folders = {folder.name: folder for folder in arguments.sets}
    if not arguments.resplits:
        run(arguments, folders)
        return
    with tempfile.TemporaryDirectory() as name:
        drawn = {}
        for seed in range(1, arguments.resplits + 1):
            for data, folder in folders.items():
                target = Path(name) / f"{data}{RESPLIT}{seed}"
                write_resplit(folder, target, seed)
                drawn[target.name] = target
        run(arguments, drawn)


def run(arguments: argparse.Namespace, folders: dict[str, Path]) -> None:
    """Measure what is missing of the plan."""
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".json")
    wanted = list(
        plan(list(folders), ablations_on=arguments.ablations_on or next(iter(folders)), recipes=arguments.recipes)
    )
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.Queue[list[int]] = queue.Queue()
    for job in range(arguments.jobs):
        shares.put(cores[job :: arguments.jobs])
    writing = threading.Lock()

    def fill(cell: Cell) -> None:
        share = shares.get()
        try:
            row = {**asdict(cell), **measure(cell, folders[cell.data], share, arguments)}
        finally:
            shares.put(share)
        with writing:
            rows = [*rows_of(file), row]
            save(file, rows, command("gzsl.py"))
            print(f"{cell.data} {cell.generator} {cell.variant} seed {cell.seed}: H {row['H']:.3f}", flush=True)
            out.with_suffix(".md").write_text(table(rows, command("gzsl.py")))
            out.with_suffix(".svg").write_text(draw(rows))
        if arguments.runs and cell.variant != "no learning":
            shutil.rmtree(arguments.runs / run_name(cell))

    there = rows_of(file)
    wanted = [
        cell
        for cell in wanted
        if (arguments.generators is None or cell.generator in arguments.generators)
        and (arguments.variants is None or cell.variant in arguments.variants)
        and (arguments.seeds is None or cell.seed in arguments.seeds)
    ]
    missing = [c for c in wanted if not any(asdict(c).items() <= row.items() for row in there)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for finished in [pool.submit(fill, cell) for cell in missing]:
            finished.result()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", required=True)
    parser.add_argument("--recipes", default="cpu", help="recipes are named RECIPES-GENERATOR; full: GENERATOR")
    parser.add_argument("--generators", nargs="+", help="only these, `ridge + LDA` and `kernel ridge + LDA` included")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, "no learning"], help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these")
    parser.add_argument("--resplits", type=int, default=0, help="draws of other unseen classes; else the own split")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every recipe; repeatable")
    parser.add_argument("--ablations-on", help="name of the set for the ablations; the first where not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, help="where unfinished runs are kept, to go on after a stop")
    return parser.parse_args()


def measure(cell: Cell, folder: Path, share: list[int], arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    if cell.variant == "no learning":
        found = baseline(cell, folder, arguments)
        return {**found, "threads": len(share), "seconds": round(time.monotonic() - started, 1)}
    with tempfile.TemporaryDirectory() as name:
        run = (arguments.runs or Path(name)).resolve() / run_name(cell)
        train(cell, folder, run, share, arguments)
        metrics, resolved = (
            json.loads((run / "metrics.json").read_text()),
            json.loads((run / "config.json").read_text()),
        )
        trained = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    student = metrics["student"]
    return {
        **{score: metrics["lda"][score] for score in SCORES},
        "student": {**{score: student[score] for score in SCORES}, "uncalibrated": student["uncalibrated"]},
        "per_class": metrics["lda"]["per_class"],
        "unseen_classes": metrics["unseen_classes"],
        "novelty_auroc": metrics["novelty"]["auroc"],
        "validation_H": metrics["validation"]["H"],
        "epochs": resolved["selected"]["epochs"],
        "shrinkage": resolved["selected"]["head"]["shrinkage"],
        "scaling": resolved["selected"]["scaling"],
        "unseen_scale": resolved["selected"]["head"]["unseen_scale"],
        **{name: metrics["protocol"][name] for name in ("name", "commit", "config_hash", "data_hash")},
        "test_used_for_selection": metrics["protocol"]["test_used_for_selection"],
        "threads": len(share),
        "seconds": round(max(time.monotonic() - started, trained), 1),
    }


def run_name(cell: Cell) -> str:
    """Name of the folder of a row's run."""
    return "-".join((cell.data, cell.generator, cell.variant.replace(" ", "-"), str(cell.seed)))


def train(cell: Cell, folder: Path, run: Path, share: list[int], arguments: argparse.Namespace) -> None:
    """Train a row by `d3gzsl-train fit`, from where its run was left."""
    words = [
        "fit",
        str(folder.resolve()),
        "--recipe",
        cell.generator,
        "--seed",
        str(cell.seed),
        *VARIANTS[cell.variant],
        *(word for setting in arguments.set for word in ("--set", setting)),
    ]
    words += ["--device", arguments.device, "--no-monitor", "--resume", "--out", str(run)]
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", *words],
        cwd=sys.path[0],
        preexec_fn=lambda: os.sched_setaffinity(0, share),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{cell}: {done.stderr}")


def baseline(cell: Cell, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.ridge_lda import ridge_lda
    from training.datasets.benchmark import load_benchmark
    from training.recipes import configured, load_recipe
    from training.runs.contents import code_commit

    dataset = load_benchmark(folder)
    recipe = load_recipe(recipe_name(arguments.recipes, "wgan"))
    config = configured(arguments.set, base=recipe.settings)
    found = ridge_lda(
        dataset,
        config.selection,
        seed=cell.seed,
        kernel=cell.generator.startswith("kernel"),
        scaling="normal" if cell.generator.endswith(NORMAL) else "range",
    )
    return {
        **found,
        "name": "validation",
        "commit": code_commit(),
        "data_hash": dataset.data_hash,
        "test_used_for_selection": False,
    }


if __name__ == "__main__":
    main()

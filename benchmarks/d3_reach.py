"""What D3's losses do, on validation: by how fast E_s learns, by what reaches the generator, and by length and form.

    python benchmarks/d3_reach.py SETS... --out benchmarks/results/DATE-d3-reach [--seeds 2] [--settings 4 8] [--jobs 2]

SETS are benchmark folders. The served `lda` head sees D3 through the embedding E_s, which learns at
`d3.embedding_lr_factor` of the learning rate, and through the generator, which the student's losses reach with the
weight `d3.generator_share`; C_s sees it itself, and the longer the training the more. A row is one selection of
`d3gzsl-train fit` (protocol `validation`, no test rows, no final training) with or without D3. Rows are written to
OUT.json as they finish and those that are there are not repeated, nor is a configuration under another name (without
D3 its weights are all 0); OUT.md is made from them. With --jobs, each of so many selections at once has a core to
itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.gzsl_table import mean_and_error  # noqa: E402
from benchmarks.rows import command, rows_of, save  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.datasets.benchmark import load_benchmark  # noqa: E402
from training.recipes import configured, load_recipe  # noqa: E402
from training.runs.contents import code_commit  # noqa: E402
from training.runs.fit import without_d3  # noqa: E402
from training.selection.protocols import select  # noqa: E402

LONG = ("steps=300", "selection.used_folds=2")
FAITHFUL = tuple(f"d3.{term}_form=faithful" for term in ("cls", "kl", "be", "od"))
WEIGHTS = ("d3.label_distillation", "d3.embedding_distillation", "d3.ood_distillation")
SETTINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("d3.embedding_lr_factor=0.02",),
    ("d3.embedding_lr_factor=0.2",),
    ("d3.generator_share=1",),
    LONG,
    (*LONG, "d3.embedding_lr_factor=0.2"),
    (*LONG, "d3.ood_target=class"),
    (*LONG, *FAITHFUL),
    *((*LONG, *(f"{weight}={value}" for weight in WEIGHTS)) for value in (0.1, 0.01)),
    *((*LONG, *(f"{weight}=0" for weight in WEIGHTS if weight != kept)) for kept in WEIGHTS),
    (*LONG, "teacher.epochs=30"),
)
VARIANTS = ("base", "+D3")
TITLE = """# What D3's losses do, on validation

H on pseudo-unseen classes and held-out rows of trainval (protocol `validation`), the best length and shrinkage of
each; of the served `lda` head and of the student's classifier C_s at that length, calibrated. Means over seeds; the
effect is +D3 less base, paired, with its standard error where there are several.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--settings", type=int, nargs="+", help="only these of SETTINGS, counted from 0")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    file = arguments.out.with_suffix(".json")
    base = load_recipe(arguments.recipe).settings
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {}
        wanted = [SETTINGS[index] for index in arguments.settings or range(len(SETTINGS))]
        for seed, settings, folder, variant in product(range(arguments.seeds), wanted, arguments.sets, VARIANTS):
            key = {"set": folder.name, "settings": list(settings), "variant": variant, "seed": seed}
            rows = rows_of(file)
            if any(key.items() <= row.items() for row in rows):
                continue
            config = configured([*settings, f"seed={seed}"], base=base)
            config = without_d3(config) if variant == "base" else config
            known = {"set": folder.name, "config_hash": config.digest()}
            if same := next((row for row in rows if known.items() <= row.items()), None):
                save(file, [*rows, {**same, **key}], command("d3_reach.py"))
            else:
                running[pool.submit(measure, folder, config)] = {**key, "recipe": arguments.recipe}
        for done in as_completed(running):
            save(file, [*rows_of(file), {**running[done], **done.result()}], command("d3_reach.py"))
            arguments.out.with_suffix(".md").write_text(table(rows_of(file)))


def measure(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """One selection, on one thread."""
    torch.set_num_threads(1)
    found = select(load_benchmark(folder), config, torch.device("cpu")).validation
    return {
        "H": found["H"],
        "H_student": found["H_student"],
        "config_hash": config.digest(),
        "commit": code_commit(),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each set and setting, base and +D3 beside each other."""
    lines = [
        "| set | settings | seeds | base: H | +D3: H | effect | base: H of C_s | +D3: H of C_s | effect | commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = {(row["set"], tuple(row["settings"]), row["variant"], row["seed"]): row for row in rows}
    for name, settings in sorted({key[:2] for key in found}, key=lambda line: (line[0], SETTINGS.index(line[1]))):
        of = {v: {row["seed"]: row for key, row in found.items() if key[:3] == (name, settings, v)} for v in VARIANTS}
        seeds = sorted(of["base"].keys() & of["+D3"].keys())
        if not seeds:
            continue
        cells = []
        for score in ("H", "H_student"):
            base, d3 = ([of[v][seed][score] for seed in seeds] for v in VARIANTS)
            differences = [more - less for more, less in zip(d3, base, strict=True)]
            cells += [f"{fmean(base):.4f}", f"{fmean(d3):.4f}", mean_and_error(differences, digits=4)]
        said = ", ".join(f"`{s}`" for s in settings) or "as in the recipe"
        commit = of["base"][seeds[0]]["commit"]
        lines.append(f"| {name} | {said} | {len(seeds)} | {' | '.join(cells)} | {commit} |")
    return f"{TITLE}    {command('d3_reach.py')}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

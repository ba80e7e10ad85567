"""How far D3's losses reach the served head: validation H by how fast E_s learns and by what reaches the generator.

    python benchmarks/d3_reach.py SETS... --out benchmarks/results/DATE-d3-reach [--recipe cpu-wgan]

SETS are benchmark folders. The served `lda` head sees D3 through the embedding E_s, which learns at
`d3.embedding_lr_factor` of the learning rate, and through the generator, which the student's losses reach with the
weight `d3.generator_share`. A row is one selection of `d3gzsl-train fit` (protocol `validation`, no test rows, no final
training) with and without D3. Rows are written to OUT.json as they finish and those that are there are not repeated;
OUT.md is made from them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.rows import command, rows_of, save  # noqa: E402
from training.benchmark import load_benchmark  # noqa: E402
from training.commit import code_commit  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.fit import without_d3  # noqa: E402
from training.overrides import configured  # noqa: E402
from training.recipe import load_recipe  # noqa: E402
from training.selection import select  # noqa: E402

SETTINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("d3.embedding_lr_factor=0.02",),
    ("d3.embedding_lr_factor=0.2",),
    ("d3.generator_share=0.01",),
    ("d3.generator_share=1",),
)
TITLE = """# What D3's losses do to the served head, on validation

H on pseudo-unseen classes and held-out rows of trainval (protocol `validation`, one seed), the best length and
shrinkage of each; of the served `lda` head and of the student's classifier C_s at that length, calibrated.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    file = arguments.out.with_suffix(".json")
    base = load_recipe(arguments.recipe).settings
    for settings in SETTINGS:
        for folder in arguments.sets:
            for variant in ("base", "+D3"):
                key = {"set": folder.name, "settings": list(settings), "variant": variant}
                if any(key.items() <= row.items() for row in rows_of(file)):
                    continue
                config = configured(settings, base=base)
                config = without_d3(config) if variant == "base" else config
                row = {**key, **measure(folder, config), "recipe": arguments.recipe}
                save(file, [*rows_of(file), row], command("d3_reach.py"))
                arguments.out.with_suffix(".md").write_text(table(rows_of(file)))


def measure(folder: Path, config: TrainConfig) -> dict[str, Any]:
    found = select(load_benchmark(folder), config, torch.device("cpu")).validation
    return {
        "H": found["H"],
        "H_student": found["H_student"],
        "config_hash": config.digest(),
        "commit": code_commit(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each set and setting, base and +D3 beside each other."""
    lines = [
        "| set | settings | base: H | +D3: H | base: H of C_s | +D3: H of C_s | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, settings in dict.fromkeys((row["set"], tuple(row["settings"])) for row in rows):
        of = {row["variant"]: row for row in rows if (row["set"], tuple(row["settings"])) == (name, settings)}
        cells = [f"{of[v][score]:.4f}" if v in of else "" for score in ("H", "H_student") for v in ("base", "+D3")]
        said = ", ".join(f"`{s}`" for s in settings) or "as in the recipe"
        lines.append(f"| {name} | {said} | {' | '.join(cells)} | {next(iter(of.values()))['commit']} |")
    return f"{TITLE}    {command('d3_reach.py')}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Whether choosing between the heads `lda` and `softmax` on validation beats `lda` alone, on test classes.

    python benchmarks/head_choice.py --gzsl SETS... --photos STORES... --out benchmarks/results/DATE-head-choice

Of FLO and CUB50, five re-splits each: as many classes as the published split has are drawn to be unseen, and of every
other class a fifth of the rows is drawn for testing. TIN150 and AWA40 keep their split. STORES are features made by
`d3gzsl-train extract`, five splits of the seen classes' rows each. Every row is one training that measures both forms
with four strengths each and takes the better one on validation; where that is `softmax`, a second one that knows `lda`
only. Nothing is chosen on test rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.rows import command, rows_of, save  # noqa: E402

RESPLIT, RESPLITS = ("FLO", "CUB50"), 5
PUBLISHED = -1
TEST_SHARE = 0.2
RECIPE = "cpu-wgan"
HEADS = 'selection.heads=["lda", "softmax"]'
PENALTIES = "selection.penalty=[1e-3, 3e-4, 1e-4, 3e-5]"


def plan(sets: list[Path], stores: list[Path]) -> list[tuple[str, Path, int]]:
    """What is measured: name, where it lies, and which split."""
    cells = []
    for folder in sets:
        splits = range(RESPLITS) if folder.name in RESPLIT else [PUBLISHED]
        cells += [(folder.name, folder, split) for split in splits]
    return cells + [(store.name, store, split) for store in stores for split in range(RESPLITS)]


def data_set(folder: Path, split: int) -> Any:
    from training.datasets.benchmark import is_benchmark, load_benchmark
    from training.datasets.dataset import from_store
    from training.features.store import FeatureStore

    if not is_benchmark(folder):
        return from_store(FeatureStore.load(folder), test_fraction=0.3, split_seed=split)
    dataset = load_benchmark(folder)
    return dataset if split == PUBLISHED else resplit(dataset, split)


def resplit(dataset: Any, seed: int) -> Any:
    """Other classes unseen, as many as before, and a fifth of every other class's rows for testing."""
    from model.vocabulary import Vocabulary

    random = np.random.default_rng(seed)
    unseen = random.permutation(len(dataset.classes))[: int((~dataset.seen).sum())]
    test = np.isin(dataset.labels, unseen)
    for index in np.setdiff1d(np.arange(len(dataset.classes)), unseen):
        rows = random.permutation(np.flatnonzero(dataset.labels == index))
        test[rows[: round(TEST_SHARE * len(rows))]] = True
    classes = tuple(
        dataclasses.replace(entry, kind="unseen" if index in unseen else "seen")
        for index, entry in enumerate(dataset.classes)
    )
    values = np.array([entry.attributes for entry in classes])
    seen = np.array([entry.kind == "seen" for entry in classes])
    return dataclasses.replace(
        dataset,
        classes=classes,
        vocabulary=Vocabulary.from_classes(
            [a.name for a in dataset.vocabulary.attributes],
            values,
            offset=values[seen].mean(axis=0),
            scale=1.0,
            unit_length=True,
        ),
        trainval=np.flatnonzero(~test),
        test=np.flatnonzero(test),
        split={"rule": f"re-split {seed}: classes and rows drawn at random", "splits": None},
        data_hash=f"{dataset.data_hash}, re-split {seed}",
    )


def one(name: str, folder: Path, split: int, threads: int) -> dict[str, Any]:
    import torch

    from training.runs.contents import code_commit

    torch.set_num_threads(threads)
    started = time.monotonic()
    dataset = data_set(folder, split)
    choice = trained(dataset, HEADS)
    alone = choice if choice["served"] == "lda" else trained(dataset, 'selection.heads=["lda"]')
    return {
        "data": name,
        "split": split,
        "chosen": choice["served"],
        "validation_lda": choice["validation"]["heads"]["lda"]["H"],
        "validation_softmax": choice["validation"]["heads"]["softmax"]["H"],
        "H_choice": choice[choice["served"]]["H"],
        "H_lda": alone["lda"]["H"],
        "H_softmax_if_served": choice["softmax"]["H"],
        "gain": choice[choice["served"]]["H"] - alone["lda"]["H"],
        "commit": code_commit(),
        "seconds": round(time.monotonic() - started, 1),
    }


def trained(dataset: Any, heads: str) -> dict[str, Any]:
    import torch

    from training.evaluation import evaluate_run
    from training.recipes import configured, load_recipe
    from training.runs.fit import FitOptions, fit

    config = configured([heads, PENALTIES], base=load_recipe(RECIPE).settings)
    with tempfile.TemporaryDirectory() as run:
        options = FitOptions(monitor=False)
        found = fit(dataset, config, Path(run), data={}, device=torch.device("cpu"), options=options)
    return evaluate_run(dataset, found)


def table(rows: list[dict[str, Any]], words: str) -> str:
    lines = [
        "# Choosing between the heads `lda` and `softmax` on validation, against `lda` alone",
        "",
        f"    {words}",
        "",
        f"Recipe `{RECIPE}` with four shrinkages and four penalties more; H on test rows of the head that validation "
        "chose, less H of the run that knows `lda` only. Nothing is chosen on test rows.",
        "",
        "| data | split | validation H, lda | validation H, softmax | chosen | test H, chosen | test H, lda | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["data"], row["split"])):
        split = "published" if row["split"] == PUBLISHED else row["split"]
        lines.append(
            f"| {row['data']} | {split} | {row['validation_lda']:.3f} | {row['validation_softmax']:.3f} | "
            f"{row['chosen']} | {row['H_choice']:.3f} | {row['H_lda']:.3f} | {row['gain']:+.4f} |"
        )
    gains = [row["gain"] for row in rows]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    lines += ["", f"Mean gain over {len(gains)} rows: {statistics.mean(gains):+.4f}, standard error {error:.4f}."]
    for name in sorted({row["data"] for row in rows}):
        of = [row["gain"] for row in rows if row["data"] == name]
        spread = f", standard error {statistics.stdev(of) / len(of) ** 0.5:.4f}" if len(of) > 1 else ""
        lines.append(f"{name}: {statistics.mean(of):+.4f}{spread}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gzsl", nargs="*", type=Path, default=[])
    parser.add_argument("--photos", nargs="*", type=Path, default=[])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    file, words = arguments.out.with_suffix(".json"), command("head_choice.py")
    done = {(row["data"], row["split"]) for row in rows_of(file)}
    cells = [cell for cell in plan(arguments.gzsl, arguments.photos) if (cell[0], cell[2]) not in done]
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for found in [pool.submit(one, *cell, threads) for cell in cells]:
            rows = [*rows_of(file), found.result()]
            save(file, rows, words)
            arguments.out.with_suffix(".md").write_text(table(rows, words))
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()

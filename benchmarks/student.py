"""The student's own classifier C_s by how it starts, against a plain softmax on the same rows and the served head.

    python benchmarks/student.py SETS... --out benchmarks/results/DATE-student [--jobs 2]

SETS are benchmark folders (`res101.mat`, `att_splits.mat`) or features of photos (`d3gzsl-train extract`). For each set
and seed every variant is trained on all of trainval and on each fold of the selection. Length, shrinkage and the scale
of the `lda` head, and the penalty of each classifier, are those with the best mean H on the folds; test rows select
nothing. Each training has one thread, and --jobs of them run at once. A set and seed is written to OUT.json when it has
finished; what is there is not repeated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.rows import Row, command, rows_of, save  # noqa: E402
from benchmarks.student_table import table  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.datasets.dataset import Dataset, Task, make_task  # noqa: E402
from training.datasets.opening import open_data  # noqa: E402
from training.evaluation import train_softmax  # noqa: E402
from training.features.scaler import Scaler, Scaling  # noqa: E402
from training.method.heads import HeadChoice, fit_heads, synthesise_features  # noqa: E402
from training.method.trainer import Networks, Trainer  # noqa: E402
from training.metrics import harmonic_means  # noqa: E402
from training.recipes import configured, load_recipe  # noqa: E402
from training.runs.contents import code_commit  # noqa: E402
from training.selection.choice import choose_scale, choose_scaling, measured_epochs  # noqa: E402
from training.selection.fold_scores import FoldScores, HeldOut, best_penalty, curve_of, scale_unseen  # noqa: E402
from training.selection.folds import fold_count, used_folds  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "random start": {"classifier_init": "normal", "classifier_lr_factor": 1.0},
    "head's rows": {"classifier_init": "head", "classifier_lr_factor": 1.0},
    "head's rows, rate x 0.1": {"classifier_init": "head", "classifier_lr_factor": 0.1},
    "head's rows, rate x 0.01": {"classifier_init": "head", "classifier_lr_factor": 0.01},
}
STUDENT, SOFTMAX = "C_s", "softmax on x"
Part = dict[str, dict[int, dict[str, FoldScores]]]
"""Of one part of the data, scores of its held-out rows by variant, epoch and classifier."""


def main() -> None:
    arguments = parse()
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".json")
    there = {(row["data"], row["seed"]) for row in rows_of(file)}
    wanted = [(folder, seed) for seed in arguments.seeds for folder in arguments.sets]
    wanted = [(folder, seed) for folder, seed in wanted if (folder.name, seed) not in there]
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        scalings = {pool.submit(scaling_of, folder, seed, arguments): (folder, seed) for folder, seed in wanted}
        parts: dict[Future[Part], tuple[Path, int, Scaling]] = {}
        for done in as_completed(scalings):
            folder, seed = scalings[done]
            for number in range(fold_count(config_of(arguments, seed).selection) + 1):
                future = pool.submit(measure, folder, seed, number, done.result(), arguments)
                parts[future] = (folder, seed, done.result())
        for _ in as_completed(parts):
            for folder, seed in list(wanted):
                mine = [future for future, place in parts.items() if place[:2] == (folder, seed)]
                if not all(future.done() for future in mine):
                    continue
                wanted.remove((folder, seed))
                final, *folds = [future.result() for future in mine]
                facts = {
                    "data": folder.name,
                    "seed": seed,
                    "folds": len(folds),
                    "scaling": parts[mine[0]][2],
                    "commit": code_commit(),
                    "command": command("student.py"),
                }
                rows = [
                    *rows_of(file),
                    *({**facts, **row} for row in rows_from(final, folds, config_of(arguments, seed))),
                ]
                save(file, rows, command("student.py"))
                out.with_suffix(".md").write_text(table(rows))
                print(f"{folder.name} seed {seed}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", required=True)
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; repeatable")
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


def config_of(arguments: argparse.Namespace, seed: int) -> TrainConfig:
    return configured([*arguments.set, f"seed={seed}"], base=load_recipe(arguments.recipe).settings)


def scaling_of(folder: Path, seed: int, arguments: argparse.Namespace) -> Scaling:
    """What validation chooses for a set."""
    return choose_scaling(open_data(folder)[0], config_of(arguments, seed))[0]


def measure(folder: Path, seed: int, number: int, scaling: Scaling, arguments: argparse.Namespace) -> Part:
    """Train every variant on all of trainval (number 0) or on a fold, and score the rows held out."""
    torch.set_num_threads(1)
    dataset, base = open_data(folder)[0], config_of(arguments, seed)
    task, held = part_of(dataset, base, number, scaling)
    found: Part = {}
    softmax: FoldScores | None = None
    for variant in arguments.variants:
        config = replace(base, d3=replace(base.d3, **VARIANTS[variant]))
        trainer, lengths = Trainer(task, config), measured_epochs(config)
        found[variant] = {}
        begun = time.process_time()
        while trainer.epoch < config.epochs:
            trainer.run_epoch()
            if trainer.epoch in lengths:
                found[variant][trainer.epoch] = classify(trainer.networks, task, held, config)
        print(f"{folder.name} part {number} {variant}: {time.process_time() - begun:.0f} s", flush=True)
        if softmax is None:  # its rows are synthesised by a generator that hardly feels the student
            softmax = plain_softmax(trainer.networks, task, held, config)
        for scores in found[variant].values():
            scores[SOFTMAX] = softmax
    return found


def part_of(dataset: Dataset, config: TrainConfig, number: int, scaling: Scaling) -> tuple[Task, HeldOut]:
    parts = [(dataset.trainval, dataset.test, np.arange(len(dataset.classes)))]
    parts += [(fold.train, fold.held, fold.classes) for fold in used_folds(dataset, config.selection, config.seed)]
    train, held, classes = parts[number]
    scaler, device = Scaler.fit(dataset.features[train], scaling), torch.device("cpu")
    return make_task(dataset, train, classes, scaler, device), HeldOut.of(dataset, held, classes, scaler, device)


def classify(networks: Networks, task: Task, held: HeldOut, config: TrainConfig) -> dict[str, FoldScores]:
    """Scores by C_s and by the `lda` head with every shrinkage."""
    with torch.no_grad():
        z, logits = (x.numpy() for x in networks.student(held.features))
    choices = [HeadChoice(shrinkage=shrinkage) for shrinkage in config.selection.shrinkage]
    heads = fit_heads(networks, task, held.names, choices, samples=config.selection.samples, key="")
    scores = {choice.name: head.logits(z) for choice, head in zip(choices, heads, strict=True)}
    seen = task.seen.numpy()
    return {
        name: FoldScores(logits=values, labels=held.labels, seen=seen)
        for name, values in {STUDENT: logits, **scores}.items()
    }


def plain_softmax(networks: Networks, task: Task, held: HeldOut, config: TrainConfig) -> FoldScores:
    """Scores by the field's usual classifier, as `evaluate` trains it."""
    samples = config.selection.samples
    made = [
        synthesise_features(networks, task.attributes[index], "", held.names[index], samples)
        for index in task.unseen_index.tolist()
    ]
    labels = torch.cat([task.labels, task.unseen_index.repeat_interleave(samples)])
    rows = torch.cat([task.features, *made])
    logits = train_softmax(rows, labels, held.features, len(task.seen), seed=config.seed)
    return FoldScores(logits=logits, labels=held.labels, seen=task.seen.numpy())


def rows_from(final: Part, folds: Sequence[Part], config: TrainConfig) -> list[Row]:
    """A row for each variant: what validation chose, and each classifier on the folds and on the test rows."""
    rows = []
    for variant, by_epoch in final.items():
        names = [HeadChoice(shrinkage=shrinkage).name for shrinkage in config.selection.shrinkage]

        def of_folds(epoch: int, name: str, variant: str = variant) -> list[FoldScores]:
            return [fold[variant][epoch][name] for fold in folds]

        candidates = [(epoch, name) for epoch in by_epoch for name in names]
        epoch, head = max(candidates, key=lambda c: best_penalty([curve_of(s) for s in of_folds(*c)])[1])
        scale = choose_scale(of_folds(epoch, head))
        row: Row = {"variant": variant, "epoch": epoch, "head": head, "unseen_scale": scale, "classifiers": {}}
        for name, chosen, factor in ((STUDENT, STUDENT, 1.0), (SOFTMAX, SOFTMAX, 1.0), ("served head", head, scale)):
            held = [scale_unseen(fold, factor) for fold in of_folds(epoch, chosen)]
            row["classifiers"][name] = point(scale_unseen(by_epoch[epoch][chosen], factor), held)
        row["C_s by epoch"] = {str(e): point(by_epoch[e][STUDENT], of_folds(e, STUDENT)) for e in by_epoch}
        rows.append(row)
    return rows


def point(test: FoldScores, folds: Sequence[FoldScores]) -> Row:
    """U, S and H without a penalty and with the one of validation."""
    curves, none = [curve_of(fold) for fold in folds], np.zeros(1)
    penalty, validation_h = best_penalty(curves)
    found: Row = {
        "penalty": penalty,
        "validation": {
            "H": validation_h,
            "H_no_penalty": float(np.mean([harmonic_means(*curve.at(none))[0] for curve in curves])),
        },
    }
    for name, value in (("test", penalty), ("test_no_penalty", 0.0)):
        unseen, seen = (float(part[0]) for part in curve_of(test).at(np.array([value])))
        found[name] = {"U": unseen, "S": seen, "H": float(harmonic_means(np.array(unseen), np.array(seen)))}
    return found


if __name__ == "__main__":
    main()

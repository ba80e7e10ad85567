"""The paper's experiment: a base generator with and without each part of D3GZSL, every network from random weights.

    python benchmarks/paper.py FOLDER --recipes paper-flo-wgan paper-flo-cegzsl --out benchmarks/results/DATE-paper

FOLDER is a benchmark folder (`res101.mat`, `att_splits.mat`). For each recipe, variant and seed one training on all of
trainval is measured on the test rows, and one on each fold of the selection on its held-out rows, at the same epochs,
by four classifiers: the student's own C_s, a softmax on scaled features and one on E_s's embeddings of them (real rows
of seen classes, synthesised ones of unseen), and an `lda` head. From these the table takes both protocols: `test-best`,
the epoch with the best H on the test rows, as papers report it; and `validation`, the epoch with the best mean H on the
folds. On a GPU the trainings of one recipe and seed run side by side, each on a stream of its own. Rows are written to
OUT.json as they finish, and rows that are there are not repeated; OUT.md and OUT.svg are made from them. With
--deadline, no group of trainings is begun that would end later than so many seconds after the start.

With the variant `+D3 searched`, the weights of D3's losses are first searched on the folds alone, with the first seed:
those with the best H of C_s without a seen penalty, at their best epoch, are taken. No test row is read for that.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that run side by side
sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.paper_classifiers import CLASSIFIERS, classify, teacher_results  # noqa: E402
from benchmarks.paper_table import draw, table  # noqa: E402
from benchmarks.rows import Row, command, rows_of, save  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.datasets.benchmark import load_benchmark  # noqa: E402
from training.datasets.dataset import Dataset, Task, make_task  # noqa: E402
from training.device import WARM_UP, choose_device  # noqa: E402
from training.features.scaler import Scaler  # noqa: E402
from training.method.teacher import new_teacher  # noqa: E402
from training.method.trainer import DivergedError, Trainer  # noqa: E402
from training.metrics import harmonic_means  # noqa: E402
from training.networks.d3gzsl import Teacher  # noqa: E402
from training.recipes import configured, load_recipe  # noqa: E402
from training.runs.contents import code_commit  # noqa: E402
from training.runs.measuring import gradient_shares  # noqa: E402
from training.selection.fold_scores import FoldScores, HeldOut, best_penalty, curve_of  # noqa: E402
from training.selection.folds import used_folds  # noqa: E402

RECORDED_AFTER = WARM_UP + 2  # outer steps
ID2SD, O2DBD = ("label_distillation", "embedding_distillation"), ("ood_distillation",)
VARIANTS: dict[str, dict[str, Any]] = {
    "base": dict.fromkeys(ID2SD + O2DBD, 0.0),
    "+ID2SD": dict.fromkeys(O2DBD, 0.0),
    "+O2DBD": dict.fromkeys(ID2SD, 0.0),
    "+D3": {},
    "+D3 x 0.1": dict.fromkeys(ID2SD + O2DBD, 0.1),
    "+D3 searched": {},  # with the weights that `search` finds
    "+D3 as published": {"kl_form": "faithful", "be_form": "faithful", "od_form": "faithful", "ood_target": "class"},
}
SEARCHED = "+D3 searched"
TERMS = (*ID2SD, *O2DBD)
GRID = (
    (0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 10.0, 0.0),
    (0.03, 0.0, 0.0),
    (0.3, 0.0, 0.0),
    (0.0, 0.0, 0.3),
    (0.0, 0.0, 3.0),
    (0.03, 3.0, 1.0),
)
"""Weights of L_kl, L_be and L_od that are tried; (1, 1, 1) is the variant `+D3`."""


@dataclass
class Training:
    """One training and what it measured.

    Attributes:
        scores: by epoch and classifier, of the held-out rows.
        shares: by epoch, the gradients of the student's losses on its parameters, relative to L_cls's.
        diverged: why it ended early.
    """

    task: Task
    held: HeldOut
    config: TrainConfig
    epochs: Sequence[int]
    stream: Any = None
    trainer: Trainer | None = None
    scores: dict[int, dict[str, FoldScores]] = field(default_factory=dict)
    shares: dict[int, dict[str, float]] = field(default_factory=dict)
    diverged: str | None = None

    def begin(self, teacher: Teacher) -> None:
        """Take the first epochs, and with them record the steps where they are recorded."""
        with torch.cuda.stream(self.stream):
            self.trainer = Trainer(self.task, self.config, teacher=teacher)
            while self.diverged is None and self.trainer.epoch * self.trainer.steps < RECORDED_AFTER:
                self._epoch()

    def run(self) -> None:
        """Train to the end."""
        with torch.cuda.stream(self.stream):
            while self.diverged is None and self.trainer is not None and self.trainer.epoch < self.epochs[-1]:
                self._epoch()

    def _epoch(self) -> None:
        assert self.trainer is not None
        try:
            self.trainer.run_epoch()
        except DivergedError as error:
            self.diverged = str(error)
            return
        if (epoch := self.trainer.epoch) in self.epochs:
            self.scores[epoch] = classify(self.trainer.networks, self.task, self.held, seed=self.config.seed)
            self.shares[epoch] = gradient_shares(self.trainer.networks, self.task, self.config)


def main() -> None:
    arguments = parse()
    started = time.monotonic()
    device = choose_device(arguments.device)
    dataset = load_benchmark(arguments.folder)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    longest: dict[str, float] = {}
    if SEARCHED in arguments.variants:
        for recipe in arguments.recipes:
            search(dataset, recipe, arguments, device, out)
    for recipe, seed in groups(arguments):
        wanted = [v for v in arguments.variants if not there(rows_of(out.with_suffix(".json")), recipe, v, seed)]
        left = arguments.deadline - (time.monotonic() - started)
        if not wanted or longest.get(recipe, 0.0) > left:
            continue
        begun = time.monotonic()
        found = weights_of(rows_of(found_file(out)), recipe) if SEARCHED in wanted else None
        rows = measure(dataset, recipe, seed, wanted, arguments, device, found)
        longest[recipe] = time.monotonic() - begun
        for row in rows:
            row["seconds_of_group"] = round(longest[recipe], 1)
            row["command"] = command("paper.py")
        rows = [*rows_of(out.with_suffix(".json")), *rows]
        save(out.with_suffix(".json"), rows, command("paper.py"))
        out.with_suffix(".md").write_text(table(rows, rows_of(found_file(out))))
        out.with_suffix(".svg").write_text(draw(rows))
        print(f"{recipe} seed {seed}: {len(wanted)} variants in {longest[recipe]:.0f} s", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=2, help="of the four of the selection, how many are trained")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every recipe; repeatable")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--deadline", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--out", required=True)
    return parser.parse_args()


def groups(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    for seed in arguments.seeds:
        for recipe in arguments.recipes:
            yield recipe, seed


def there(rows: Iterable[Row], recipe: str, variant: str, seed: int) -> bool:
    return any((row["recipe"], row["variant"], row["seed"]) == (recipe, variant, seed) for row in rows)


def variant_of(config: TrainConfig, variant: str, found: Sequence[float] | None = None) -> TrainConfig:
    """The configuration with what a variant changes of the student's losses; `found` are the weights of the search."""
    if variant == SEARCHED:
        assert found is not None
        return replace(config, d3=replace(config.d3, **dict(zip(TERMS, found, strict=True))))
    return replace(config, d3=replace(config.d3, **VARIANTS[variant]))


def search(dataset: Dataset, recipe: str, arguments: argparse.Namespace, device: torch.device, out: Path) -> None:
    """Train every point of the grid on the folds, and write H of their held-out rows beside OUT."""
    rows = rows_of(found_file(out))
    if any(row["recipe"] == recipe for row in rows):
        return
    base, data = parts_of(dataset, recipe, arguments.seeds[0], arguments, device, folds_only=True)
    epochs = measured(base)
    trainings = [
        [Training(task, held, variant_of(base, SEARCHED, weights), epochs) for task, held in data] for weights in GRID
    ]
    together([training for of_point in trainings for training in of_point], device)
    for weights, of_point in zip(GRID, trainings, strict=True):
        common = sorted(set(epochs).intersection(*(training.scores for training in of_point)))
        curves = {}
        for name in CLASSIFIERS:
            held = [[curve_of(training.scores[epoch][name]) for training in of_point] for epoch in common]
            curves[name] = [
                {
                    "epoch": epoch,
                    "folds_H": float(np.mean([harmonic_means(*curve.at(np.zeros(1)))[0] for curve in of_epoch])),
                    "folds_H_best_penalty": best_penalty(of_epoch)[1],
                }
                for epoch, of_epoch in zip(common, held, strict=True)
            ]
        rows.append(
            {
                "recipe": recipe,
                "data": arguments.folder.name,
                "seed": arguments.seeds[0],
                "weights": dict(zip(TERMS, weights, strict=True)),
                "diverged": next((training.diverged for training in of_point if training.diverged), None),
                "curves": curves,
            }
        )
    save(found_file(out), rows, command("paper.py"))


def found_file(out: Path) -> Path:
    """Where the search is kept."""
    return out.with_name(f"{out.name}-search.json")


def weights_of(rows: Iterable[Row], recipe: str) -> list[float]:
    """The weights with the best H of C_s on the folds, without a seen penalty; the base generator's do not count."""
    tried = [row for row in rows if row["recipe"] == recipe and any(row["weights"].values()) and row["curves"]["C_s"]]
    best = max(tried, key=lambda row: max(point["folds_H"] for point in row["curves"]["C_s"]))
    return [best["weights"][term] for term in TERMS]


def measured(config: TrainConfig) -> list[int]:
    """The epochs after which classifiers are measured."""
    count = min(config.selection.evaluations, config.epochs)
    return sorted({round(config.epochs * (i + 1) / count) for i in range(count)})


def parts_of(
    dataset: Dataset,
    recipe: str,
    seed: int,
    arguments: argparse.Namespace,
    device: torch.device,
    *,
    folds_only: bool = False,
) -> tuple[TrainConfig, list[tuple[Task, HeldOut]]]:
    """The recipe's configuration, and what is trained and measured: trainval, unless left out, then the folds."""
    base = configured([*arguments.set, f"seed={seed}"], base=load_recipe(recipe).settings)
    selection = replace(base.selection, used_folds=arguments.folds)
    scaling = "range" if base.scaling == "auto" else base.scaling
    parts = [] if folds_only else [(dataset.trainval, dataset.test, np.arange(len(dataset.classes)))]
    parts += [(fold.train, fold.held, fold.classes) for fold in used_folds(dataset, selection, seed)]
    data = []
    for train, held, classes in parts:
        scaler = Scaler.fit(dataset.features[train], scaling)
        data.append(
            (make_task(dataset, train, classes, scaler, device), HeldOut.of(dataset, held, classes, scaler, device))
        )
    return base, data


def measure(
    dataset: Dataset,
    recipe: str,
    seed: int,
    variants: list[str],
    arguments: argparse.Namespace,
    device: torch.device,
    found: Sequence[float] | None,
) -> list[Row]:
    """Train every variant with one seed, on trainval and on folds, and put their rows together."""
    base, data = parts_of(dataset, recipe, seed, arguments, device)
    epochs = measured(base)
    trainings = {
        variant: [Training(task, held, variant_of(base, variant, found), epochs) for task, held in data]
        for variant in variants
    }
    together([training for of_variant in trainings.values() for training in of_variant], device)
    facts = {
        "data": arguments.folder.name,
        "recipe": recipe,
        "seed": seed,
        "folds": arguments.folds,
        "commit": code_commit(),
        "data_hash": dataset.data_hash,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "precision": base.precision,
    }
    return [
        {
            **facts,
            "variant": variant,
            "weights": dict(zip(TERMS, (getattr(of_variant[0].config.d3, term) for term in TERMS), strict=True)),
            **row_of(of_variant),
        }
        for variant, of_variant in trainings.items()
    ]


def together(trainings: list[Training], device: torch.device) -> None:
    """Run trainings side by side; they are begun one after the other, as steps are recorded undisturbed only."""
    started = time.monotonic()
    teachers: dict[int, Teacher] = {}  # by task: variants share their teacher
    for training in trainings:
        training.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if id(training.task) not in teachers:
            torch.manual_seed(training.config.seed)
            teachers[id(training.task)] = new_teacher(training.task, training.config, None)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        training.begin(teachers[id(training.task)])
    if device.type != "cuda":
        for training in trainings:
            training.run()
        return
    torch.cuda.synchronize(device)
    torch.linalg.cholesky(torch.eye(2, device=device))  # loads its library, which no two threads may do at once
    begun = time.monotonic()
    failures: list[BaseException] = []

    def run(training: Training) -> None:
        try:
            training.run()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=[training]) for training in trainings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize(device)
    if failures:
        raise failures[0]
    print(
        f"{len(trainings)} trainings: begun in {begun - started:.0f} s, run in {time.monotonic() - begun:.0f} s",
        flush=True,
    )


def row_of(trainings: list[Training]) -> Row:
    """The results of one variant and seed: the first training is that on trainval, the others are the folds'."""
    final, folds = trainings[0], trainings[1:]
    epochs = sorted(set(final.scores).intersection(*(fold.scores for fold in folds)))
    assert final.trainer is not None
    return {
        "config_hash": final.config.digest(),
        "epochs": epochs,
        "diverged": next((training.diverged for training in trainings if training.diverged), None),
        "curves": {name: [point(final, folds, epoch, name) for epoch in epochs] for name in CLASSIFIERS},
        "gradient_shares": {str(epoch): final.shares[epoch] for epoch in epochs},
        "teacher": teacher_results(final.trainer.networks.teacher, final.task, final.held),
    }


def point(final: Training, folds: list[Training], epoch: int, name: str) -> Row:
    """One classifier at one epoch: on the test rows and on the folds, without a seen penalty and with the best one."""
    test = curve_of(final.scores[epoch][name])
    held = [curve_of(fold.scores[epoch][name]) for fold in folds]
    penalty, fold_h = best_penalty(held) if held else (0.0, 0.0)

    def at(value: float) -> dict[str, float]:
        unseen, seen = (float(found[0]) for found in test.at(np.array([value])))
        return {"U": unseen, "S": seen, "H": float(harmonic_means(np.array(unseen), np.array(seen)))}

    none = np.zeros(1)
    return {
        "epoch": epoch,
        "test": at(0.0),
        "test_with_validation_penalty": at(penalty),
        "test_best_penalty": at(best_penalty([test])[0]),
        "folds_H": float(np.mean([harmonic_means(*curve.at(none))[0] for curve in held])) if held else None,
        "folds_H_best_penalty": fold_h if held else None,
    }


if __name__ == "__main__":
    main()

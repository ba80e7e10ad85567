"""Novelty scores and the seen penalty over re-splits of which classes are unseen.

    python benchmarks/novelty.py SETS... --out benchmarks/results/DATE-novelty --kept FOLDER [--jobs 2] [--splits 0 1 2]

SETS are benchmark folders or features that `d3gzsl-train extract` made. For each set and re-split as many classes as
the set's own split has (or `--unseen`) are drawn to be unseen, and of every other class a fifth of the rows for testing
(or all but `--rows`). Every re-split is one training as `d3gzsl-train fit` does it: folds, choice, final training.
FOLDER keeps a file for each, SET-SPLIT.npz, with what any rule for the seen penalty needs: of the held-out rows of
every fold and of the test rows the best score of a seen class and of an unseen class, and whether either is right.
Files that are there are not made again; OUT.json and OUT.md are made from all files in FOLDER. Nothing is chosen on
test rows; the best H on the test rows' own curve is what the penalty's loss is measured against.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.resplit import draw  # noqa: E402
from benchmarks.rows import command, save  # noqa: E402

Row = dict[str, Any]


def data_set(folder: Path) -> Any:
    """A benchmark folder or a feature store."""
    from training.datasets.benchmark import is_benchmark, load_benchmark
    from training.datasets.dataset import from_store
    from training.features.store import FeatureStore

    return (
        load_benchmark(folder)
        if is_benchmark(folder)
        else from_store(FeatureStore.load(folder), test_fraction=0.3, split_seed=0)
    )


def resplit(dataset: Any, seed: int, *, unseen: int | None = None, rows: int | None = None) -> Any:
    """Other classes unseen, as many as before or as given, and rows of every other class drawn for testing."""
    from model.vocabulary import Vocabulary

    hidden, test = draw(dataset.labels, len(dataset.classes), unseen or int((~dataset.seen).sum()), seed, rows=rows)
    classes = tuple(
        dataclasses.replace(entry, kind="unseen" if index in hidden else "seen")
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


def kept_rows(logits: Any, labels: Any, seen: Any) -> dict[str, Any]:
    """What a rule for the seen penalty can know of rows: best scores, whether they are right, labels."""
    columns, others = np.flatnonzero(seen), np.flatnonzero(~seen)
    rows = np.arange(len(labels))
    a, b = logits[:, columns].argmax(axis=1), logits[:, others].argmax(axis=1)
    return {
        "seen_best": logits[rows, columns[a]].astype(np.float32),
        "unseen_best": logits[rows, others[b]].astype(np.float32),
        "right": (columns[a] == labels) | (others[b] == labels),
        "labels": labels.astype(np.int16),
        "seen": seen,
    }


def one(folder: Path, split: int, arguments: argparse.Namespace) -> tuple[Row, dict[str, Any]]:
    """A re-split's row of results, and what is kept of its rows."""
    import torch

    from model.calibration import novelty
    from training.evaluation import TestRows, evaluate, fit_chosen_head, run_key
    from training.method.trainer import train
    from training.recipes import configured, load_recipe
    from training.runs.contents import Trained, code_commit
    from training.runs.fit import novelty_reference, whole
    from training.selection.fold_scores import FoldScores, Measurement, Stage, scale_unseen
    from training.selection.novelty import all_familiarities
    from training.selection.protocols import select

    class Kept(Stage):
        def __init__(self) -> None:
            self.found: dict[int, Measurement] = {}

        def keep(self, epoch: int, measurement: Measurement) -> None:
            self.found[epoch] = measurement

    torch.set_num_threads(1)
    device = torch.device("cpu")
    dataset = resplit(data_set(folder), split, unseen=arguments.unseen, rows=arguments.rows)
    config = configured(arguments.set, base=load_recipe(arguments.recipe).settings)
    folds: dict[int, Kept] = {}
    selected = select(dataset, config, device, stages=lambda number: folds.setdefault(number, Kept()))
    arrays = {}
    for number, fold in folds.items():
        found = fold.found[selected.epochs]
        logits = found.logits[dataclasses.replace(selected.head, unseen_scale=1.0).name]
        scaled = scale_unseen(
            FoldScores(logits=logits, labels=found.labels, seen=found.seen), selected.head.unseen_scale
        )
        of_fold = kept_rows(scaled.logits, found.labels, found.seen)
        arrays |= {f"fold{number}/{name}": values for name, values in of_fold.items()}
    scaler, task = whole(dataset, selected.scaling, device)
    networks = train(task, config, epochs=selected.epochs)
    reference = novelty_reference(networks, task, config, selected)
    trained = Trained(
        config=config,
        data={},
        selected=selected,
        scaler=scaler,
        networks=networks,
        novelty_reference=reference,
        attribute_dim=dataset.vocabulary.dimension,
    )
    rows, head = TestRows.of(dataset, trained), fit_chosen_head(dataset, trained, key=run_key(trained))
    results = evaluate(dataset, trained, head=head, rows=rows, with_softmax=False)
    arrays |= {
        f"test/{name}": values
        for name, values in kept_rows(head.logits(rows.embeddings), rows.labels, dataset.seen).items()
    }
    served = {}
    if selected.novelty is not None and reference is not None:
        scores = all_familiarities(head, dataset.seen, rows.embeddings, rows.teacher_scores)[selected.novelty]
        of_seen = novelty(scores[dataset.seen[rows.labels]], reference)
        served = {"mean_of_seen": float(of_seen.mean()), "seen_above_0.95": float((of_seen > 0.95).mean())}
    row = {
        "data": folder.name,
        "split": split,
        "unseen": int((~dataset.seen).sum()),
        "training_rows": len(dataset.trainval),
        "commit": code_commit(),
        "selected": {k: v for k, v in selected.to_json().items() if k not in ("validation", "student")},
        "validation_H": selected.validation["H"],
        **{name: results["lda"][name] for name in ("U", "S", "H")},
        "novelty": {**results["novelty"], "validation": selected.validation["novelty"], **served},
    }
    return row, arrays


def measure(file: Path, folder: Path, split: int, arguments: argparse.Namespace) -> None:
    """One re-split into its file."""
    started = time.monotonic()
    row, arrays = one(folder, split, arguments)
    row["seconds"] = round(time.monotonic() - started, 1)
    beside = file.with_suffix(".partial")
    with beside.open("wb") as stream:
        np.savez_compressed(stream, row=np.array(json.dumps(row)), **arrays)
    beside.replace(file)
    print(f"{folder.name} {split}: H {row['H']:.3f}, {row['novelty']['score']} {row['novelty']['auroc']}", flush=True)


def of_fit(folds: list[Any], _test: Any, _temperature: float) -> float:
    """The rule of `fit`: the median of the penalties that are nearly best on the folds."""
    from training.selection.fold_scores import best_penalty

    return best_penalty([curve(fold) for fold in folds])[0]


def for_class_counts(folds: list[Any], test: Any, temperature: float) -> float:
    """The same, moved by how much larger the share of seen classes is, in log-odds, with all classes than in a fold."""
    odds = [fold["seen"].sum() / (~fold["seen"]).sum() for fold in folds]
    moved = np.log(test["seen"].sum() / (~test["seen"]).sum()) - np.log(np.mean(odds))
    return of_fit(folds, test, temperature) + temperature * float(moved)


RULES = {"loss, rule of `fit`": of_fit, "loss, moved for the counts of classes": for_class_counts}


def read(file: Path) -> Row:
    """A re-split's row, with the penalty's loss."""
    from training.metrics import harmonic_means

    with np.load(file, allow_pickle=False) as arrays:
        row: Row = json.loads(str(arrays["row"]))
        names = sorted({name.partition("/")[0] for name in arrays.files if "/" in name})
        groups = {n: {k.partition("/")[2]: arrays[k] for k in arrays.files if k.startswith(f"{n}/")} for n in names}
    test = groups.pop("test")
    of_test, temperature = curve(test), row["selected"]["head"]["temperature"]
    best = float(harmonic_means(of_test.unseen, of_test.seen).max())
    losses = {}
    for rule, choose in RULES.items():
        unseen, seen = of_test.at(np.array([choose(list(groups.values()), test, temperature)]))
        losses[rule] = best - float(harmonic_means(unseen, seen)[0])
    return {**row, "best_H": best, "penalty_loss": losses}


def curve(group: dict[str, Any]) -> Any:
    """U and S against the penalty from what :func:`kept_rows` kept; see `training.metrics.seen_unseen_curve`."""
    from training.metrics import SeenUnseenCurve, class_weights

    seen = group["seen"][group["labels"]]
    hits = group["right"] * np.where(seen, 1 / seen_share(group), 1 / (1 - seen_share(group)))
    hits = hits * class_weights(group["labels"].astype(np.int64))
    penalties, place = np.unique(group["seen_best"].astype(float) - group["unseen_best"], return_inverse=True)
    lost = np.bincount(place, hits * seen, minlength=len(penalties))
    won = np.bincount(place, hits * ~seen, minlength=len(penalties))
    return SeenUnseenCurve(
        penalties=penalties,
        seen=np.concatenate([[lost.sum()], lost.sum() - np.cumsum(lost)]),
        unseen=np.concatenate([[0.0], np.cumsum(won)]),
    )


def seen_share(group: dict[str, Any]) -> float:
    """Share of seen ones among the classes that have rows."""
    return float(group["seen"][np.unique(group["labels"])].mean())


def mean(values: Iterable[float | None]) -> str:
    """Mean and standard error in words."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    error = f" ± {statistics.stdev(known) / len(known) ** 0.5:.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{error}"


def table(rows: list[Row], words: str) -> str:
    """The results for people."""
    from training.method.novelty import NOVELTY_SCORES

    sets = sorted({row["data"] for row in rows})
    of = {name: [row for row in rows if row["data"] == name] for name in sets}
    lines = [
        "# Novelty scores and the seen penalty over re-splits of which classes are unseen",
        "",
        f"    {words}",
        "",
        "Mean ± standard error over the re-splits. AUROC on test rows, mean over unseen classes, each against all test "
        "rows of seen classes. Served: by the score that validation chose in each re-split; `teacher` is what was "
        "always served before. Nothing is chosen on test rows.",
        "",
        f"| data | re-splits | {' | '.join(NOVELTY_SCORES)} | served | lowest served | none served |",
        "|---|---|" + "---|" * (len(NOVELTY_SCORES) + 3),
    ]
    for name, some in of.items():
        served = [row["novelty"]["auroc"] for row in some if row["novelty"]["score"]]
        cells = [mean(row["novelty"]["aurocs"][score] for row in some) for score in NOVELTY_SCORES]
        lowest = f"{min(served):.3f}" if served else "–"
        lines.append(
            f"| {name} | {len(some)} | {' | '.join(cells)} | {mean(served)} | {lowest} | {len(some) - len(served)} |"
        )
    lines += [
        "",
        "The served novelty of test rows of seen classes should be even over 0 to 1: mean 0.5, and 0.05 above 0.95.",
        "",
        "| data | chosen scores | AUROC on validation | mean novelty of seen rows | share above 0.95 |",
        "|---|---|---|---|---|",
    ]
    for name, some in of.items():
        found = [row["novelty"] for row in some if row["novelty"]["score"]]
        chosen = {score: sum(n["score"] == score for n in found) for score in NOVELTY_SCORES}
        said = ", ".join(f"{score} {count}" for score, count in chosen.items() if count)
        lines.append(
            f"| {name} | {said or '–'} | {mean(n['validation'][n['score']]['auroc'] for n in found)} | "
            f"{mean(n.get('mean_of_seen') for n in found)} | {mean(n.get('seen_above_0.95') for n in found)} |"
        )
    lines += [
        "",
        "Loss of the seen penalty: the best H on the test rows' own curve less H at the penalty of validation. The "
        "best H is the largest of thousands of noisy values, so that no rule comes to 0.",
        "",
        f"| data | re-splits | H | best H | {' | '.join(RULES)} |",
        "|---|---|---|---|" + "---|" * len(RULES),
    ]
    for name, some in [*of.items(), ("all", rows)]:
        losses = [mean(row["penalty_loss"][rule] for row in some) for rule in RULES]
        lines.append(
            f"| {name} | {len(some)} | {mean(r['H'] for r in some)} | {mean(r['best_H'] for r in some)} | "
            f"{' | '.join(losses)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--kept", required=True, type=Path, help="folder of the re-splits' files")
    parser.add_argument("--splits", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--unseen", type=int, help="classes; as many as the set's own split has where not given")
    parser.add_argument("--rows", type=int, help="to train on, of each seen class; four fifths where not given")
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; repeatable")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds after which what is not done is left")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.deadline
    arguments.kept.mkdir(parents=True, exist_ok=True)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before the processes begin
    context = multiprocessing.get_context("spawn")
    cells = [(arguments.kept / f"{f.name}-{split}.npz", f, split) for f in arguments.sets for split in arguments.splits]
    waiting = [cell for cell in cells if not cell[0].exists()]
    running: list[Any] = []
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < arguments.jobs:
            running.append(context.Process(target=measure, args=(*waiting.pop(0), arguments)))
            running[-1].start()
        time.sleep(0.2)
        running = [process for process in running if process.is_alive()]
    for process in running:
        process.terminate()
        process.join()
    rows = [read(file) for file in sorted(arguments.kept.glob("*.npz"))]
    save(arguments.out.with_suffix(".json"), rows, command("novelty.py"))
    arguments.out.with_suffix(".md").write_text(table(rows, command("novelty.py")))


if __name__ == "__main__":
    main()

"""Novelty scores and the seen penalty over re-splits of which classes are unseen.

    python benchmarks/novelty.py SETS... --out FOLDER [--jobs 2] [--splits 12] [--deadline 420]

SETS are benchmark folders. For each set and re-split as many classes as the published split has are drawn to be unseen,
and of every other class a fifth of the rows for testing. Every re-split is one training as `d3gzsl-train fit` does it
with the recipe `cpu-wgan`: folds, choice, final training. A file for each, FOLDER/SET-SPLIT.npz, keeps what rules for
penalty and novelty need: of the held-out rows of every fold and of the test rows the best score of a seen class and
of an unseen class and whether each is right, and how well every novelty score tells unseen classes apart. Files that
are there are not made again. Where the deadline, in seconds, comes first, what is not finished is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

RECIPE = "cpu-wgan"
TEST_SHARE = 0.2
CROSS_FITS = 4  # heads whose scores of seen rows they did not see are kept, of the final training


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


def novelty_scores(head: Any, seen: Any, z: Any, teacher: Any) -> dict[str, Any]:
    """Scores of embeddings, larger for rows that look less like a seen class, each [N].

    Args:
        head: HeadFit over all classes.
        seen: which of them are seen, bool [C].
        z: not centred, float32 [N, Z].
        teacher: its largest log-probability, [N].
    """
    from scipy.special import log_softmax, logsumexp

    weight, bias = head.weight[seen].astype(np.float64), head.bias[seen].astype(np.float64)
    centred = (z - head.centre).astype(np.float64)
    products = centred @ weight.T
    logits = products + bias
    means = (weight @ head.head._factor) @ head.head._factor.T
    gram = weight @ means.T
    within = np.linalg.inv(len(bias) * np.eye(len(bias)) + gram)
    background = np.einsum("nc,cd,nd->n", products, within, products)
    squares = head.head.squares(centred)
    best = logits.max(axis=1)
    euclidean = (np.square(centred).sum(axis=1)[:, None] - 2 * centred @ means.T + np.square(means).sum(axis=1)).min(1)
    found = {
        "teacher": -teacher,
        "logit": -best,
        "mahalanobis": squares - 2 * best,
        "euclidean": euclidean,
        "logit_cosine": -best / np.sqrt(squares),
        "logit_background": -best / np.sqrt(np.maximum(background, 1e-9)),
    }
    for share in (0.25, 0.5, 0.75, 1.0):
        found[f"relative_mahalanobis/{share}"] = share * background - 2 * best
    for temperature in (1.0, 4.0, 16.0):
        log_p = log_softmax(logits / temperature, axis=1)
        found[f"energy/{temperature}"] = -logsumexp(logits / temperature, axis=1)
        found[f"probability/{temperature}"] = -log_p.max(axis=1)
        found[f"entropy/{temperature}"] = -(np.exp(log_p) * log_p).sum(axis=1)
    return found


def aurocs(scores: dict[str, Any], labels: Any, seen: Any) -> dict[str, Any]:
    """Of each score: AUROC of all rows of unseen classes, and of each such class (`classes`), against all seen rows."""
    from training.metrics import auroc

    of_seen = seen[labels]
    classes = np.unique(labels[~of_seen])
    return {
        "classes": classes.tolist(),
        **{
            name: {
                "all": auroc(values[~of_seen], values[of_seen]),
                "classes": [auroc(values[labels == c], values[of_seen]) for c in classes],
            }
            for name, values in scores.items()
        },
    }


def kept_rows(logits: Any, labels: Any, seen: Any) -> dict[str, Any]:
    """What any rule for the seen penalty can know of rows: best scores, whether they are right, labels."""
    columns, others = np.flatnonzero(seen), np.flatnonzero(~seen)
    rows = np.arange(len(labels))
    a, b = logits[:, columns].argmax(axis=1), logits[:, others].argmax(axis=1)
    return {
        "seen_best": logits[rows, columns[a]].astype(np.float32),
        "unseen_best": logits[rows, others[b]].astype(np.float32),
        "right": (columns[a] == labels) | (others[b] == labels),
        "labels": labels.astype(np.int16),
    }


def one(folder: Path, split: int, settings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A re-split's arrays, and what is said of it in words and numbers."""
    import torch

    from training.datasets.benchmark import load_benchmark
    from training.datasets.dataset import make_task
    from training.features.scaler import Scaler
    from training.method.heads import HeadRows, embed, synthesise
    from training.method.trainer import Measuring, train
    from training.metrics import gzsl_scores, harmonic_means
    from training.recipes import configured, load_recipe
    from training.runs.contents import code_commit
    from training.runs.fit import held_out_scores, whole
    from training.selection.choice import choose, choose_scaling, measured_epochs
    from training.selection.fold_scores import FoldScores, HeldOut, curve_of, scale_unseen
    from training.selection.folds import used_folds

    torch.set_num_threads(1)
    started = time.monotonic()
    config = configured(settings, base=load_recipe(RECIPE).settings)
    dataset, device = resplit(load_benchmark(folder), split), torch.device("cpu")
    scaling, _ = choose_scaling(dataset, config)
    lengths = measured_epochs(config)
    measurements, kept = [], []
    for fold in used_folds(dataset, config.selection, config.seed):
        scaler = Scaler.fit(dataset.features[fold.train], scaling)
        task = make_task(dataset, fold.train, fold.classes, scaler, device)
        held = HeldOut.of(dataset, fold.held, fold.classes, scaler, device)
        measured, rows_at = {}, {}

        class Fold(Measuring):
            def measure(self, epoch, networks, _losses):
                if epoch in lengths:
                    measured[epoch] = held.measure(networks, task, config, key="")  # noqa: B023
                    with torch.no_grad():
                        score = networks.teacher.score(held.features).numpy()  # noqa: B023
                    rows_at[epoch] = (HeadRows.of(networks, task), embed(networks, held.features), score)  # noqa: B023

        train(task, config, epochs=config.epochs, measuring=Fold())
        measurements.append(measured)
        kept.append(rows_at)
    selected = choose(measurements, config)
    arrays, said = {}, []
    for number, (measured, rows_at) in enumerate(zip(measurements, kept, strict=True)):
        found = measured[selected.epochs]
        rows, z, score = rows_at[selected.epochs]
        (head,) = rows.lda({}, [dataclasses.replace(selected.head, unseen_scale=1.0)])
        scores = novelty_scores(head, found.seen, z, score)
        plain = FoldScores(logits=found.logits[f"lda/{selected.head.shrinkage}"], labels=found.labels, seen=found.seen)
        for name, values in kept_rows(
            scale_unseen(plain, selected.head.unseen_scale).logits, plain.labels, plain.seen
        ).items():
            arrays[f"fold{number}/{name}"] = values
        arrays[f"fold{number}/seen"] = found.seen
        seen_rows = found.seen[found.labels]
        said.append(
            {
                "novelty": aurocs(scores, found.labels, found.seen),
                "seen_quantiles": {
                    name: np.quantile(v[seen_rows], np.linspace(0, 1, 101)).tolist() for name, v in scores.items()
                },
            }
        )
    del kept
    scaler, task = whole(dataset, scaling, device)
    networks = train(task, config, epochs=selected.epochs)
    names, seen = [c.id for c in dataset.classes], dataset.seen
    synthetic = {
        i: synthesise(networks, task.attributes[i], config.digest(), names[i], config.selection.samples)
        for i in np.flatnonzero(~seen).tolist()
    }
    rows = HeadRows.of(networks, task)
    (head,) = rows.lda(synthetic, [selected.head])
    features = torch.from_numpy(scaler.apply(dataset.features[dataset.test]))
    labels, z = dataset.labels[dataset.test], embed(networks, features)
    with torch.no_grad():
        teacher = networks.teacher.score(features).numpy()
    logits = head.logits(z)
    for name, values in kept_rows(logits, labels, seen).items():
        arrays[f"test/{name}"] = values
    arrays["test/seen"] = seen
    (plain_head,) = rows.lda({}, [dataclasses.replace(selected.head, unseen_scale=1.0)])
    scores = novelty_scores(plain_head, seen, z, teacher)
    # seen rows by heads that did not see them: the final networks, class means and covariance without the rows
    order = np.argsort(rows.labels, kind="stable")
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.arange(len(order)) % CROSS_FITS
    crossed, references = [], []
    for number in range(CROSS_FITS):
        rest, out = group != number, group == number
        (fit,) = HeadRows(z=rows.z[rest], labels=rows.labels[rest], seen=seen).lda(synthetic, [selected.head])
        crossed.append(kept_rows(fit.logits(rows.z[out]), rows.labels[out], seen))
        reference = novelty_scores(fit, seen, rows.z[out], np.zeros(int(out.sum())))
        references.append(reference)
    for name in crossed[0]:
        arrays[f"crossed/{name}"] = np.concatenate([c[name] for c in crossed])
    of_seen = seen[labels]
    reference = {name: np.sort(np.concatenate([r[name] for r in references])) for name in references[0]}
    reference["teacher"] = np.sort(-held_out_scores(task, config))
    served = {
        name: np.histogram(np.searchsorted(reference[name], v[of_seen]) / len(reference[name]), bins=20, range=(0, 1))[
            0
        ].tolist()
        for name, v in scores.items()
    }
    calibrated = selected.calibration.scores(logits, seen)
    results = gzsl_scores(calibrated, labels, seen)
    curve = curve_of(FoldScores(logits=logits, labels=labels, seen=seen))
    told = {
        "data": folder.name,
        "split": split,
        "recipe": [RECIPE, *settings],
        "commit": code_commit(),
        "scaling": scaling,
        "selected": {k: v for k, v in selected.to_json().items() if k != "validation"},
        "validation_H": selected.validation["H"],
        **{name: getattr(results, name) for name in ("U", "S", "H", "T1", "AUSUC")},
        "best_H": float(harmonic_means(curve.unseen, curve.seen).max()),
        "folds": said,
        "test_novelty": aurocs(scores, labels, seen),
        "test_seen_novelty_histogram": served,
        "test_seen_quantiles": {n: np.quantile(v[of_seen], np.linspace(0, 1, 101)).tolist() for n, v in scores.items()},
        "crossed_quantiles": {n: np.quantile(v, np.linspace(0, 1, 101)).tolist() for n, v in reference.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    return arrays, told


def rounded(value: Any) -> Any:
    """JSON values with five digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def file_of(out: Path, folder: Path, split: int) -> Path:
    """Where a re-split's results are."""
    return out / f"{folder.name}-{split}.npz"


def measure(out: Path, folder: Path, split: int, settings: list[str]) -> None:
    """One re-split into its file."""
    arrays, told = one(folder, split, settings)
    file = file_of(out, folder, split)
    beside = file.with_suffix(".partial")
    with beside.open("wb") as stream:
        np.savez_compressed(stream, told=np.array(json.dumps(rounded(told))), **arrays)
    beside.replace(file)
    words = f"H {told['H']:.3f}, best {told['best_H']:.3f}, validation {told['validation_H']:.3f}"
    print(f"{folder.name} {split}: {words}, {told['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--splits", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; repeatable")
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.deadline
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    context = multiprocessing.get_context("spawn")
    cells = [(folder, split) for folder in arguments.sets for split in arguments.splits]
    waiting = [cell for cell in cells if not file_of(arguments.out, *cell).exists()]
    running: dict[tuple[Path, int], Any] = {}
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < arguments.jobs:
            cell = waiting.pop(0)
            running[cell] = context.Process(target=measure, args=(arguments.out, *cell, arguments.set))
            running[cell].start()
        time.sleep(0.2)
        running = {cell: process for cell, process in running.items() if process.is_alive()}
    for process in running.values():
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()

"""Model selection without test data: pseudo-unseen classes and held-out rows, both taken from trainval.

Seen classes are dealt into folds. In each fold one group is hidden and described by attributes only, as unseen classes
are, and a share of the other classes' rows is held out. Training length, shrinkage, seen penalty and temperature are
those with the best mean pseudo-H over the folds; then everything is trained again on all of trainval.

N: held-out rows, C: classes of a fold, Z: embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.calibration import Calibration
from model.errors import DataError
from training.config import SelectionConfig, TrainConfig
from training.dataset import Dataset
from training.heads import fit_heads
from training.metrics import SeenUnseenCurve, auroc, seen_unseen_curve
from training.scaler import Scaler
from training.task import Task
from training.trainer import Networks, train

MIN_SEEN_CLASSES = 4  # two folds of two
NEARLY_BEST = 0.005  # penalties within this much of the best mean H count as equally good
STUDENT = "student"

Candidate = tuple[int, str]
"""Epochs and the head: `student` or `lda/<shrinkage>`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Scores of one fold's held-out rows by one candidate."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What validation chose.

    Attributes:
        epochs: training length.
        shrinkage: of the `lda` head.
        head: calibration of the served head.
        student: calibration of the student's own classifier C_s.
        validation: pseudo-H of the chosen candidates, and of every candidate, for reports.
    """

    epochs: int
    shrinkage: float
    head: Calibration
    student: Calibration
    validation: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """Rows and classes of one fold, as indices into the data set."""

    train: NDArray[np.int64]
    held: NDArray[np.int64]
    classes: NDArray[np.int64]
    hidden: NDArray[np.int64]


def folds(dataset: Dataset, config: SelectionConfig, seed: int) -> Iterator[Fold]:
    """Deal the seen classes into folds; every seen class is hidden exactly once.

    Raises:
        DataError: fewer than four seen classes, or fewer than two a fold.
    """
    seen = np.flatnonzero(dataset.seen)
    if len(seen) < MIN_SEEN_CLASSES:
        raise DataError(
            f"selection hides some seen classes and trains on the others: expected at least {MIN_SEEN_CLASSES} seen "
            f"classes, got {len(seen)}"
        )
    if not 2 <= config.folds <= len(seen) // 2:
        raise DataError(
            f"selection.folds: expected 2 to {len(seen) // 2} with {len(seen)} seen classes, got {config.folds}"
        )
    random = np.random.default_rng(seed)
    order = random.permutation(seen)
    labels = dataset.labels[dataset.trainval]
    for group in range(config.folds):
        hidden = np.sort(order[group :: config.folds])
        held = np.isin(labels, hidden)
        for index in np.setdiff1d(seen, hidden):
            rows = random.permutation(np.flatnonzero(labels == index))
            count = round(config.seen_fraction * len(rows))
            held[rows[: min(max(1, count), len(rows) - 1)]] = True  # at least one row to hold out, and one to train on
        yield Fold(train=dataset.trainval[~held], held=dataset.trainval[held], classes=np.sort(order), hidden=hidden)


def make_task(
    dataset: Dataset, rows: NDArray[np.int64], classes: NDArray[np.int64], scaler: Scaler, device: torch.device
) -> Task:
    """The training task of some rows and classes of a data set; class indices become positions in `classes`."""
    labels = np.searchsorted(classes, dataset.labels[rows])
    seen = np.zeros(len(classes), dtype=bool)
    seen[labels] = True
    return Task(
        features=torch.from_numpy(scaler.apply(dataset.features[rows])).to(device),
        labels=torch.from_numpy(labels).to(device),
        attributes=torch.from_numpy(dataset.attributes[classes]).to(device),
        seen=torch.from_numpy(seen).to(device),
    )


def select(
    dataset: Dataset,
    config: TrainConfig,
    device: torch.device,
    *,
    on_epoch: Callable[[int, int, Mapping[str, float]], None] = lambda *_: None,
) -> Selected:
    """Choose length, shrinkage and calibration on pseudo-unseen validation.

    Args:
        dataset: only its trainval rows are read.
        config: hyper-parameters.
        device: where to train.
        on_epoch: called with fold (from 0), epoch (from 1) and mean losses.
    """
    measured = measured_epochs(config)
    scored: dict[Candidate, list[Scored]] = {}
    novelty: dict[int, list[float]] = {}
    for number, fold in enumerate(folds(dataset, config.selection, config.seed)):
        scaler = Scaler.fit(dataset.features[fold.train])
        task = make_task(dataset, fold.train, fold.classes, scaler, device)
        held = torch.from_numpy(scaler.apply(dataset.features[fold.held])).to(device)
        labels = np.searchsorted(fold.classes, dataset.labels[fold.held])
        seen = task.seen.cpu().numpy()
        names = [dataset.classes[index].id for index in fold.classes]

        def measure(
            epoch: int,
            networks: Networks,
            losses: Mapping[str, float],
            *,
            number: int = number,
            task: Task = task,
            held: torch.Tensor = held,
            labels: NDArray[np.int64] = labels,
            seen: NDArray[np.bool_] = seen,
            names: list[str] = names,
        ) -> None:
            on_epoch(number, epoch, losses)
            if epoch not in measured:
                return
            for name, logits in candidate_logits(networks, task, held, names, config):
                scored.setdefault((epoch, name), []).append(Scored(logits=logits, labels=labels, seen=seen))
            with torch.no_grad():
                scores = networks.teacher.score(held).cpu().numpy()
            novelty.setdefault(epoch, []).append(auroc(-scores[~seen[labels]], -scores[seen[labels]]))

        train(task, config, epochs=config.epochs, on_epoch=measure)
    return choose(scored, novelty, config)


def measured_epochs(config: TrainConfig) -> set[int]:
    """The training lengths that selection considers, evenly spaced up to the longest."""
    count = min(config.selection.evaluations, config.epochs)
    return {round(config.epochs * (i + 1) / count) for i in range(count)}


def candidate_logits(
    networks: Networks, task: Task, held: torch.Tensor, names: list[str], config: TrainConfig
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Logits of held-out rows by the student's classifier and by a head of each shrinkage."""
    with torch.no_grad():
        z, logits = networks.student(held)
    yield STUDENT, logits.cpu().numpy()
    rows = z.cpu().numpy()
    shrinkages = config.selection.shrinkage
    heads = fit_heads(networks, task, names, shrinkages=shrinkages, samples=config.selection.samples, key="")
    for shrinkage, head in zip(shrinkages, heads, strict=True):
        yield f"lda/{shrinkage}", head.logits(rows)


def choose(
    scored: Mapping[Candidate, list[Scored]], novelty: Mapping[int, list[float]], config: TrainConfig
) -> Selected:
    """The candidate with the best mean pseudo-H for the served head; the student is taken at the same length."""
    results = {candidate: best_penalty([curve_of(s) for s in runs]) for candidate, runs in scored.items()}
    served = max((c for c in results if c[1] != STUDENT), key=lambda c: (results[c][1], -c[0]))
    epochs, name = served
    student = (epochs, STUDENT)
    return Selected(
        epochs=epochs,
        shrinkage=float(name.removeprefix("lda/")),
        head=calibrate(scored[served], results[served][0]),
        student=calibrate(scored[student], results[student][0]),
        validation={
            "protocol": "validation: pseudo-unseen classes and held-out seen rows from trainval",
            "folds": config.selection.folds,
            "seed": config.seed,
            "H": results[served][1],
            "H_student": results[student][1],
            "novelty_auroc": float(np.mean(novelty[epochs])),
            "candidates": [
                {"epochs": c[0], "head": c[1], "seen_penalty": penalty, "H": h}
                for c, (penalty, h) in sorted(results.items())
            ],
        },
    )


def curve_of(scored: Scored) -> SeenUnseenCurve:
    """Accuracies of one fold against the penalty."""
    return seen_unseen_curve(scored.logits, scored.labels, scored.seen)


def best_penalty(curves: list[SeenUnseenCurve]) -> tuple[float, float]:
    """The penalty (in logits) with the best mean H over folds, and that H.

    H is a step function of the penalty with one step a row; of all steps within `NEARLY_BEST` of the best the median
    is taken, so that no single row decides.
    """
    penalties = np.unique(np.concatenate([curve.penalties for curve in curves]))
    middle = (penalties[1:] + penalties[:-1]) / 2 if len(penalties) > 1 else penalties
    mean_h = np.zeros(len(middle))
    for curve in curves:
        unseen, seen = curve.at(middle)
        mean_h += 2 * unseen * seen / np.maximum(unseen + seen, 1e-12) / len(curves)
    best = float(mean_h.max())
    near = np.flatnonzero(mean_h >= best - NEARLY_BEST)
    chosen = int(near[np.argmin(np.abs(middle[near] - np.median(middle[near])))])
    return float(middle[chosen]), float(mean_h[chosen])


def calibrate(scored: list[Scored], penalty: float) -> Calibration:
    """Temperature with the smallest class-balanced log-loss at a given penalty in logits (Guo et al., ICML 2017)."""

    def loss(log_temperature: float) -> float:
        total = 0.0
        for run in scored:
            shifted = (run.logits.astype(np.float64) - penalty * run.seen) / np.exp(log_temperature)
            rows = -log_softmax(shifted, axis=1)[np.arange(len(run.labels)), run.labels]
            counts = np.bincount(run.labels, minlength=len(run.seen))
            total += float((rows / counts[run.labels]).sum() / (counts > 0).sum())
        return total / len(scored)

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-4.0, 8.0), method="bounded").x))
    return Calibration(seen_penalty=penalty / temperature, temperature=temperature)

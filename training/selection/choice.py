"""What validation chooses: head, strength, scale of described classes' scores, seen penalty and temperature.

N: held-out rows, C: classes of a fold.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.calibration import Calibration
from model.head import HeadKind
from training.config import Protocol, TrainConfig
from training.method.heads import HeadChoice
from training.metrics import most_gain, seen_unseen_curve
from training.selection.fold_scores import (
    NEARLY_BEST,
    STUDENT,
    Measurement,
    Scored,
    best_penalty,
    curve_of,
    fold_scores,
    scaled,
)
from training.selection.result import KINDS, ChosenHead, Selected

UNSEEN_SCALES = (1.0, 1.25, 1.5)
"""Candidates for the scale of described classes' scores, none first."""

PROTOCOLS: Mapping[Protocol, str] = {
    "validation": "validation: pseudo-unseen classes and held-out seen rows from trainval",
    "test-best": "test-best: the best H on the test rows themselves, as papers report it",
}

Candidate = tuple[int, str]
"""Epochs and the head: `student`, `lda/<shrinkage>` or `softmax/<penalty>`."""

Scores = dict[str, float]
"""U, S and H."""


def measured_epochs(config: TrainConfig) -> set[int]:
    """The training lengths that selection considers: the longest, half of it, and so on.

    H seldom depends on an epoch more or less, but often falls long before a training ends. Under `test-best` they are
    evenly spaced, as in papers.
    """
    count = min(config.selection.evaluations, config.epochs)
    if config.selection.protocol == "test-best":
        return {round(config.epochs * (i + 1) / count) for i in range(count)}
    return {math.ceil(config.epochs / 2**i) for i in range(count)}


def choose(measurements: Sequence[Mapping[int, Measurement]], config: TrainConfig) -> Selected:
    """Form and length with the best mean H for the served head; all else is taken at the same length.

    Ties go to `lda`, then to fewer epochs. Of the strengths of that form that are `NEARLY_BEST` at that length, the
    middle one is taken, so that no single row decides. Last comes the scale of described classes' scores, see
    :func:`choose_scale`.

    Args:
        measurements: of each fold by epoch, all of the same epochs; under `test-best` of the test rows alone.
        config: hyper-parameters.
    """
    scored: dict[Candidate, list[Scored]] = {
        (epoch, name): [
            Scored(logits=fold[epoch].logits[name], labels=fold[epoch].labels, seen=fold[epoch].seen)
            for fold in measurements
        ]
        for epoch, first in measurements[0].items()
        for name in first.logits
    }
    results = {candidate: best_penalty([curve_of(s) for s in runs]) for candidate, runs in scored.items()}
    heads = [c for c in results if c[1] != STUDENT]

    def best(kinds: Collection[str], epochs: int | None = None) -> Candidate:
        """Of some forms, at one length or at all."""
        some = [c for c in heads if _kind(c[1]) in kinds and epochs in (None, c[0])]
        first = max(some, key=lambda c: (results[c][1], _kind(c[1]) == "lda", -c[0]))
        alike = [c for c in some if (c[0], _kind(c[1])) == (first[0], _kind(first[1]))]
        near = [c for c in alike if results[c][1] >= results[first][1] - NEARLY_BEST]
        near.sort(key=lambda c: HeadChoice.named(c[1]).strength)
        return max(near[(len(near) - 1) // 2 : len(near) // 2 + 1], key=lambda c: results[c][1])

    served = best(config.selection.heads)
    epochs, name = served
    student = (epochs, STUDENT)
    kinds: list[HeadKind] = [kind for kind in KINDS if any(_kind(c[1]) == kind for c in heads)]
    of_kind = {kind: best([kind], epochs) for kind in kinds}
    overall = {kind: best([kind]) for kind in kinds}
    chosen = {kind: _scaled(HeadChoice.named(c[1]), scored[c]) for kind, c in of_kind.items()}
    kind = HeadChoice.named(name).kind
    return Selected(
        epochs=epochs,
        kind=kind,
        heads=chosen,
        student=calibrate(scored[student], results[student][0]),
        validation={
            "protocol": PROTOCOLS[config.selection.protocol],
            "folds": len(measurements),
            "seed": config.seed,
            "H": chosen[kind].H,
            "H_student": results[student][1],
            "heads": {kind: {"epochs": c[0], "head": c[1], "H": results[c][1]} for kind, c in overall.items()},
            "novelty_auroc": float(np.mean([fold[epochs].novelty for fold in measurements])),
            "candidates": [
                {"epochs": c[0], "head": c[1], "seen_penalty": penalty, "H": h}
                for c, (penalty, h) in sorted(results.items())
            ],
        },
    )


def _scaled(choice: HeadChoice, runs: Sequence[Scored]) -> ChosenHead:
    """A chosen head with its scale and calibration."""
    if choice.kind == "lda":
        choice = replace(choice, unseen_scale=choose_scale(runs))
        runs = [scaled(run, choice.unseen_scale) for run in runs]
    penalty, h = best_penalty([curve_of(run) for run in runs])
    return ChosenHead(choice=choice, calibration=calibrate(runs, penalty), H=h)


def choose_scale(runs: Sequence[Scored]) -> float:
    """The scale of described classes' scores that gains most H over none, by more than its standard error; else none.

    Predicted means lie nearer to the mean of all classes than real ones do, so described classes' scores vary less from
    image to image than those of seen classes, whose means are measured; no penalty makes up for that. The standard
    error is over the folds, each scale with its own best penalty; of one fold nobody knows it.

    Args:
        runs: of each fold, by an `lda` head.
    """
    of_scale = [fold_scores([scaled(run, scale) for run in runs]) for scale in UNSEEN_SCALES]
    return UNSEEN_SCALES[most_gain(np.stack(of_scale, axis=1), errors=1)]


def best_scores(measurement: Measurement) -> dict[str, Scores]:
    """U, S and H of one measurement, of the best head of each form (`lda`, `softmax`) and of the `student`.

    Each with the penalty that is best for it.
    """
    found: dict[str, Scores] = {}
    for name, logits in measurement.logits.items():
        curve = seen_unseen_curve(logits, measurement.labels, measurement.seen)
        penalty, h = best_penalty([curve])
        unseen, seen = curve.at(np.array([penalty]))
        kind = _kind(name)
        if kind not in found or h > found[kind]["H"]:
            found[kind] = {"U": float(unseen[0]), "S": float(seen[0]), "H": h}
    return found


def of_best_head(found: Mapping[str, Scores], kinds: Collection[str] = KINDS) -> Scores:
    """Of :func:`best_scores`, those of the best head of some forms; a tie goes to `lda`."""
    return max((found[kind] for kind in KINDS if kind in found and kind in kinds), key=lambda scores: scores["H"])


def _kind(name: str) -> str:
    return name.partition("/")[0]


def calibrate(scored: Sequence[Scored], penalty: float) -> Calibration:
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

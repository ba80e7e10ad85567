"""What selection chooses, and how: scaling, shrinkage, scale of described classes' scores, seen penalty, temperature.

N: held-out rows, D: scaled features, A: attributes, C: classes of a fold, S: those with rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.calibration import Calibration
from model.head import logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from model.photos import PhotoPrior
from training.config import Protocol, TrainConfig
from training.datasets.dataset import Dataset
from training.features.scaler import SCALINGS, Scaler, Scaling, evenly
from training.method.heads import LDA, HeadChoice
from training.method.novelty import NOVELTY_SCORES, TEACHER, NoveltyScore
from training.metrics import largest_significant_gain, seen_unseen_curve
from training.selection.fold_scores import (
    NEARLY_BEST,
    STUDENT,
    FoldScores,
    Measurement,
    best_penalty,
    curve_of,
    fold_scores,
    scale_unseen,
)
from training.selection.folds import Fold, used_folds
from training.selection.novelty import choose_novelty
from training.selection.photos import PhotoFold, choose_photo_prior

RIDGE, SHRINKAGE = 0.3, 0.5
MOST_ROWS = 20_000  # of a fold, on either side


def choose_scaling(dataset: Dataset, config: TrainConfig) -> tuple[Scaling, dict[str, float]]:
    """The configured scaling; for `auto` `normal` where it gains H on the folds by more than its standard error.

    What is compared is the plainest classifier that knows classes by their attributes: class means, those of hidden
    classes by ridge regression from attributes, and an `lda` head.

    Args:
        dataset: only its trainval rows are read.
        config: hyper-parameters.

    Returns:
        The scaling, and mean H of each where they were compared.
    """
    if config.scaling != "auto":
        return config.scaling, {}
    folds = list(used_folds(dataset, config.selection, config.seed))
    scores = [fold_scores([score(dataset, fold, scaling) for fold in folds]) for scaling in SCALINGS]
    chosen = SCALINGS[largest_significant_gain(np.stack(scores, axis=1), errors=1)]
    return chosen, {scaling: float(h.mean()) for scaling, h in zip(SCALINGS, scores, strict=True)}


def score(dataset: Dataset, fold: Fold, scaling: Scaling) -> FoldScores:
    """Scores of a fold's held-out rows by class means and ridge regression, with an `lda` head."""
    _, first = np.unique(dataset.labels[fold.train], return_index=True)  # every class keeps a row, however rare
    train = fold.train[np.union1d(evenly(len(fold.train), MOST_ROWS), first)]
    held = fold.held[evenly(len(fold.held), MOST_ROWS)]
    scaler = Scaler.fit(dataset.features[train], scaling)
    rows, labels = scaler.apply(dataset.features[train]), np.searchsorted(fold.classes, dataset.labels[train])
    seen = ~np.isin(fold.classes, fold.pseudo_unseen)
    means = np.zeros((len(seen), rows.shape[1]))
    found, _ = class_means(rows.astype(np.float64), labels)
    means[: len(found)] = found
    centre = means[seen].mean(axis=0)
    means -= centre
    means[~seen] = ridge(dataset.attributes[fold.classes].astype(np.float64), seen) @ means[seen]
    covariance = within_class_covariance(rows - centre.astype(np.float32), (np.cumsum(seen) - 1)[labels])
    weight, bias = LdaHead(shrunk_cholesky(covariance, SHRINKAGE)).rows(means)
    z = scaler.apply(dataset.features[held]) - centre.astype(np.float32)
    return FoldScores(
        logits=logits(z, weight, bias), labels=np.searchsorted(fold.classes, dataset.labels[held]), seen=seen
    )


def ridge(attributes_CA: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much of each seen class's centred mean ridge regression gives a class without rows, [C - S, S]."""
    centred = attributes_CA - attributes_CA[seen].mean(axis=0)
    gram = centred[seen] @ centred[seen].T
    gram[np.diag_indices(len(gram))] += RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    weights: NDArray[np.float64] = np.linalg.solve(gram, centred[seen] @ centred[~seen].T).T
    return weights


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen on validation, or on the test rows under `test-best`.

    Attributes:
        epochs: training length.
        head: shrinkage and scale of the served head.
        calibration: of its scores: seen penalty and temperature.
        student: calibration of the student's own classifier C_s.
        photos: what example photos change; None where no fold could tell.
        novelty: the score by which novelty is measured; None where no score tells unseen classes apart.
        scaling: of the features.
        validation: pseudo-H of what was chosen (`H`, `H_student`), and of every candidate, for reports.
    """

    epochs: int
    head: HeadChoice
    calibration: Calibration
    student: Calibration
    photos: PhotoPrior | None = None
    novelty: NoveltyScore | None = TEACHER
    scaling: Scaling = "range"
    validation: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As `config.json` holds it."""
        return {
            "epochs": self.epochs,
            "scaling": self.scaling,
            "head": {
                "kind": LDA,
                "shrinkage": self.head.shrinkage,
                "unseen_scale": self.head.unseen_scale,
                "photos": self.photos and self.photos.to_json(),
                **self.calibration.to_json(),
            },
            "student": self.student.to_json(),
            "novelty": self.novelty,
            "validation": self.validation,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Selection:
        """Read the JSON of :meth:`to_json`.

        Raises:
            KeyError, TypeError or ValueError: it has another form.
        """
        head, scaling = fields["head"], fields["scaling"]
        novelty = fields.get("novelty", TEACHER)  # a run from before there was a choice
        if scaling not in SCALINGS:
            raise ValueError(f"expected a scaling, {' or '.join(SCALINGS)}, got {scaling!r}")
        if head["kind"] != LDA:
            raise ValueError(f"expected the head {LDA}, got {head['kind']!r}")
        if novelty not in (None, *NOVELTY_SCORES):
            raise ValueError(f"expected a novelty score, one of {', '.join(NOVELTY_SCORES)}, or null, got {novelty!r}")
        return cls(
            epochs=int(fields["epochs"]),
            head=HeadChoice(shrinkage=float(head["shrinkage"]), unseen_scale=float(head["unseen_scale"])),
            calibration=Calibration.from_json(head),
            student=Calibration.from_json(fields["student"]),
            photos=head["photos"] and PhotoPrior.from_json(head["photos"]),
            novelty=novelty,
            scaling=scaling,
            validation=fields["validation"],
        )


UNSEEN_SCALES = (1.0, 1.25, 1.5)
"""Candidates for the scale of described classes' scores, none first."""

PROTOCOLS: Mapping[Protocol, str] = {
    "validation": "validation: pseudo-unseen classes and held-out seen rows from trainval",
    "test-best": "test-best: the best H on the test rows themselves, as papers report it",
}

Candidate = tuple[int, str]
"""Epochs and the head: `student` or `lda/<shrinkage>`."""

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


def choose(measurements: Sequence[Mapping[int, Measurement]], config: TrainConfig) -> Selection:
    """Training length and shrinkage with the best mean H for the served head; all else is taken at the same length.

    Ties go to fewer epochs. Of the shrinkages that are `NEARLY_BEST` at that length, the middle one is taken, so that
    no single row decides. Last comes the scale of described classes' scores, see :func:`choose_scale`.

    Args:
        measurements: of each fold by epoch, all of the same epochs; under `test-best` of the test rows alone.
        config: hyper-parameters.
    """
    scores: dict[Candidate, list[FoldScores]] = {
        (epoch, name): [
            FoldScores(logits=fold[epoch].logits[name], labels=fold[epoch].labels, seen=fold[epoch].seen)
            for fold in measurements
        ]
        for epoch, first in measurements[0].items()
        for name in first.logits
    }
    results = {candidate: best_penalty([curve_of(s) for s in folds]) for candidate, folds in scores.items()}
    heads = [c for c in results if c[1] != STUDENT]
    first = max(heads, key=lambda c: (results[c][1], -c[0]))
    near = [c for c in heads if c[0] == first[0] and results[c][1] >= results[first][1] - NEARLY_BEST]
    near.sort(key=lambda c: HeadChoice.named(c[1]).shrinkage)
    chosen = max(near[(len(near) - 1) // 2 : len(near) // 2 + 1], key=lambda c: results[c][1])
    epochs, student = chosen[0], (chosen[0], STUDENT)
    scale = choose_scale(scores[chosen])
    of_head = [scale_unseen(fold, scale) for fold in scores[chosen]]
    penalty, h = best_penalty([curve_of(fold) for fold in of_head])
    chosen_folds = [fold[epochs] for fold in measurements]
    novelty, aurocs = choose_novelty(
        [fold.novelty[chosen[1]] for fold in chosen_folds], [fold.seen for fold in chosen_folds]
    )
    photos = choose_photo_prior([fold_with_photos(fold[epochs], chosen[1], penalty, scale) for fold in measurements])
    return Selection(
        epochs=epochs,
        head=HeadChoice(shrinkage=HeadChoice.named(chosen[1]).shrinkage, unseen_scale=scale),
        calibration=calibrate(of_head, penalty),
        student=calibrate(scores[student], results[student][0]),
        photos=photos and photos[0],
        novelty=novelty,
        validation={
            "protocol": PROTOCOLS[config.selection.protocol],
            "folds": len(measurements),
            "seed": config.seed,
            "H": h,
            "H_student": results[student][1],
            "H_with_photos": photos and photos[1],
            "novelty": aurocs,
            "candidates": [
                {"epochs": c[0], "head": c[1], "seen_penalty": penalty, "H": h}
                for c, (penalty, h) in sorted(results.items())
            ],
        },
    )


def fold_with_photos(measured: Measurement, head: str, penalty: float, scale: float) -> PhotoFold:
    """One fold's rows, prepared to try what photos change."""
    return PhotoFold.of(
        measured.logits[head],
        measured.labels,
        measured.seen,
        measured.photos,
        head,
        penalty=penalty,
        unseen_scale=scale,
    )


def choose_scale(runs: Sequence[FoldScores]) -> float:
    """The scale of described classes' scores that gains most H over none, by more than its standard error; else none.

    Predicted means lie nearer to the mean of all classes than real ones do, so described classes' scores vary less from
    image to image than those of seen classes, whose means are measured; no penalty makes up for that. The standard
    error is over the folds, each scale with its own best penalty; of one fold nobody knows it.

    Args:
        runs: of each fold, by an `lda` head.
    """
    of_scale = [fold_scores([scale_unseen(run, scale) for run in runs]) for scale in UNSEEN_SCALES]
    return UNSEEN_SCALES[largest_significant_gain(np.stack(of_scale, axis=1), errors=1)]


def best_scores(measurement: Measurement) -> dict[str, Scores]:
    """U, S and H of one measurement, of the best `lda` head and of the `student`, each with its best penalty."""
    found: dict[str, Scores] = {}
    for name, scores in measurement.logits.items():
        curve = seen_unseen_curve(scores, measurement.labels, measurement.seen)
        penalty, h = best_penalty([curve])
        unseen, seen = curve.at(np.array([penalty]))
        kind = name.partition("/")[0]
        if kind not in found or h > found[kind]["H"]:
            found[kind] = {"U": float(unseen[0]), "S": float(seen[0]), "H": h}
    return found


def calibrate(scored: Sequence[FoldScores], penalty: float) -> Calibration:
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

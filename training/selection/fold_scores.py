"""What held-out rows score by every candidate at one length of training, and the seen penalty that is best for them.

N: held-out rows, C: classes of the training, D: scaled features.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainConfig
from training.datasets.dataset import Dataset, Task
from training.features.scaler import Scaler
from training.method.heads import HeadChoice, fit_heads
from training.method.trainer import Checkpoint, Networks
from training.metrics import SeenUnseenCurve, harmonic_means, seen_unseen_curve
from training.selection.novelty import all_familiarities, score_aurocs
from training.selection.photos import Photos, PhotoScores, draw_photos

NEARLY_BEST = 0.005
"""Penalties, and strengths of a head, within this much of the best mean H count as equally good."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldScores:
    """Scores of one fold's held-out rows by one candidate."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]


def scale_unseen(run: FoldScores, scale: float) -> FoldScores:
    """The same with the scores of described classes multiplied."""
    return run if scale == 1 else replace(run, logits=run.logits * np.where(run.seen, 1, scale).astype(np.float32))


def curve_of(scored: FoldScores) -> SeenUnseenCurve:
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
        mean_h += harmonic_means(unseen, seen) / len(curves)
    best = float(mean_h.max())
    near = np.flatnonzero(mean_h >= best - NEARLY_BEST)
    chosen = int(near[np.argmin(np.abs(middle[near] - np.median(middle[near])))])
    return float(middle[chosen]), float(mean_h[chosen])


def fold_scores(runs: Sequence[FoldScores]) -> NDArray[np.float64]:
    """H of each fold at the penalty that is best for all."""
    curves = [curve_of(run) for run in runs]
    penalty = np.array([best_penalty(curves)[0]])
    return np.array([harmonic_means(*curve.at(penalty))[0] for curve in curves])


STUDENT = "student"
_HEAD, _PRODUCTS, _BIAS, _NOVELTY = "logits/", "products/", "bias/", "novelty/"


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Scores of one training's held-out rows at one epoch.

    Attributes:
        labels: class of each row, int64 [N].
        seen: which classes have training rows, bool [C].
        logits: by head, `student` or `lda/<shrinkage>`, float32 [N, C].
        novelty: by `lda` head, AUROC of every novelty score for every unseen class, see
            :func:`training.selection.novelty.score_aurocs`, float64 [K, U].
        photos: rows of unseen classes that may serve as photos, and what each `lda` head makes of them.
    """

    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]
    logits: Mapping[str, NDArray[np.float32]]
    novelty: Mapping[str, NDArray[np.float64]]
    photos: Photos

    def to_bytes(self) -> bytes:
        """The content of an .npz file."""
        content = io.BytesIO()
        np.savez(
            content,
            allow_pickle=False,
            labels=self.labels,
            seen=self.seen,
            photos=self.photos.rows,
            **{_HEAD + name: values for name, values in self.logits.items()},
            **{_NOVELTY + name: values for name, values in self.novelty.items()},
            **{_PRODUCTS + name: scores.products for name, scores in self.photos.scores.items()},
            **{_BIAS + name: scores.bias for name, scores in self.photos.scores.items()},
        )
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Measurement:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            KeyError: an array is missing.
            ValueError, EOFError, zipfile.BadZipFile: the content is no such file.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(
                labels=arrays["labels"],
                seen=arrays["seen"],
                novelty={
                    name: arrays[_NOVELTY + name]
                    for name in (n.removeprefix(_HEAD) for n in arrays.files if n.startswith(_HEAD))
                    if name != STUDENT
                },
                logits={n.removeprefix(_HEAD): arrays[n] for n in arrays.files if n.startswith(_HEAD)},
                photos=Photos(
                    rows=arrays["photos"],
                    scores={
                        name: PhotoScores(products=arrays[_PRODUCTS + name], bias=arrays[_BIAS + name])
                        for name in (n.removeprefix(_BIAS) for n in arrays.files if n.startswith(_BIAS))
                    },
                ),
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Rows that a training has not seen, on its device.

    Attributes:
        features: scaled, float32 [N, D].
        labels: positions among the classes of the training, int64 [N].
        names: ids of the classes.
    """

    features: torch.Tensor
    labels: NDArray[np.int64]
    names: list[str]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        rows: NDArray[np.int64],
        classes: NDArray[np.int64],
        scaler: Scaler,
        device: torch.device,
    ) -> HeldOut:
        """Some rows of a data set, for a training of some of its classes."""
        return cls(
            features=torch.from_numpy(scaler.apply(dataset.features[rows])).to(device),
            labels=np.searchsorted(classes, dataset.labels[rows]),
            names=[dataset.classes[index].id for index in classes],
        )

    def measure(self, networks: Networks, task: Task, config: TrainConfig, *, key: str) -> Measurement:
        """Logits by the student's classifier and by every candidate for the head, whose noise is keyed by `key`."""
        with torch.no_grad():
            z, logits = networks.student(self.features)
            scores = networks.teacher.score(self.features).cpu().numpy()
        rows, seen = z.cpu().numpy(), task.seen.cpu().numpy()
        choices = [HeadChoice(shrinkage=shrinkage) for shrinkage in config.selection.shrinkage]
        heads = fit_heads(networks, task, self.names, choices, samples=config.selection.samples, key=key)
        of_heads = {choice.name: head.logits(rows) for choice, head in zip(choices, heads, strict=True)}
        photos = draw_photos(self.labels, seen, config.seed)
        of_photos = {
            choice.name: PhotoScores(products=head.products(rows, rows[photos]), bias=head.bias)
            for choice, head in zip(choices, heads, strict=True)
        }
        return Measurement(
            labels=self.labels,
            seen=seen,
            logits={STUDENT: logits.cpu().numpy(), **of_heads},
            novelty={
                choice.name: score_aurocs(all_familiarities(head, seen, rows, scores), self.labels, seen)
                for choice, head in zip(choices, heads, strict=True)
            },
            photos=Photos(rows=photos, scores=of_photos),
        )


class Stage(Checkpoint):
    """One training of a selection: where its state and what it measured are kept; this one keeps nothing."""

    @property
    def finished(self) -> bool:
        """Whether an earlier part of the run has trained it to its end."""
        return False

    def measured(self) -> dict[int, Measurement]:
        """What an earlier part of the run measured, by epoch."""
        return {}

    def keep(self, epoch: int, measurement: Measurement) -> None:
        """Keep what was measured after an epoch."""

    def finish(self) -> None:
        """Note that the training is over."""

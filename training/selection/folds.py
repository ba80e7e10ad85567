"""Folds of the seen classes for a selection without test data.

In each fold one group of seen classes is pseudo-unseen: described by attributes only, as unseen classes are. A share of
the other classes' rows is held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError
from training.config import SelectionConfig
from training.datasets.dataset import Dataset

MIN_SEEN_CLASSES = 4  # two folds of two


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """Rows and classes of one fold, as indices into the data set.

    Attributes:
        train: rows to train on.
        held: rows held out, of pseudo-unseen and of the other classes.
        classes: all of the fold, ascending.
        pseudo_unseen: those among them without training rows.
    """

    train: NDArray[np.int64]
    held: NDArray[np.int64]
    classes: NDArray[np.int64]
    pseudo_unseen: NDArray[np.int64]


def fold_count(config: SelectionConfig) -> int:
    """How many folds are trained."""
    return config.repeats * (config.used_folds or config.folds)


def used_folds(dataset: Dataset, config: SelectionConfig, seed: int) -> Iterator[Fold]:
    """The folds that are trained: the first `used_folds` of every repeat.

    Raises:
        DataError: as :func:`folds`.
    """
    for repeat in range(config.repeats):
        yield from islice(folds(dataset, config, seed, repeat=repeat), config.used_folds or config.folds)


def folds(dataset: Dataset, config: SelectionConfig, seed: int, *, repeat: int = 0) -> Iterator[Fold]:
    """Split the seen classes into folds; every seen class is pseudo-unseen exactly once in a repeat.

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
    random = np.random.default_rng((seed, repeat) if repeat else seed)
    order = random.permutation(seen)
    labels = dataset.labels[dataset.trainval]
    for group in range(config.folds):
        pseudo_unseen = np.sort(order[group :: config.folds])
        held = np.isin(labels, pseudo_unseen)
        for index in np.setdiff1d(seen, pseudo_unseen):
            rows = random.permutation(np.flatnonzero(labels == index))
            count = round(config.seen_fraction * len(rows))
            held[rows[: min(max(1, count), len(rows) - 1)]] = True  # at least one row to hold out, and one to train on
        yield Fold(
            train=dataset.trainval[~held],
            held=dataset.trainval[held],
            classes=np.sort(order),
            pseudo_unseen=pseudo_unseen,
        )

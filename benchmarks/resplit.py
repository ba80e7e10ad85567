"""Other classes unseen than in a set's own split: the draw, and a benchmark folder with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

TEST_SHARE = 0.2
SPLITS = "att_splits.mat"


def draw(
    labels_N: NDArray[np.int64], classes: int, unseen: int, seed: int, *, rows: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which classes are unseen, and which rows are for testing.

    Args:
        labels_N: class of each row, 0..classes-1.
        classes: how many there are.
        unseen: how many of them are to be unseen; all their rows are for testing.
        seed: of the draw.
        rows: of every other class that are left for training; by default all but a fifth.
    """
    random = np.random.default_rng(seed)
    hidden = random.permutation(classes)[:unseen]
    test = np.isin(labels_N, hidden)
    for index in np.setdiff1d(np.arange(classes), hidden):
        of_class = random.permutation(np.flatnonzero(labels_N == index))
        test[of_class[: len(of_class) - rows if rows else round(TEST_SHARE * len(of_class))]] = True
    return hidden, test


def write_resplit(folder: Path, out: Path, seed: int) -> None:
    """The benchmark of a folder with as many unseen classes as it has, but others; features are linked."""
    labels = loadmat(folder / "res101.mat", variable_names=["labels"])["labels"].ravel().astype(np.int64) - 1
    split = loadmat(folder / SPLITS)
    unseen = len(np.unique(labels[split["test_unseen_loc"].ravel() - 1]))
    hidden, test = draw(labels, split["att"].shape[1], unseen, seed)
    of_unseen = np.isin(labels, hidden)
    lists = {
        "trainval_loc": ~test,
        "test_seen_loc": test & ~of_unseen,
        "test_unseen_loc": of_unseen,
    }
    out.mkdir(parents=True)
    savemat(
        out / SPLITS,
        {
            **{key: split[key] for key in ("att", "allclasses_names") if key in split},
            **{key: np.flatnonzero(mask)[:, None] + 1 for key, mask in lists.items()},
        },
    )
    (out / "res101.mat").symlink_to((folder / "res101.mat").resolve())

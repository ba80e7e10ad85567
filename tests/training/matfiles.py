"""Benchmark folders written for tests.

N: rows, D: features, C: classes, A: attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

SEEN, UNSEEN = (0, 2, 3), (1, 4)
PER_CLASS = 8  # rows of each class; of a seen one the last two are test rows
NAMES = ("grizzly+bear", "Blue Whale", "001.Black_Albatross", "cat", "Żubr")


def cells(texts: tuple[str, ...]) -> NDArray[np.object_]:
    """A C x 1 cell array, as MATLAB writes names."""
    array = np.empty((len(texts), 1), dtype=object)
    array[:, 0] = texts
    return array


def contents(*, dim: int = 3, attributes: int = 4, classes: int = 5) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of `res101.mat` and of `att_splits.mat`: classes of eight rows each, mixed."""
    random = np.random.default_rng(0)
    labels = np.tile(np.arange(classes), PER_CLASS)
    turn = np.repeat(np.arange(PER_CLASS), classes)
    unseen = np.isin(labels, UNSEEN)
    test_seen = ~unseen & (turn >= PER_CLASS - 2)
    trainval = ~unseen & ~test_seen

    def list_of(mask: NDArray[np.bool_]) -> NDArray[np.uint16]:
        return (random.permutation(np.flatnonzero(mask)) + 1).astype(np.uint16)[:, None]

    features = {
        "features": random.uniform(0, 5, (dim, len(labels))),
        "labels": (labels + 1).astype(np.uint16)[:, None],
        "image_files": cells(tuple(f"{i}.jpg" for i in range(len(labels)))),
    }
    att = random.uniform(0, 1, (attributes, classes))
    splits = {
        "att": att / np.linalg.norm(att, axis=0),
        "allclasses_names": cells((*NAMES, *(f"more {i}" for i in range(classes - len(NAMES))))),
        "trainval_loc": list_of(trainval),
        "test_seen_loc": list_of(test_seen),
        "test_unseen_loc": list_of(unseen),
    }
    return features, splits


def write(
    folder: Path, features: Mapping[str, Any], splits: Mapping[str, Any], *, file: str = "att_splits.mat"
) -> Path:
    """A benchmark folder with these variables."""
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "res101.mat", dict(features), do_compression=True)
    scipy.io.savemat(folder / file, dict(splits), do_compression=True)
    return folder

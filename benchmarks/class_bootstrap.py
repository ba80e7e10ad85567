"""How much of a difference of H is due to which classes happen to be test classes: a bootstrap over classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import harmonic_means

DRAWS = 2000
Pairs = Sequence[tuple[dict[str, Any], dict[str, Any]]]


def difference_of_h(pairs: Pairs) -> tuple[float, float]:
    """Mean H of the first rows less that of the second, and its standard error over test classes.

    Unseen and seen classes are each drawn anew with replacement (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993), the same ones for all rows.

    Args:
        pairs: rows to compare, of the same test rows, each with `per_class`, the accuracy of every class with test rows
            by its id, and `unseen_classes`, ids.
    """
    first = pairs[0][0]
    unseen = [name for name in first["per_class"] if name in set(first["unseen_classes"])]
    seen = [name for name in first["per_class"] if name not in set(unseen)]
    random = np.random.default_rng(0)
    draws_BU, draws_BS = (random.integers(len(names), size=(DRAWS, len(names))) for names in (unseen, seen))

    def h(row: dict[str, Any], of_unseen: NDArray[np.int64], of_seen: NDArray[np.int64]) -> NDArray[np.float64]:
        u, s = (
            np.array([row["per_class"][name] for name in names])[chosen].mean(axis=-1)
            for names, chosen in ((unseen, of_unseen), (seen, of_seen))
        )
        return harmonic_means(u, s)

    def difference(of_unseen: NDArray[np.int64], of_seen: NDArray[np.int64]) -> NDArray[np.float64]:
        of_pairs = [h(a, of_unseen, of_seen) - h(b, of_unseen, of_seen) for a, b in pairs]
        mean: NDArray[np.float64] = np.mean(of_pairs, axis=0)
        return mean

    everything = (np.arange(len(unseen)), np.arange(len(seen)))
    return float(difference(*everything)), float(difference(draws_BU, draws_BS).std(ddof=1))

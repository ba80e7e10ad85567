"""The `softmax` head: class-balanced softmax regression on a bank of embeddings, solved anew for every class table.

N: rows of the bank, Z: embedding dimension, C: classes, R: rows of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import DataError, Problem
from model.head import MAX_BANK_BYTES, MAX_BANK_ROWS, Float16, Float32, HeadKind, Row, check_class_count
from model.newton import Float64, SoftmaxRegression, minimise

TOLERANCE = 1e-4
"""Distance to the exact weights, as a share of their length, at which a solution stops."""

_ROUNDING = 2.0**-24  # of float32
_BANK_OVERHEAD = 100_000  # bytes of `bank.npz` beside its rows
_MEAN_RIDGE = 1e-3  # of the mean squared length of the class means


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """The exact rows of a class table: weight float32 [C, Z] and bias float32 [C]."""

    weight: Float32
    bias: Float32


class SoftmaxHead:
    """Rows that minimise the class-balanced mean cross-entropy + penalty / 2 * ||[W, b]||^2 over the rows of a bank.

    The bias is penalised too, so the optimum is unique. A solution stops where ||gradient|| <= tolerance * penalty *
    ||[W, b]||. As the objective is strongly convex with modulus `penalty`, its distance to the optimum is then at most
    tolerance * ||[W, b]|| (Boyd and Vandenberghe, Convex Optimization, 9.1.2).

    Args:
        rows_NZ: the bank, one class after the other.
        counts_C: rows of each class, above 0.
        weight_CZ: weights that solve the bank.
        bias_C: biases that solve the bank.
        penalty: above 0.
        tolerance: above 0.

    Raises:
        TooManyClassesError: more classes than this head is solved for.
    """

    kind: HeadKind = "softmax"
    independent = False

    def __init__(
        self,
        rows_NZ: Float16,
        counts_C: NDArray[np.int64],
        weight_CZ: Float32,
        bias_C: Float32,
        *,
        penalty: float,
        tolerance: float = TOLERANCE,
    ) -> None:
        check_class_count(self.kind, len(counts_C))
        if counts_C.sum() != len(rows_NZ) or (counts_C < 1).any():
            raise ValueError(f"expected {len(rows_NZ)} rows in classes of one or more, got counts {counts_C}")
        if weight_CZ.shape != (len(counts_C), rows_NZ.shape[1]) or bias_C.shape != (len(counts_C),):
            raise ValueError(f"expected rows of {len(counts_C)} classes, got {weight_CZ.shape} and {bias_C.shape}")
        self.weight, self.bias, self.penalty, self.tolerance = weight_CZ, bias_C, penalty, tolerance
        self._rows, self._counts = rows_NZ, counts_C
        self._starts = np.concatenate([[0], np.cumsum(counts_C)])

    @property
    def dimension(self) -> int:
        """Z."""
        return int(self._rows.shape[1])

    @classmethod
    def fit(
        cls,
        z_NZ: ArrayLike,
        labels_N: ArrayLike,
        *,
        penalty: float,
        tolerance: float = TOLERANCE,
        start: SoftmaxHead | None = None,
    ) -> SoftmaxHead:
        """Fill the bank and solve it.

        Args:
            z_NZ: centred embeddings, real ones of seen classes and synthesised ones of unseen classes.
            labels_N: class index of each row, 0..C-1, every class at least once.
            penalty: above 0; the useful order of magnitude is 1e-5 to 1e-3 of the mean squared length of a row.
            tolerance: above 0.
            start: a head of the same classes with another penalty, to start from; else from zeros.

        Raises:
            DataError: an embedding does not fit float16.
            TooManyClassesError: more classes than this head is solved for.
            ConvergenceError: the penalty is too small for the numbers.
        """
        labels = np.asarray(labels_N, dtype=np.int64)
        z, classes = np.asarray(z_NZ), int(labels.max()) + 1
        check_class_count(cls.kind, classes)
        chosen = bank_choice(labels, rows_per_class(classes, z.shape[1]))
        rows, counts = bank_rows(z[chosen]), np.bincount(labels[chosen])
        shape = (len(counts), z.shape[1] + 1)
        begin = np.zeros(shape) if start is None else _augmented(start.weight, start.bias)
        if begin.shape != shape:
            raise ValueError(f"expected to start from weights of shape {shape}, got {begin.shape}")
        found = minimise(SoftmaxRegression(rows, counts, penalty), begin, tolerance=tolerance)
        return cls(rows, counts, *_split(found.weight), penalty=penalty, tolerance=tolerance)

    @classmethod
    def from_bank(
        cls,
        bank: Mapping[str, NDArray[Any]],
        weight_CZ: Float32,
        bias_C: Float32,
        *,
        penalty: float,
        tolerance: float,
    ) -> SoftmaxHead:
        """Rebuild from the arrays of `bank.npz` and `head.npz`."""
        return cls(bank["rows"], bank["counts"], weight_CZ, bias_C, penalty=penalty, tolerance=tolerance)

    def bank(self) -> dict[str, NDArray[Any]]:
        """The arrays of `bank.npz`: rows float16 [N, Z] and counts int64 [C]."""
        return {"rows": self._rows, "counts": self._counts}

    def verify(self) -> None:
        """Check that the head's own rows solve the bank, as far as float32 lets rows do so.

        Raises:
            ValueError: they do not; says how far off they are.
        """
        problem = SoftmaxRegression(self._rows, self._counts, self.penalty)
        found = problem.at(_augmented(self.weight, self.bias)).relative
        allowed = self.tolerance + _ROUNDING * problem.curvature / self.penalty
        if not found <= allowed:
            raise ValueError(f"expected rows that solve the bank to a relative gradient of {allowed:g}, got {found:g}")

    def row(self, embeddings: ArrayLike) -> Row:
        """A provisional row of a class from its embeddings [R, Z]; only their mean counts."""
        weights, biases = self.rows(np.asarray(embeddings).mean(axis=0, dtype=np.float64)[None])
        return Row(weights[0], float(biases[0]))

    def rows(self, means_CZ: ArrayLike) -> tuple[Float32, Float32]:
        """Provisional rows of many classes from their mean embeddings: weights float32 [C, Z], biases float32 [C].

        Kernel ridge regression from class means to rows over the bundle's classes, around the multiple of the mean
        that fits them best: a class like another gets a row like the other's, what is new in it counts as it does
        elsewhere. They depend on the bundle and on the class alone.
        """
        provisional = self._provisional(np.asarray(means_CZ, dtype=np.float64))
        return _split(provisional)

    def refit(
        self,
        kept: Sequence[int],
        added: Mapping[str, Float16],
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> Solution:
        """The exact rows of some of the bundle's classes and some registered ones.

        The solution starts from the bundle's rows and the provisional ones, and takes registered classes in the order
        of their ids: it depends on the class table and not on how that came about, to the last bit. The bundle's own
        classes, and no others, have the bundle's own rows.

        Args:
            kept: indices of the bundle's classes that take part, ascending.
            added: rows of every registered class, float16 [R, Z], by its id.
            stop: asked now and then; true gives up.

        Returns:
            First the kept classes, then the added ones in the order of their ids.

        Raises:
            TooManyClassesError: more classes than this head is solved for.
            ConvergenceError: the tolerance is not reached.
            StoppedError: `stop` said so.
        """
        check_class_count(self.kind, len(kept) + len(added))
        if list(kept) == list(range(len(self._counts))) and not added:
            return Solution(weight=self.weight, bias=self.bias)
        registered = [added[class_id] for class_id in sorted(added)]
        rows = np.concatenate([*(self._of_class(c) for c in kept), *registered])
        counts = np.array([*self._counts[list(kept)], *map(len, registered)], dtype=np.int64)
        start = _augmented(self.weight[list(kept)], self.bias[list(kept)])
        if registered:
            means = np.stack([z.mean(axis=0, dtype=np.float64) for z in registered])
            start = np.concatenate([start, self._provisional(means)])
        problem = SoftmaxRegression(rows, counts, self.penalty)
        weight, bias = _split(minimise(problem, start, tolerance=self.tolerance, stop=stop).weight)
        return Solution(weight=weight, bias=bias)

    def _of_class(self, index: int) -> Float16:
        return self._rows[self._starts[index] : self._starts[index + 1]]

    def _provisional(self, means_CZ: Float64) -> Float64:
        scale, known, coefficients = self._from_means
        means = _augmented(means_CZ, np.ones(len(means_CZ)))
        provisional: Float64 = scale * means + (means @ known.T) @ coefficients
        return provisional

    @cached_property
    def _from_means(self) -> tuple[float, Float64, Float64]:
        """Scale, class means with a constant 1 and coefficients [C, Z + 1] of the provisional rows."""
        means = np.stack([self._of_class(c).mean(axis=0, dtype=np.float64) for c in range(len(self._counts))])
        known, rows = _augmented(means, np.ones(len(means))), _augmented(self.weight, self.bias)
        scale = float(np.vdot(known, rows) / np.vdot(known, known))
        gram = known @ known.T
        gram[np.diag_indices(len(gram))] += _MEAN_RIDGE * np.trace(gram) / len(gram)
        coefficients: Float64 = np.linalg.solve(gram, rows - scale * known).astype(np.float64)
        return scale, known, coefficients


def rows_per_class(classes: int, dimension: int) -> int:
    """Most rows of each class in a bank that stays within its size.

    Raises:
        DataError: not even one fits.
    """
    most = min(MAX_BANK_ROWS, (MAX_BANK_BYTES - _BANK_OVERHEAD) // (2 * classes * dimension))
    if most < 1:
        raise DataError(
            f"the bank of the softmax head cannot hold {classes} classes: expected at most "
            f"{(MAX_BANK_BYTES - _BANK_OVERHEAD) // (2 * dimension)} with embeddings of {dimension} numbers"
        )
    return most


def bank_choice(labels_N: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Indices of the rows that enter the bank: each class in turn, at most `most` of its rows, evenly spread.

    Raises:
        ValueError: a class has no row.
    """
    counts = np.bincount(labels_N)
    if (counts < 1).any():
        raise ValueError(f"class {int(np.argmin(counts))} has no rows")
    order = np.argsort(labels_N, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    count = counts[labels_N[order]]
    kept = np.minimum(count, most)
    # Of `count` rows, those at which the running share of `kept` reaches the next whole number.
    return order[(place + 1) * kept // count > place * kept // count]


def bank_rows(embeddings_NZ: ArrayLike) -> Float16:
    """Embeddings as bank and registry hold them, float16 [N, Z].

    Raises:
        DataError: one does not fit float16.
    """
    with np.errstate(over="ignore"):
        rows = np.asarray(embeddings_NZ).astype(np.float16)
    if not np.isfinite(rows).all():
        largest = np.finfo(np.float16).max
        raise DataError(
            "the embeddings do not fit the bank of the softmax head",
            [Problem(pointer="", detail=f"expected finite numbers up to {largest:g}, got larger ones")],
        )
    return rows


def _augmented(weight_CZ: NDArray[Any], bias_C: NDArray[Any]) -> Float64:
    return np.concatenate([weight_CZ, bias_C[:, None]], axis=1).astype(np.float64)


def _split(weight_CD: Float64) -> tuple[Float32, Float32]:
    return np.ascontiguousarray(weight_CD[:, :-1], dtype=np.float32), weight_CD[:, -1].astype(np.float32)

"""Class-balanced softmax regression, solved to its one optimum by Newton's method with conjugate gradients.

    f(W) = 1/C sum_c 1/n_c sum_{i in c} -log softmax(W x_i)_c + (penalty / 2) ||W||^2

N: rows, C: classes, D: the embedding's dimension and one more for the constant 1 that carries the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import ConvergenceError, StoppedError
from model.head import Float32

Float64 = NDArray[np.float64]
Preconditioner = Callable[[Float32], Float32]

_CHUNK = 1024  # rows that are held in float64 at a time
_MAX_STEPS = 50
_MAX_PRODUCTS = 400  # of one Newton step
_FORCING = 0.1  # a Newton step is solved to a tenth of its residual, near the end as far as the tolerance asks
_ROUNDING = 1e-12  # of the value, by which it may seem to rise
_LEAST_SCORE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """The objective at W.

    Attributes:
        weight: W, float64 [C, D].
        value: f(W).
        gradient: float64 [C, D].
        probability: softmax of every row, float32 [N, C].
        relative: ||gradient|| / (penalty ||W||). f is strongly convex with modulus `penalty`, so the optimum W* has
            ||W - W*|| <= relative * ||W||. Where W is so small that it gives no row a score of 1e-6, ||W|| is here
            the least one that does.
    """

    weight: Float64
    value: float
    gradient: Float64
    probability: Float32
    relative: float


class SoftmaxRegression:
    """The objective: values and gradients in float64, products with its Hessian in float32.

    Args:
        rows_NZ: embeddings, one class after the other, of any float type.
        counts_C: rows of each class, all above 0.
        penalty: above 0; the bias is penalised like every other weight.
    """

    def __init__(self, rows_NZ: ArrayLike, counts_C: ArrayLike, penalty: float) -> None:
        rows, counts = np.asarray(rows_NZ), np.asarray(counts_C, dtype=np.int64)
        if counts.sum() != len(rows) or (counts < 1).any() or not penalty > 0:
            raise ValueError(f"expected {len(rows)} rows in classes of one or more and a penalty above 0")
        self.penalty = penalty
        self.shape = (len(counts), rows.shape[1] + 1)
        self._rows = np.ones((len(rows), self.shape[1]), dtype=np.float32)
        self._rows[:, :-1] = rows
        self._labels = np.repeat(np.arange(len(counts)), counts)
        self._share = 1 / (len(counts) * counts[self._labels].astype(np.float64))
        self._size = float(np.sqrt(np.mean(np.square(self._rows), dtype=np.float64) * self.shape[1]))

    @property
    def curvature(self) -> float:
        """What no eigenvalue of the Hessian exceeds anywhere."""
        return 0.5 * self._size**2 + self.penalty

    def at(self, weight_CD: ArrayLike) -> Point:
        """Value, gradient and probabilities at a W."""
        weight = np.array(weight_CD, dtype=np.float64)
        gradient, value = self.penalty * weight, 0.5 * self.penalty * float(np.vdot(weight, weight))
        probability = np.empty((len(self._rows), self.shape[0]), dtype=np.float32)
        for start in range(0, len(self._rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows, labels, share = self._rows[part].astype(np.float64), self._labels[part], self._share[part]
            scores = rows @ weight.T
            scores -= scores.max(axis=1, keepdims=True)
            own = scores[np.arange(len(rows)), labels]
            np.exp(scores, out=scores)
            total = scores.sum(axis=1)
            value += float(share @ (np.log(total) - own))
            scores /= total[:, None]
            probability[part] = scores
            scores[np.arange(len(rows)), labels] -= 1
            gradient += (share[:, None] * scores).T @ rows
        length = max(float(np.linalg.norm(weight)), _LEAST_SCORE / self._size)  # where W* is 0, some length must do
        return Point(
            weight=weight,
            value=value,
            gradient=gradient,
            probability=probability,
            relative=float(np.linalg.norm(gradient)) / (self.penalty * length),
        )

    def hessian_product(self, point: Point, direction_CD: Float32) -> Float32:
        """The Hessian at a point times a direction, float32 [C, D]."""
        change = self._rows @ direction_CD.T
        change *= point.probability
        change -= point.probability * change.sum(axis=1, keepdims=True)
        change *= self._share.astype(np.float32)[:, None]
        product: Float32 = change.T @ self._rows
        product += np.float32(self.penalty) * direction_CD
        return product

    def preconditioner(self, point: Point) -> Preconditioner:
        """Solves with the mean of the Hessian's C diagonal blocks at a point, the same for every class."""
        from scipy.linalg import cho_factor, cho_solve  # a third of a second that a start need not wait for

        uncertainty = self._share * (1 - np.square(point.probability).sum(axis=1, dtype=np.float64)) / self.shape[0]
        root = np.sqrt(np.maximum(uncertainty, 0)).astype(np.float32)
        block = np.zeros((self.shape[1], self.shape[1]), dtype=np.float32)
        for start in range(0, len(self._rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            scaled = root[part, None] * self._rows[part]
            block += scaled.T @ scaled
        # What float32 leaves of a block without full rank may be indefinite by its rounding.
        block[np.diag_indices(len(block))] += self.penalty + 1e-6 * np.trace(block)
        factor = cho_factor(block, lower=True, overwrite_a=True, check_finite=False)

        def solve(residual_CD: Float32) -> Float32:
            solution: Float32 = cho_solve(factor, residual_CD.T, check_finite=False).T
            return solution

        return solve


def minimise(
    problem: SoftmaxRegression,
    start_CD: ArrayLike,
    *,
    tolerance: float,
    stop: Callable[[], bool] = lambda: False,
) -> Point:
    """The optimum, to ||W - W*|| <= tolerance * ||W||.

    Args:
        problem: what to solve.
        start_CD: where to begin.
        tolerance: on the relative gradient, see :class:`Point`.
        stop: asked before every product with the Hessian; true gives up.

    Raises:
        ConvergenceError: the tolerance lies below what the numbers allow.
        StoppedError: `stop` said so.
    """
    start = np.asarray(start_CD, dtype=np.float64)
    # The rows of the optimum sum to zero, as the softmax ignores what all rows share. In that direction alone the
    # curvature is as small as the penalty, so a start with no part of it saves half of the work.
    point = problem.at(start - start.mean(axis=0))
    if point.relative <= tolerance:
        return point
    precondition = problem.preconditioner(point)
    for _ in range(_MAX_STEPS):
        forcing = max(min(_FORCING, float(np.sqrt(point.relative))), 0.3 * tolerance / point.relative)
        point = _search(problem, point, _newton_step(problem, point, precondition, forcing, stop))
        if point.relative <= tolerance:
            return point
    raise ConvergenceError(
        f"the softmax head does not reach a relative gradient of {tolerance:g}: expected it within {_MAX_STEPS} steps, "
        f"got {point.relative:g}; use a larger penalty"
    )


def _newton_step(
    problem: SoftmaxRegression,
    point: Point,
    precondition: Preconditioner,
    forcing: float,
    stop: Callable[[], bool],
) -> Float64:
    """Solve Hessian * step = -gradient by preconditioned conjugate gradients, until the residual is `forcing` of it."""
    size = float(np.linalg.norm(point.gradient))
    residual = (-point.gradient / size).astype(np.float32)  # of length 1, so that no product leaves float32
    step = np.zeros_like(residual)
    towards = precondition(residual)
    direction, fit = towards.copy(), _dot(residual, towards)
    for _ in range(_MAX_PRODUCTS):
        if stop():
            raise StoppedError("the solution of the softmax head was given up")
        product = problem.hessian_product(point, direction)
        if not (curvature := _dot(direction, product)) > 0:  # lost in rounding: what there is must do
            break
        length = np.float32(fit / curvature)
        step += length * direction
        residual -= length * product
        if np.sqrt(_dot(residual, residual)) <= forcing:
            break
        towards = precondition(residual)
        fit, before = _dot(residual, towards), fit
        direction *= np.float32(fit / before)
        direction += towards
    return size * step.astype(np.float64)


def _search(problem: SoftmaxRegression, point: Point, step_CD: Float64) -> Point:
    """Halve the step until the value falls as far as its slope promises (Armijo)."""
    slope = float(np.vdot(point.gradient, step_CD))
    rounding = _ROUNDING * max(1.0, abs(point.value))
    for halvings in range(40):
        reach = 0.5**halvings
        found = problem.at(point.weight + reach * step_CD)
        if found.value <= point.value + 1e-4 * reach * slope + rounding:
            return found
    raise ConvergenceError(
        f"the softmax head stands still at a relative gradient of {point.relative:g}; use a larger penalty"
    )


def _dot(a: Float32, b: Float32) -> float:
    return float(np.einsum("cd,cd->", a, b, dtype=np.float64))

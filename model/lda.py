"""The `lda` head: class means, one shrunk within-class covariance frozen in the bundle, uniform priors.

N: rows, Z: embedding dimension, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.head import Float32, Row


class LdaHead:
    """Linear discriminant rows: w = S^-1 mu, b = -mu . w / 2, with S the shrunk within-class covariance.

    Equal to the Gaussian classifier with shared covariance and uniform priors (Hastie et al., The Elements of
    Statistical Learning, 4.3). Rows are independent: a class's row depends on its own embeddings and S only. With S / t
    in place of S a row's scores are multiplied by t.
    """

    def __init__(self, cholesky_ZZ: ArrayLike) -> None:
        """Take the lower Cholesky factor of S, [Z, Z]; solves run in float64."""
        self._factor: NDArray[np.float64] = np.asfortranarray(cholesky_ZZ, dtype=np.float64)
        if self._factor.ndim != 2 or self._factor.shape[0] != self._factor.shape[1]:
            raise ValueError(f"the covariance factor must be square, got shape {self._factor.shape}")

    @property
    def dimension(self) -> int:
        """Z."""
        return int(self._factor.shape[0])

    @classmethod
    def fit(cls, z_NZ: ArrayLike, labels_N: ArrayLike, *, shrinkage: float) -> LdaHead:
        """Freeze the covariance of real seen embeddings.

        S = (1 - a) S_w + a tr(S_w)/Z I, with S_w as in :func:`within_class_covariance`.

        Args:
            z_NZ: centred embeddings of real seen rows.
            labels_N: class index of each row, 0..C-1.
            shrinkage: a, above 0 where rows are fewer than Z.

        Raises:
            ValueError: the shrunk covariance is not positive definite.
        """
        return cls(shrunk_cholesky(within_class_covariance(z_NZ, labels_N), shrinkage))

    def scaled(self, scale: float) -> LdaHead:
        """A head whose scores are `scale` times these, above 0."""
        return self if scale == 1 else LdaHead((self._factor / scale**0.5).astype(np.float32))

    @classmethod
    def from_bank(cls, bank: Mapping[str, NDArray[Any]]) -> LdaHead:
        """Rebuild from the arrays of `bank.npz`."""
        return cls(bank["covariance_cholesky"])

    def bank(self) -> dict[str, NDArray[Any]]:
        """The arrays of `bank.npz`: the covariance factor, float32 [Z, Z]."""
        return {"covariance_cholesky": self._factor.astype(np.float32)}

    def row(self, embeddings: Float32) -> Row:
        """The row of a class from its embeddings, float32 [N, Z]; only their mean counts."""
        weights, biases = self.rows(embeddings.mean(axis=0, dtype=np.float64)[None])
        return Row(weights[0], float(biases[0]))

    def rows(self, means_CZ: ArrayLike) -> tuple[Float32, Float32]:
        """Rows of many classes from their mean embeddings: weights float32 [C, Z], biases float32 [C]."""
        from scipy.linalg import cho_solve  # a third of a second that a start need not wait for

        means = np.asarray(means_CZ, dtype=np.float64)
        weights = cho_solve((self._factor, True), means.T, check_finite=False).T
        biases = -0.5 * np.einsum("cz,cz->c", weights, means)
        return np.ascontiguousarray(weights, dtype=np.float32), biases.astype(np.float32)

    def row_of(self, mean_Z: ArrayLike) -> Row:
        """The row of one class from its mean embedding, with the two triangular systems solved as vectors.

        That takes a third of the time of :meth:`rows` for one class, whose numbers it gives up to rounding: the bits
        may differ.
        """
        from scipy.linalg.blas import dtrsv

        mean = np.asarray(mean_Z, dtype=np.float64)
        weight = dtrsv(self._factor, dtrsv(self._factor, mean, lower=1), lower=1, trans=1)
        return Row(weight.astype(np.float32), float(np.float32(-0.5 * (weight @ mean))))

    def squares(self, z_NZ: ArrayLike) -> NDArray[np.float64]:
        """z^T S^-1 z of each embedding, float64 [N]."""
        from scipy.linalg import solve_triangular

        whitened = solve_triangular(self._factor, np.asarray(z_NZ, dtype=np.float64).T, lower=True, check_finite=False)
        squares: NDArray[np.float64] = np.einsum("zn,zn->n", whitened, whitened)
        return squares


def within_class_covariance(z_NZ: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float64]:
    """Covariance of rows around their class's mean in which every class weighs the same, float64 [Z, Z]."""
    z = np.asarray(z_NZ, dtype=np.float64)
    means, counts = class_means(z, labels_N)
    labels = np.asarray(labels_N)
    residual = (z - means[labels]) / np.sqrt(counts[labels] * np.count_nonzero(counts))[:, None]
    covariance: NDArray[np.float64] = residual.T @ residual
    return covariance


def shrunk_cholesky(covariance_ZZ: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Lower Cholesky factor of (1 - a) S + a tr(S)/Z I, rounded to float32 as the bundle stores it."""
    from scipy.linalg import cho_factor

    dimension = len(covariance_ZZ)
    target = np.trace(covariance_ZZ) / dimension
    shrunk = (1 - shrinkage) * covariance_ZZ
    shrunk[np.diag_indices(dimension)] += shrinkage * target
    try:
        factor, _ = cho_factor(shrunk, lower=True)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"the within-class covariance is singular at shrinkage {shrinkage}: use more shrinkage or more images"
        ) from None
    return np.tril(factor).astype(np.float32).astype(np.float64)


def class_means(z_NZ: NDArray[np.float64], labels_N: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean row and row count of each class 0..max(labels): float64 [C, Z] and int64 [C]; empty classes give zeros."""
    labels = np.asarray(labels_N, dtype=np.int64)
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), z_NZ.shape[1]))
    np.add.at(sums, labels, z_NZ)
    return sums / np.maximum(counts, 1)[:, None], counts

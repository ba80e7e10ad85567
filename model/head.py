"""The linear head: logits are z W^T + b, and adding a class means computing its row as a full refit would.

N: rows, Z: embedding dimension, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Which head a bundle uses and what a new row is made from.

    Attributes:
        kind: form of the head.
        dimension: Z.
        samples: synthesised embeddings per unseen class, 1 to 200.
        noise_dimension: K of the generator.
        shrinkage: share of the scaled identity in the within-class covariance, 0..1 (`lda`).
    """

    kind: Literal["lda"]
    dimension: int
    samples: int
    noise_dimension: int
    shrinkage: float

    def __post_init__(self) -> None:
        if self.kind != "lda":
            raise ValueError(f"head kind must be lda, got {self.kind!r}")
        if not 1 <= self.samples <= 200 or self.dimension < 1 or self.noise_dimension < 1:
            raise ValueError(f"head needs 1..200 samples and positive dimensions, got {self}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"head shrinkage must lie in 0..1, got {self.shrinkage}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "samples": self.samples,
            "noise_dimension": self.noise_dimension,
            "shrinkage": float(self.shrinkage),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> HeadSpec:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        return cls(
            kind=fields["kind"],
            dimension=int(fields["dimension"]),
            samples=int(fields["samples"]),
            noise_dimension=int(fields["noise_dimension"]),
            shrinkage=float(fields["shrinkage"]),
        )


@dataclass(frozen=True)
class Row:
    """One class's row of the head: weight float32 [Z] and bias."""

    weight: Float32
    bias: float


class Head(Protocol):
    """What a bundle needs to grow by a class."""

    def row(self, embeddings: Float32) -> Row:
        """The row of a class from its embeddings, float32 [N, Z]."""
        ...

    def bank(self) -> dict[str, NDArray[Any]]:
        """The arrays of `bank.npz` that rebuild this head."""
        ...


def logits(z_NZ: Float32, weight_CZ: Float32, bias_C: Float32) -> Float32:
    """Scores of every class, float32 [N, C]."""
    return z_NZ @ weight_CZ.T + bias_C

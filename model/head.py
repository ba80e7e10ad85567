"""The linear head: logits are z W^T + b, and adding a class means computing its row as a full refit would.

N: rows, Z: embedding dimension, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import Problem, TooManyClassesError
from model.noise import NoiseForm, class_noise

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
HeadKind = Literal["lda", "softmax"]

MAX_BANK_BYTES = 40_000_000
MAX_BANK_ROWS = 150
"""Rows of each class in the bank of a `softmax` head."""
MAX_SOFTMAX_CLASSES = 1000
MAX_SAMPLES = {"lda": 200, "softmax": MAX_BANK_ROWS}

_NOISE_FIELDS: Mapping[NoiseForm, Mapping[str, Any]] = {
    "independent": {},
    "antithetic": {"antithetic": True},
    "matched": {"noise": "matched"},
}
"""As in manifests; the id of a bundle is a hash of them."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Which head a bundle uses and what a new row is made from.

    Attributes:
        kind: form of the head.
        dimension: Z.
        samples: synthesised embeddings per unseen class, 1 to 200 (`lda`) or 1 to 150 (`softmax`).
        noise_dimension: K of the generator.
        shrinkage: share of the scaled identity in the within-class covariance, 0..1 (`lda` only).
        penalty: on the squared length of weights and biases, above 0 (`softmax` only).
        tolerance: relative distance to the exact weights at which a solution stops, above 0 (`softmax` only).
        noise_form: see :func:`model.noise.class_noise`; bundles made before `matched` was known have others.
        unseen_scale: by which the scores of described classes are multiplied, above 0 (1 for `softmax`).
    """

    kind: HeadKind
    dimension: int
    samples: int
    noise_dimension: int
    shrinkage: float | None = None
    penalty: float | None = None
    tolerance: float | None = None
    noise_form: NoiseForm = "independent"
    unseen_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in MAX_SAMPLES:
            raise ValueError(f"head kind must be lda or softmax, got {self.kind!r}")
        most = MAX_SAMPLES[self.kind]
        if not 1 <= self.samples <= most or self.dimension < 1 or self.noise_dimension < 1:
            raise ValueError(f"{self.kind} head needs 1..{most} samples and positive dimensions, got {self}")
        if (self.shrinkage is None) != (self.kind != "lda") or not 0 <= (self.shrinkage or 0) <= 1:
            raise ValueError(f"head shrinkage must lie in 0..1 for lda and be absent otherwise, got {self}")
        if self.noise_form not in get_args(NoiseForm):
            raise ValueError(f"head noise must be one of {', '.join(get_args(NoiseForm))}, got {self.noise_form!r}")
        if not 0 < self.unseen_scale < np.inf or (self.kind != "lda" and self.unseen_scale != 1):
            raise ValueError(f"head unseen_scale must be above 0 for lda and 1 otherwise, got {self}")
        for name, number in (("penalty", self.penalty), ("tolerance", self.tolerance)):
            if (number is None) != (self.kind != "softmax") or not 0 < (1 if number is None else number) < np.inf:
                raise ValueError(f"head {name} must be above 0 for softmax and absent otherwise, got {self}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, without those that another kind of head has."""
        numbers = {"shrinkage": self.shrinkage, "penalty": self.penalty, "tolerance": self.tolerance}
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "samples": self.samples,
            "noise_dimension": self.noise_dimension,
            **{name: float(number) for name, number in numbers.items() if number is not None},
            **_NOISE_FIELDS[self.noise_form],
            **({"unseen_scale": float(self.unseen_scale)} if self.unseen_scale != 1 else {}),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> HeadSpec:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        own = {"lda": ("shrinkage",), "softmax": ("penalty", "tolerance")}.get(fields["kind"], ())
        return cls(
            kind=fields["kind"],
            dimension=int(fields["dimension"]),
            samples=int(fields["samples"]),
            noise_dimension=int(fields["noise_dimension"]),
            **{name: float(fields[name]) for name in own},
            noise_form=fields.get("noise", "antithetic" if fields.get("antithetic") else "independent"),
            unseen_scale=float(fields.get("unseen_scale", 1)),
        )

    def noise(self, bundle_id: str, class_id: str, samples: int | None = None) -> Float32:
        """The noise of a class, float32 [samples, K]; `samples` of the head where not given."""
        return class_noise(bundle_id, class_id, samples or self.samples, self.noise_dimension, form=self.noise_form)


@dataclass(frozen=True)
class Row:
    """One class's row of the head: weight float32 [Z] and bias."""

    weight: Float32
    bias: float


class Head(Protocol):
    """What a bundle needs to grow by a class.

    Attributes:
        kind: form of the head.
        independent: a class's row depends on its own embeddings only, so that :meth:`row` is exact and adding or
            removing a class changes no other row.
    """

    kind: HeadKind
    independent: bool

    @property
    def dimension(self) -> int:
        """Z."""
        ...

    def row(self, embeddings: Float32) -> Row:
        """The row of a class from its embeddings, float32 [N, Z]; provisional where rows are not independent."""
        ...

    def rows(self, means_CZ: ArrayLike) -> tuple[Float32, Float32]:
        """Such rows of many classes from their mean embeddings: weights float32 [C, Z], biases float32 [C]."""
        ...

    def bank(self) -> dict[str, NDArray[Any]]:
        """The arrays of `bank.npz` that rebuild this head."""
        ...


def check_class_count(kind: HeadKind, classes: int) -> None:
    """Refuse a class table that the head is not solved for.

    Raises:
        TooManyClassesError: there are too many.
    """
    if kind == "softmax" and classes > MAX_SOFTMAX_CLASSES:
        raise TooManyClassesError(
            f"the {kind} head takes no more classes",
            [Problem(pointer="", detail=f"expected at most {MAX_SOFTMAX_CLASSES} classes in all, got {classes}")],
        )


def logits(z_NZ: Float32, weight_CZ: Float32, bias_C: Float32) -> Float32:
    """Scores of every class, float32 [N, C]."""
    return z_NZ @ weight_CZ.T + bias_C

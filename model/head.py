"""The linear head: logits are z W^T + b, and adding a class means computing its row as a full refit would.

N: rows, Z: embedding dimension, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.noise import NoiseForm, class_noise
from model.photos import PhotoPrior

Float32 = NDArray[np.float32]
HeadKind = Literal["lda"]

MAX_BANK_BYTES = 40_000_000
MAX_SAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Which head a bundle uses and what a new row is made from.

    Attributes:
        kind: form of the head, `lda`.
        dimension: Z.
        samples: synthesised embeddings per unseen class, 1 to 200.
        noise_dimension: K of the generator.
        shrinkage: share of the scaled identity in the within-class covariance, 0..1.
        noise_form: see :func:`model.noise.class_noise`.
        unseen_scale: by which the scores of described classes are multiplied, above 0.
        photos: what example photos change; None where the bundle takes none.
    """

    kind: HeadKind = "lda"
    dimension: int
    samples: int
    noise_dimension: int
    shrinkage: float
    noise_form: NoiseForm = "independent"
    unseen_scale: float = 1.0
    photos: PhotoPrior | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise ValueError(f"head kind must be lda, got {self.kind!r}")
        if not 1 <= self.samples <= MAX_SAMPLES or self.dimension < 1 or self.noise_dimension < 1:
            raise ValueError(f"the head needs 1..{MAX_SAMPLES} samples and positive dimensions, got {self}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"head shrinkage must lie in 0..1, got {self}")
        if self.noise_form not in get_args(NoiseForm):
            raise ValueError(f"head noise must be one of {', '.join(get_args(NoiseForm))}, got {self.noise_form!r}")
        if not 0 < self.unseen_scale < np.inf:
            raise ValueError(f"head unseen_scale must be above 0, got {self}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; the id of a bundle is a hash of them."""
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "samples": self.samples,
            "noise_dimension": self.noise_dimension,
            "shrinkage": float(self.shrinkage),
            **({"noise": self.noise_form} if self.noise_form != "independent" else {}),
            **({"unseen_scale": float(self.unseen_scale)} if self.unseen_scale != 1 else {}),
            **({"photos": self.photos.to_json()} if self.photos else {}),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> HeadSpec:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        if fields["kind"] not in get_args(HeadKind):
            raise ValueError(f"head kind must be lda, got {fields['kind']!r}")
        return cls(
            kind=fields["kind"],
            dimension=int(fields["dimension"]),
            samples=int(fields["samples"]),
            noise_dimension=int(fields["noise_dimension"]),
            shrinkage=float(fields["shrinkage"]),
            noise_form=fields.get("noise", "independent"),
            unseen_scale=float(fields.get("unseen_scale", 1)),
            photos=PhotoPrior.from_json(fields["photos"]) if "photos" in fields else None,
        )

    def noise(self, bundle_id: str, class_id: str, samples: int | None = None) -> Float32:
        """The noise of a class, float32 [samples, K]; `samples` of the head where not given."""
        return class_noise(bundle_id, class_id, samples or self.samples, self.noise_dimension, form=self.noise_form)


@dataclass(frozen=True)
class Row:
    """One class's row of the head: weight float32 [Z] and bias."""

    weight: Float32
    bias: float


def logits(z_NZ: Float32, weight_CZ: Float32, bias_C: Float32) -> Float32:
    """Scores of every class, float32 [N, C]."""
    return z_NZ @ weight_CZ.T + bias_C

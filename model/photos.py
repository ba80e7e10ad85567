"""Example photos as evidence about a class: its mean embedding, and how far it counts as a seen class.

n: photos of a class, Z: embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class PhotoPrior:
    """What a class is believed to be before its first photo; all three are chosen on pseudo-unseen validation.

    The mean of a class with a Gaussian prior around m_0, which is worth k photos, is the posterior mean
    m = (k m_0 + sum z_i) / (k + n) (Murphy, Machine Learning, 4.6.1). With photos the class is known better than a
    described one: the share n / (f + n) of the seen penalty applies to it, and of its scale what is left.

    Attributes:
        described: k of a class that is described, whose m_0 is synthesised; above 0.
        undescribed: k of a class without a description, whose m_0 is the mean of the seen classes; above 0.
        fade: f, after how many photos a class counts half as seen; above 0.
    """

    described: float
    undescribed: float
    fade: float

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if not 0 < value < math.inf:
                raise ValueError(f"photos: expected {name} above 0, got {value}")

    def mean(self, described_Z: ArrayLike | None, photos_nZ: ArrayLike) -> NDArray[np.float64]:
        """Mean embedding of a class, centred, float64 [Z]; sums run in the order of the photos.

        Args:
            described_Z: m_0, centred; None for a class without a description.
            photos_nZ: centred embeddings of the photos, at least one where there is no description.
        """
        photos = np.asarray(photos_nZ, dtype=np.float64)
        total = np.zeros(photos.shape[1])
        for photo in photos:  # one after the other: a sum over an axis may pair them differently
            total += photo
        if described_Z is None:
            return total / (self.undescribed + len(photos))
        return (self.described * np.asarray(described_Z, dtype=np.float64) + total) / (self.described + len(photos))

    def left_out_scores(
        self,
        weight_Z: ArrayLike,
        bias: float,
        photos_nZ: ArrayLike,
        squares_n: NDArray[np.float64],
        *,
        described: bool,
        unseen_scale: float,
    ) -> NDArray[np.float64]:
        """Score of each photo on the row that its class would have without that photo, float64 [n].

        With K = k + n, the row w = S^-1 m, b = -m^T w / 2 and q_i = z_i^T S^-1 z_i, the mean without photo i is
        m_i = (K m - z_i) / (K - 1). Its row gives z_i the score z_i^T S^-1 m_i - m_i^T S^-1 m_i / 2
        = (K z_i^T w - q_i) / (K - 1) + (2 K^2 b + 2 K z_i^T w - q_i) / (2 (K - 1)^2). So nothing is solved anew.

        Args:
            weight_Z: of the class as it is served, with all its photos.
            bias: likewise.
            photos_nZ: centred embeddings of its photos; at least two where there is no description.
            squares_n: q_i in the metric of the head, see :meth:`model.lda.LdaHead.squares`.
            described: whether the class has a description.
            unseen_scale: of the head.
        """
        photos = np.asarray(photos_nZ, dtype=np.float64)
        n = len(photos)
        whole = (self.described if described else self.undescribed) + n
        served = self.scale(unseen_scale, n) / unseen_scale  # what the row has beyond the scale of the head
        products_n, bias = photos @ np.asarray(weight_Z, dtype=np.float64) / served, bias / served
        left = whole - 1
        linear_n = (whole * products_n - squares_n) / left
        constant_n = (2 * whole**2 * bias + 2 * whole * products_n - squares_n) / (2 * left**2)
        scores: NDArray[np.float64] = (linear_n + constant_n) * self.scale(unseen_scale, n - 1) / unseen_scale
        return scores

    def weight_of_photos(self, photos: int, *, described: bool) -> float:
        """How much of the mean of a class with so many photos is theirs, n / (k + n)."""
        return photos / ((self.described if described else self.undescribed) + photos)

    def seen_share(self, photos: int) -> float:
        """Share of the seen penalty that applies to a class with so many photos, 0..1."""
        return photos / (self.fade + photos)

    def scale(self, unseen_scale: float, photos: int) -> float:
        """By which the scores of a class with so many photos are multiplied."""
        return 1 + (unseen_scale - 1) * (1 - self.seen_share(photos))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"described": self.described, "undescribed": self.undescribed, "fade": self.fade}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PhotoPrior:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        return cls(**{name: float(fields[name]) for name in ("described", "undescribed", "fade")})

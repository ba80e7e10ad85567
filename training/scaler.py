"""Feature scaling to 0..1 per dimension, fitted on training rows only.

N: rows, D: features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CONSTANT = 1e-6  # a dimension that varies less than this is only shifted


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaler:
    """(x - minimum) / range; values outside the training range are not clipped, as in the literature.

    Attributes:
        minimum: float32 [D].
        range: float32 [D], above 0.
    """

    minimum: NDArray[np.float32]
    range: NDArray[np.float32]

    @classmethod
    def fit(cls, features_ND: NDArray[np.float32]) -> Scaler:
        """Minimum and range of training rows."""
        low, high = features_ND.min(axis=0), features_ND.max(axis=0)
        spread = (high - low).astype(np.float32)
        return cls(minimum=low.astype(np.float32), range=np.where(spread > _CONSTANT, spread, np.float32(1)))

    def apply(self, features_ND: ArrayLike) -> NDArray[np.float32]:
        """Scale rows, float32 [N, D]."""
        scaled: NDArray[np.float32] = (np.asarray(features_ND, dtype=np.float32) - self.minimum) / self.range
        return scaled

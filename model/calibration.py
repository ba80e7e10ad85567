"""From logits to probabilities: one temperature and one penalty on the seen classes.

N: rows, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SeenShare = NDArray[np.bool_] | NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibrated stacking (Chao et al., ECCV 2016, arXiv 1605.04253) after temperature scaling (Guo et al., ICML 2017).

    p = softmax(logits / temperature - seen_penalty * seen_share), with a share of 1 for seen classes, 0 for described
    ones, and :meth:`model.photos.PhotoPrior.seen_share` for those with example photos. Both numbers are chosen on
    pseudo-unseen validation classes; the penalty may be overridden per request.

    Attributes:
        seen_penalty: subtracted from seen classes, in log-odds; positive favours unseen classes.
        temperature: above 0.
    """

    seen_penalty: float
    temperature: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.seen_penalty) and np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"calibration needs finite numbers and a temperature above 0, got {self}")

    def scores(
        self, logits_NC: NDArray[np.float32], seen_share_C: SeenShare, *, seen_penalty: float | None = None
    ) -> NDArray[np.float64]:
        """Calibrated log-probabilities up to a constant per row, float64 [N, C]."""
        penalty = self.seen_penalty if seen_penalty is None else seen_penalty
        scores = logits_NC.astype(np.float64)
        scores /= self.temperature
        scores -= penalty * seen_share_C.astype(np.float64)
        return scores

    def probabilities(
        self, logits_NC: NDArray[np.float32], seen_share_C: SeenShare, *, seen_penalty: float | None = None
    ) -> NDArray[np.float64]:
        """Probabilities over the C classes, float64 [N, C], rows sum to 1.

        Args:
            logits_NC: scores of the head.
            seen_share_C: how much of the penalty applies to each class, 0..1; or which classes are seen.
            seen_penalty: replaces the calibrated one.
        """
        return softmax(self.scores(logits_NC, seen_share_C, seen_penalty=seen_penalty))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"seen_penalty": self.seen_penalty, "temperature": self.temperature}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Calibration:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        return cls(seen_penalty=float(fields["seen_penalty"]), temperature=float(fields["temperature"]))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis, safe for large scores; NaN where one is not finite."""
    with np.errstate(invalid="ignore"):
        probabilities: NDArray[np.float64] = scores - scores.max(axis=-1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


def novelty(scores_N: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fraction of held-out seen rows whose score lies above each image's, float64 [N] in 0..1.

    Args:
        scores_N: how familiar each image looks, by the score of the bundle.
        reference: scores of held-out seen validation rows in ascending order, at least one.
    """
    above = len(reference) - np.searchsorted(reference, scores_N, side="right")
    return above / len(reference)

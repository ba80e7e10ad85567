"""Choosing between candidates only where the difference is more than chance.

R: repeated measurements, K: candidates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MIN_REPEATS = 2  # of one measurement nobody knows how much is chance


def most_gain(scores_RK: NDArray[np.float64], errors: float) -> int:
    """The candidate that gains most over the first one, by more than so many standard errors; else the first.

    Args:
        scores_RK: larger is better; paired over the measurements.
        errors: standard errors, of the mean gain over the measurements.
    """
    repeats = len(scores_RK)
    if repeats < MIN_REPEATS:
        return 0
    gains_RK = scores_RK - scores_RK[:, :1]
    gain_K = gains_RK.mean(axis=0)
    shown_K = gain_K > errors * gains_RK.std(axis=0, ddof=1) / math.sqrt(repeats)
    return int(np.where(shown_K, gain_K, 0).argmax())

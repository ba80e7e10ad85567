"""Noise that belongs to a class: the same numbers whenever, wherever and in whatever order the class is registered.

N: samples, K: noise dimension.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoiseForm = Literal["independent", "matched"]

BLOCK = 200
"""Rows of `matched` noise whose second moments are exact together."""


def class_noise(
    bundle_id: str, class_id: str, samples: int, dimension: int, *, form: NoiseForm = "independent"
) -> NDArray[np.float32]:
    """Standard normal noise keyed by bundle and class.

    `matched` noise is antithetic: every second row is the one before it with the other sign, so that what is linear in
    the noise leaves the mean of an even number of rows exact. Where its dimension is at most half a `BLOCK`, the rows
    of every block are also turned and scaled so that their mean product of any two numbers is that of the
    distribution: what is quadratic in the noise leaves the mean of a block exact, too (moment matching; Glasserman,
    Monte Carlo Methods in Financial Engineering, 4.5).

    Words come from the counter-based generator Philox 4x64-10 (Salmon et al., SC 2011), keyed by the first 128 bits of
    SHA-256 over both ids. Two 53-bit uniforms make one Box-Muller pair. NumPy promises the words of a bit generator
    for ever but not the algorithm behind `standard_normal`, hence our own; a golden test holds it.

    Args:
        bundle_id: id of the bundle that the class is registered with.
        class_id: id of the class.
        samples: N, at least 1.
        dimension: K, at least 1.
        form: what rows have to do with each other.

    Returns:
        float32 [N, K]; the first rows do not depend on N.
    """
    if form == "independent":
        return _independent(bundle_id, class_id, samples, dimension)
    pairs, block = (samples + 1) // 2, BLOCK // 2
    if dimension <= block:
        drawn = _independent(bundle_id, class_id, -(-pairs // block) * block, dimension)
        drawn = _matched(drawn.reshape(-1, block, dimension)).reshape(-1, dimension)[:pairs]
    else:
        drawn = _independent(bundle_id, class_id, pairs, dimension)
    return np.stack([drawn, -drawn], axis=1).reshape(-1, dimension)[:samples]


def _matched(noise_BNK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blocks of rows with X'X / N = I: X L^-T with L the Cholesky factor of what X'X / N was."""
    noise = noise_BNK.astype(np.float64)
    factor = np.linalg.cholesky(noise.transpose(0, 2, 1) @ noise / noise.shape[1])
    return np.linalg.solve(factor, noise.transpose(0, 2, 1)).transpose(0, 2, 1).astype(np.float32)


def _independent(bundle_id: str, class_id: str, samples: int, dimension: int) -> NDArray[np.float32]:
    digest = hashlib.sha256(f"{bundle_id}\0{class_id}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    pairs = (samples * dimension + 1) // 2
    words = np.random.Philox(key=key).random_raw(2 * pairs).reshape(pairs, 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # never 0, never 1
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0]))
    angle = 2.0 * np.pi * uniform[:, 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal.reshape(-1)[: samples * dimension].reshape(samples, dimension).astype(np.float32)

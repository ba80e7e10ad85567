"""Noise that belongs to a class: the same numbers whenever, wherever and in whatever order the class is registered.

N: samples, K: noise dimension.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def class_noise(
    bundle_id: str, class_id: str, samples: int, dimension: int, *, antithetic: bool = False
) -> NDArray[np.float32]:
    """Standard normal noise keyed by bundle and class.

    Words come from the counter-based generator Philox 4x64-10 (Salmon et al., SC 2011), keyed by the first 128 bits of
    SHA-256 over both ids. Two 53-bit uniforms make one Box-Muller pair. NumPy promises the words of a bit generator
    for ever but not the algorithm behind `standard_normal`, hence our own; a golden test holds it.

    Args:
        bundle_id: id of the bundle that the class is registered with.
        class_id: id of the class.
        samples: N, at least 1.
        dimension: K, at least 1.
        antithetic: every second row is the one before it with the other sign, so that what is linear in the noise
            leaves the mean of an even number of rows exact.

    Returns:
        float32 [N, K]; the first rows do not depend on N.
    """
    if antithetic:
        drawn = class_noise(bundle_id, class_id, (samples + 1) // 2, dimension)
        return np.stack([drawn, -drawn], axis=1).reshape(-1, dimension)[:samples]
    digest = hashlib.sha256(f"{bundle_id}\0{class_id}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    pairs = (samples * dimension + 1) // 2
    words = np.random.Philox(key=key).random_raw(2 * pairs).reshape(pairs, 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # never 0, never 1
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0]))
    angle = 2.0 * np.pi * uniform[:, 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal.reshape(-1)[: samples * dimension].reshape(samples, dimension).astype(np.float32)

"""Memory that the start needed and nothing needs any more."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    ONNX Runtime reads a graph, copies its weights and packs them for its kernels. What it has freed
    on the way would stay with the process: 200 MB for a ResNet-101.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

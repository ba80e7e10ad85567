"""The benchmark's bundle with its backbone in int8, by the code of `d3gzsl-train export`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.registry import make_bundle
from benchmarks.serving_bench import Bare, Bench
from training.exporting.int8 import quantise


def in_int8(bench: Bench) -> Bench:
    """The same settings with a bundle in int8, which is made in the work folder the first time."""
    bundle = bench.work / f"{bench.bundle.name}-int8"
    if not bundle.exists():
        bare = Bare(bench)
        batch = np.stack([bare.decode(data) for data in bench.images])
        made = quantise(bench.backbone, lambda: [batch], bench.work / f"{bench.backbone.stem}-int8.onnx")
        make_bundle(made, bundle)
    return replace(bench, bundle=bundle)

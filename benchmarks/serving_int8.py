"""The benchmark's bundle with a second trunk in int8, as a default export has it, by the code of the export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.registry import make_bundle
from benchmarks.serving_bench import Bare, Bench
from training.exporting.int8 import quantise


def default_export(bench: Bench) -> Bench:
    """The same settings with a bundle of both trunks, which is made in the work folder the first time."""
    bundle = bench.work / f"{bench.bundle.name}-default"
    if not bundle.exists():
        bare = Bare(bench)
        batch = np.stack([bare.decode(data) for data in bench.images])
        made = quantise(bench.backbone, lambda: [batch], bench.work / f"{bench.backbone.stem}-int8.onnx")
        make_bundle(bench.backbone, bundle, int8=made)
    return replace(bench, bundle=bundle)

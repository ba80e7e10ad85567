"""A folder classified by `d3gzsl classify DIR`, in one process and over Ray, and what a million images cost by that.

What a run takes before its first image and after its last counts for neither speed: two folders are classified, a small
and a large one, and the speed is that of the images that the large one has more.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving_bench import Bare, Bench
from benchmarks.serving_int8 import default_export
from model.bundle import Precision

Results = dict[str, Any]
PART = 256  # files of one part of a run, which one worker of Ray takes
FEW, MANY = 1, 3
"""Parts of the small and of the large folder, for each worker."""


def bulk(bench: Bench) -> Results:
    """Images a second of the bare loop and of the command, on all cores, in turns."""
    both = default_export(bench)
    bare = Bare(both)
    rates: dict[str, list[float]] = {name: [] for name in ("bare fp32", "local fp32", "local int8")}
    for _ in range(bench.rounds):
        rates["bare fp32"].append(bare.rate(bench.seconds))
        for precision in ("fp32", "int8"):
            rates[f"local {precision}"].append(_rate(both, precision, parts=(FEW, MANY)))
    speeds = {name: statistics.median(values) for name, values in rates.items()}
    share = speeds["local fp32"] / speeds["bare fp32"]
    return {
        "images_per_s": speeds,
        "rounds": rates,
        "ratio": share,
        "core_hours_per_million": {name: len(os.sched_getaffinity(0)) / rate / 0.0036 for name, rate in speeds.items()},
        "within": {"a folder >= 0.95 of the bare loop": share >= 0.95},
    }


def ray(bench: Bench) -> Results:
    """Images a second over Ray, by one worker and by two, each with one core, in turns."""
    both = default_export(bench)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(bench.rounds):
        for workers, values in rates.items():
            flags = ("--engine", "ray", "--workers", str(workers))
            values.append(_rate(both, "int8", flags, parts=(FEW * workers, MANY * workers)))
    speeds = {workers: statistics.median(values) for workers, values in rates.items()}
    ratio = speeds[2] / speeds[1]
    return {
        "images_per_s": {f"{workers} of Ray": rate for workers, rate in speeds.items()},
        "rounds": {f"{workers} of Ray": values for workers, values in rates.items()},
        "workers_2_to_1": ratio,
        "core_hours_per_million": {f"{workers} of Ray": workers / rate / 0.0036 for workers, rate in speeds.items()},
        "within": {"2 workers of Ray >= 1.8 times 1": ratio >= 1.8},
    }


def _rate(bench: Bench, precision: Precision, flags: Sequence[str] = (), *, parts: tuple[int, int]) -> float:
    """Images a second of the command between a small and a large folder."""
    small, large = (_seconds(bench, precision, flags, count * PART) for count in parts)
    return (parts[1] - parts[0]) * PART / (large - small)


def _seconds(bench: Bench, precision: Precision, flags: Sequence[str], count: int) -> float:
    folder, out = bench.work / f"photos-{count}", bench.work / "bulk.parquet"
    if not folder.exists():
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:06}.jpg").write_bytes(bench.images[number % len(bench.images)])
    out.unlink(missing_ok=True)
    shutil.rmtree(f"{out}.partial", ignore_errors=True)
    words = ["classify", str(folder), "--out", str(out), "--bundle", str(bench.bundle), "--batch", str(bench.batch)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "service.cli", *words, "--precision", precision, *flags],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )
    return time.perf_counter() - began

"""Two forms of one computation against each other: repetitions interleaved, medians, and the ratio of the medians."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

AGREEMENT = 1e-3  # relative; float32 sums in different orders
LEAST_S, MOST_REPEATS = 2.0, 50  # short cases are repeated more often


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    Attributes:
        name: what is compared, with its sizes.
        target: least ratio wanted.
        plain: one repetition of the plain form.
        fast: one repetition of the form in use.
        values: the same number by both forms on the same inputs; None where random draws differ.
        scale: seconds of `plain` are multiplied by it, where only a part of the computation is run.
        note: what else a reader must know.
    """

    name: str
    target: float
    plain: Callable[[], object]
    fast: Callable[[], object]
    values: Callable[[], tuple[float, float]] | None = None
    scale: float = 1.0
    note: str = ""


def compare(case: Case, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Medians in seconds of at least `repeats` repetitions, and their ratio.

    Raises:
        RuntimeError: the two forms do not compute the same.
    """
    difference = None
    if case.values is not None:
        plain, fast = case.values()
        difference = abs(plain - fast) / max(abs(plain), 1e-12)
        if not difference < AGREEMENT:
            raise RuntimeError(f"{case.name}: the forms differ, plain {plain} and fast {fast}")
    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    once = [timed(getattr(case, form), device) for form in seconds]  # for allocators and lazy initialisation, too
    repeats = max(repeats, min(MOST_REPEATS, int(LEAST_S / sum(once))))
    for _ in range(repeats):
        for form, taken in seconds.items():
            scale = case.scale if form == "plain" else 1.0
            taken.append(scale * timed(getattr(case, form), device))
    medians = {form: statistics.median(taken) for form, taken in seconds.items()}
    ratios = [p / f for p, f in zip(seconds["plain"], seconds["fast"], strict=True)]
    return {
        "name": case.name,
        "target": case.target,
        "plain_s": medians["plain"],
        "fast_s": medians["fast"],
        "ratio": medians["plain"] / medians["fast"],
        "ratio_of_fastest": min(seconds["plain"]) / min(seconds["fast"]),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "relative_difference": difference,
        "repeats": repeats,
        "note": case.note,
    }


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one repetition, the device's work included."""
    synchronise(device)
    begun = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - begun


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine in words, without its name."""
    return {
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }

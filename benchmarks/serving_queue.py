"""The parts of benchmarks/serving.py in which requests come whether or not others are answered."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving_bench import Bare, Bench
from benchmarks.serving_load import Done, arrivals, batch_times, closed, one_by_one, open_loop, percentile, simulated

Results = dict[str, Any]


def poisson(bench: Bench) -> Results:
    """Arrivals by chance at 80 % of what the bare loop does, against the perfect queue.

    The perfect queue has the times of decoding and batches that the service measured on the same arrivals with one
    batch at a time, which then had all CPUs; beside it the one with times of an idle machine, on which nobody reads
    requests or plays the clients.
    """
    bare = Bare(bench)
    decode_s, batch_s, capacity = bare.decode_s(), bare.batch_s(3), bare.rate(bench.seconds)
    del bare
    found: Results = {"images_per_s": 0.8 * capacity, "idle_decode_s": decode_s, "idle_batch_s": batch_s, "rounds": []}
    for seed in range(bench.rounds):
        times = arrivals(0.8 * capacity, 3 * bench.seconds, seed=seed)
        one, several = (_open_loop(bench, times, *flags) for flags in (("--parallel-batches", "1"), ()))
        measured = batch_times(one, bench.batch)
        seconds = {
            "": [done.seconds for done in several],
            "one_batch_": [done.seconds for done in one],
            "perfect_": simulated(times, decode_s=decode_s, batch_s=measured),
            "idle_": simulated(times, decode_s=decode_s, batch_s=batch_s),
        }
        found["rounds"].append(
            {
                "requests": len(times),
                "failed": sum(done.status != 200 for done in (*one, *several)),
                "batch_1_s": measured[0],
                "batch_4_s": measured[3],
                **{f"{who}p{p}_s": percentile(took, p / 100) for who, took in seconds.items() for p in (50, 99)},
            }
        )
    for name, other in (("ratio", "perfect"), ("ratio_to_idle", "idle"), ("ratio_to_one_batch", "one_batch")):
        found[name] = statistics.median(one["p99_s"] / one[f"{other}_p99_s"] for one in found["rounds"])
    found["within"] = {"p99 <= 1.25 of the perfect queue": found["ratio"] <= 1.25}
    return found


def _open_loop(bench: Bench, times: Sequence[float], *flags: str) -> list[Done]:
    with bench.serving(*flags) as target:
        one_by_one(target, bench.images, 3)
        return open_loop(target, bench.images, times)


def overload(bench: Bench) -> Results:
    """Three times what the service can do, with a deadline; then its speed in the seconds behind."""
    with bench.serving() as target:
        clients = 2 * bench.batch
        normal = closed(target, bench.images, clients=clients, seconds=bench.seconds)
        allowed_s = max(2.0, 4 * bench.batch / normal)
        times = arrivals(3 * normal, bench.overload_seconds, seed=0)
        with _Memory(target.pid) as memory:
            done = open_loop(target, bench.images, times, timeout_ms=round(1000 * allowed_s))
        recovered = closed(target, bench.images, clients=clients, seconds=5)
    accepted = [one for one in done if one.status == 200]
    refused = [one.seconds for one in done if one.status == 503 and one.seconds < allowed_s]
    late = [one for one in done if one.status == 503 and one.seconds >= allowed_s]
    half = len(memory.mb) // 2
    growth = max(memory.mb[half:]) - max(memory.mb[:half]) if half else 0.0
    return {
        "normal_images_per_s": normal,
        "asked_images_per_s": len(times) / bench.overload_seconds,
        "allowed_s": allowed_s,
        "answered": len(accepted),
        "answered_images_per_s": len(accepted) / bench.overload_seconds,
        "slowest_answer_s": max((one.seconds for one in accepted), default=0.0),
        "let_in_but_late": len(late),
        "refused": len(refused),
        "refused_ms": {f"p{p}": 1000 * percentile(refused or [0.0], p / 100) for p in (50, 99)},
        "slowest_refusal_ms": 1000 * max(refused, default=0.0),
        "other_statuses": sorted({one.status for one in done} - {200, 503}),
        "memory_mb": memory.mb,
        "memory_growth_mb": growth,
        "recovered_images_per_s": recovered,
        "within": {
            "what is let in keeps its deadline": not late and all(one.seconds <= allowed_s + 0.05 for one in accepted),
            "refusals p99 < 50 ms": percentile(refused or [0.0], 0.99) < 0.05,
            "memory flat (second half <= 10 MB above the first)": growth <= 10,
            "full speed within 5 s (>= 0.9 of before)": recovered >= 0.9 * normal,
        },
    }


def memory_mb(pid: int) -> float:
    """Proportional set size: a page that a process maps twice counts once, one that others have too by its share."""
    line = next(x for x in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if x.startswith("Pss:"))
    return int(line.split()[1]) / 1000


class _Memory:
    """Memory of a process, once a second while the block runs."""

    def __init__(self, pid: int) -> None:
        self.mb: list[float] = []
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.mb.append(memory_mb(self._pid))

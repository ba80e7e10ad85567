"""One client describes a class by 10,000 wrong names over and over: how much slower are the answers of another client?

    python benchmarks/faults/wrong_names.py --out benchmarks/results/DATE-wrong-names.json

The attacker has a process of its own on the same cores and sends one body of 200 KB after the other, at a rate or
without a pause. An ordinary client with another address classifies one photo after the other. Rounds with and without
the attacker take turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.faults.slow_clients import ordinary, summary
from tests.service.processes import serving

BODY = json.dumps({"name": "x", "attributes": {f"shape_circl{i}": 1 for i in range(10_000)}}).encode()
RATES = {"ten a second": 10.0, "without a pause": float("inf")}
SECONDS = 10.0


def attack(url: str, rate: float, sent: Any, over: Event) -> None:
    """Send bodies until told otherwise; for a process of its own.

    Raises:
        AssertionError: one was not refused with 422.
    """
    at = urlsplit(url)
    client = http.client.HTTPConnection(str(at.hostname), at.port, timeout=60)
    due = time.perf_counter()
    while not over.is_set():
        client.request("POST", "/classes", BODY, {"Content-Type": "application/json"})
        answer = client.getresponse()
        said = answer.read()
        assert answer.status == 422, said
        sent.value += 1
        due = max(due + 1 / rate, time.perf_counter() - 1 / rate)
        time.sleep(max(0.0, due - time.perf_counter()))
    client.close()


def measure(url: str, *, rounds: int) -> dict[str, Any]:
    """Times of the ordinary client without the attacker and with it, in turns."""
    times: dict[str, list[float]] = {"alone": [], **{name: [] for name in RATES}}
    bodies = dict.fromkeys(RATES, 0)
    context = multiprocessing.get_context("spawn")
    client = ProcessPoolExecutor(1, mp_context=context)
    client.submit(ordinary, url, 2.0).result()  # warms up
    for _ in range(rounds):
        for name, rate in RATES.items():
            times["alone"] += client.submit(ordinary, url, SECONDS).result()
            sent, over = context.Value("i", 0), context.Event()
            process = context.Process(target=attack, args=(url, rate, sent, over))
            process.start()
            while not sent.value:
                time.sleep(0.01)
            before = sent.value
            times[name] += client.submit(ordinary, url, SECONDS).result()
            bodies[name] += sent.value - before
            over.set()
            process.join()
    client.shutdown()
    alone = summary(times["alone"])
    return {
        "alone": alone,
        **{
            name: {
                **(found := summary(times[name])),
                "bodies_a_second": round(bodies[name] / (rounds * SECONDS), 1),
                "p99_times": round(found["p99_ms"] / alone["p99_ms"], 2),
            }
            for name in RATES
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "command": "python benchmarks/faults/wrong_names.py",
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "load_before": round(os.getloadavg()[0], 1),
    }
    with tempfile.TemporaryDirectory() as folder, serving(None, Path(folder)) as server:
        found |= measure(server.url, rounds=arguments.rounds)
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""500 slowloris connections against one ordinary client: how much slower are its answers?

    python benchmarks/faults/slow_clients.py --out benchmarks/results/DATE-slow-clients.json [--connections 500]

A process of its own keeps the connections open and sends a few bytes on each now and then: heads that never end, or
bodies that never end. What the service closes is opened again. An ordinary client with another address classifies one
photo after the other all the while. Times with and without slow clients take turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.faults.raw_http import head, raw
from service.settings import EMBEDDED_BUNDLE
from tests.service.processes import serving

PHOTO = (EMBEDDED_BUNDLE / "examples" / "red-checked-circle.jpg").read_bytes()
SLOWER = 1.2
_EVERY = 2.0
"""Seconds between two pieces of a slow client."""
_SETTLE = 3.0
"""Seconds until all slow connections are open."""
SECONDS = {"none": 12.0, "heads": 15.0, "bodies": 36.0}
"""Of each measurement: long enough that the service's limits on heads and bodies end every slow connection once."""
STARTS = {
    "heads": head("POST", "/classify")[:-2],
    "bodies": head("POST", "/classify", length=100_000, kind="image/jpeg"),
}
PIECES = {"heads": b"X-A: b\r\n", "bodies": b"\xff\xd8\xff\xe0\x00\x10JF"}


def slow(url: str, kind: str, number: int, open_now: Any, over: Event) -> None:
    """Keep slow connections open until told otherwise; for a process of its own."""
    asyncio.run(_slow(url, kind, number, open_now, over))


async def _slow(url: str, kind: str, number: int, open_now: Any, over: Event) -> None:
    choose = random.Random(number)

    async def one() -> None:
        await asyncio.sleep(choose.uniform(0, _SETTLE / 2))
        while not over.is_set():
            with suppress(OSError):  # closed by the service: open another one
                async with raw(url) as client:
                    await client.send(STARTS[kind])
                    open_now.value += 1
                    try:
                        while not over.is_set() and not client.reader.at_eof():
                            await asyncio.sleep(choose.uniform(0.5, 1.5) * _EVERY)
                            await client.send(PIECES[kind])
                    finally:
                        open_now.value -= 1

    tasks = [asyncio.create_task(one()) for _ in range(number)]
    while not over.is_set():
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def ordinary(url: str, seconds: float) -> list[float]:
    """Seconds of each request of a client that asks about one photo after the other.

    Raises:
        AssertionError: an answer was another one than 200.
    """
    at, times = urlsplit(url), list[float]()
    client = http.client.HTTPConnection(str(at.hostname), at.port, timeout=60, source_address=("127.0.0.2", 0))
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        client.request("POST", "/classify", PHOTO, {"Content-Type": "image/jpeg"})
        answer = client.getresponse()
        said = answer.read()
        times.append(time.perf_counter() - began)
        assert answer.status == 200, said
    client.close()
    return times


def measure(url: str, *, connections: int, seconds: dict[str, float], rounds: int) -> dict[str, Any]:
    """Times without slow clients and with each kind of them, in turns."""
    times: dict[str, list[float]] = {"none": [], **{kind: [] for kind in STARTS}}
    fewest = dict.fromkeys(STARTS, connections)
    context = multiprocessing.get_context("spawn")
    # Nothing else runs in the ordinary client's process: this one reads the service's log meanwhile.
    client = ProcessPoolExecutor(1, mp_context=context)
    client.submit(ordinary, url, 2.0).result()  # warms up
    for _ in range(rounds):
        for kind in STARTS:
            times["none"] += client.submit(ordinary, url, seconds["none"]).result()
            open_now, over = context.Value("i", 0), context.Event()
            process = context.Process(target=slow, args=(url, kind, connections, open_now, over))
            process.start()
            until = time.monotonic() + 60
            while open_now.value < 0.95 * connections and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(_SETTLE)
            fewest[kind] = min(fewest[kind], open_now.value)
            times[kind] += client.submit(ordinary, url, seconds[kind]).result()
            fewest[kind] = min(fewest[kind], open_now.value)
            over.set()
            process.join()
    client.shutdown()
    return {
        "connections": connections,
        "fewest_open": fewest,
        **{kind: summary(of_kind) for kind, of_kind in times.items()},
        "within": {
            f"p99 with slow {kind} at most {SLOWER:g} times that without": percentile(times[kind], 0.99)
            <= SLOWER * percentile(times["none"], 0.99)
            for kind in STARTS
        },
    }


def percentile(times: list[float], share: float) -> float:
    """The time that a share of the requests took at most."""
    return sorted(times)[round(share * (len(times) - 1))]


def summary(times: list[float]) -> dict[str, float]:
    """Number of requests, and their times in ms."""
    return {
        "requests": len(times),
        "median_ms": round(1000 * statistics.median(times), 2),
        "p99_ms": round(1000 * percentile(times, 0.99), 2),
        "most_ms": round(1000 * max(times), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "command": "python benchmarks/faults/slow_clients.py",
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "load_before": round(os.getloadavg()[0], 1),
    }
    with tempfile.TemporaryDirectory() as folder, serving(None, Path(folder), "--threads", "1") as server:
        found |= measure(server.url, connections=arguments.connections, seconds=SECONDS, rounds=arguments.rounds)
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

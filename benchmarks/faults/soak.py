"""A service under mixed load for half an hour: no answer that was not asked for, and memory and open files stay flat.

    python benchmarks/faults/soak.py --out benchmarks/results/DATE-soak [--minutes 30] [--rate 15] [--changes 2]

Clients classify (JPEG, JSON, forms, gzip, Open Inference Protocol), register and remove classes with and without
photos, roll back, try classes out, send nonsense, go away in the middle of a body or before the answer, and send or
read slowly. Every status is known beforehand, and so is what every version of the class table holds. Once a minute
nobody sends anything for some seconds; these moments are compared. `OUT.json` has the numbers, `OUT.md` the words,
`OUT.svg` memory and open files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.faults.asking import Asking, Tally
from benchmarks.faults.changing import Changes
from benchmarks.faults.mixed_load import MixedLoad
from benchmarks.faults.soak_report import draw, words
from benchmarks.faults.watching import Held, computed_seconds, look
from model.bundle import Bundle
from service.settings import EMBEDDED_BUNDLE
from tests.service.processes import Server, serving

FLAGS = ("--header-timeout", "5", "--idle-timeout", "5", "--grace-period", "5")
_LOOK_SECONDS = 2.0
_REST_SECONDS = 3.0
"""Longer than the service needs to give back the memory of bodies that have come."""
_TICK_SECONDS, _STOPPED_SECONDS = 0.2, 1.5
_GROWTH, _FILES = 1.05, 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done for how long.

    Attributes:
        seconds: in all, without pauses.
        warm_up: of these, before the first moment that counts.
        every: seconds between two rests.
        rate: requests per second that change nothing.
        changes: changes of the class table per second.
        pause_while: a file; while it exists nothing is sent.
    """

    seconds: float
    warm_up: float
    every: float
    rate: float
    changes: float
    pause_while: Path | None = None


def soak(server: Server, plan: Plan) -> dict[str, Any]:
    """Load a service on the embedded bundle as planned; returns what was found."""
    return asyncio.run(_Soak(server, plan).run())


class _Soak:
    def __init__(self, server: Server, plan: Plan) -> None:
        self._server, self._plan = server, plan
        self._pid = server.process.pid
        self._tally, self._held = Tally(), list[Held]()
        self._gate = asyncio.Event()
        self._at_work: set[asyncio.Task[None]] = set()
        self._asking = Asking(server.url, self._tally)
        manifest = Bundle.load(EMBEDDED_BUNDLE).manifest
        photos = [file.read_bytes() for file in sorted((EMBEDDED_BUNDLE / "examples").glob("*.jpg"))]
        vocabulary = manifest.vocabulary
        ranges = {a.name: (a.min, a.max) for a in vocabulary.attributes}
        self._load = MixedLoad(self._asking, photos, [*ranges], size=manifest.preprocess.size, seed=1)
        self._changes = Changes(self._asking, photos, ranges, seed=2)
        self._changing = asyncio.Lock()
        self._began, self._paused = time.monotonic(), 0.0
        self._interrupted: list[str] = []
        self._stops: list[float] = []  # when the machine or whoever runs it stood still

    async def run(self) -> dict[str, Any]:
        self._gate.set()
        computed = computed_seconds(self._pid)
        tasks = [
            asyncio.create_task(self._send(self._plan.rate, self._request)),
            asyncio.create_task(self._send(self._plan.changes, self._change)),
            asyncio.create_task(self._look()),
        ]
        try:
            while self._now() < self._plan.seconds and not any(task.done() for task in tasks):
                until = self._now() + self._plan.every
                while self._now() < min(until, self._plan.seconds) and not any(task.done() for task in tasks):
                    await self._tick()
                    await self._pause()
                await self._rest()
        finally:
            for task in tasks:
                task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        await self._asking.close()
        return self._found(computed_seconds(self._pid) - computed)

    def _now(self) -> float:
        """Seconds since the beginning, without pauses."""
        return time.monotonic() - self._began - self._paused

    async def _send(self, rate: float, start: Callable[[], None]) -> None:
        """Start something at random moments, whether or not the former has ended."""
        choose = random.Random(rate)
        while True:
            await asyncio.sleep(choose.expovariate(rate))
            while not self._gate.is_set():  # it may have been closed again before this task goes on
                await self._gate.wait()
            start()

    def _request(self) -> None:
        name, send = self._load.next()
        self._start(name, send)

    def _change(self) -> None:
        if self._changing.locked():  # the one before is not answered yet
            return

        async def step() -> None:
            async with self._changing:
                self._tally.asked[await self._changes.step()] += 1

        self._start("", step)

    def _start(self, name: str, send: Callable[[], Any]) -> None:
        async def counted() -> None:
            try:
                await send()
                if name:
                    self._tally.asked[name] += 1
            except Exception as error:  # whatever it is, it was not asked for
                await asyncio.sleep(2 * _TICK_SECONDS)  # so that a stop has been noticed
                what = f"{name or 'change'} at {self._now():.0f} s: {error!r}"
                if self._stops and self._stops[-1] >= began:
                    self._interrupted.append(what[:300])  # limits on time were exceeded by whoever stopped it
                else:
                    self._tally.fail(what)

        began = time.monotonic()
        task = asyncio.create_task(counted())
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _tick(self) -> None:
        """Wait a moment, and notice where that took so long that somebody must have stopped this process."""
        began = time.monotonic()
        await asyncio.sleep(_TICK_SECONDS)
        if (late := time.monotonic() - began - _TICK_SECONDS) > _STOPPED_SECONDS:
            self._stops.append(time.monotonic())
            self._paused += late

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._gate.is_set():
                self._held.append(look(self._pid, at=self._now(), rest=False))

    @asynccontextmanager
    async def _silent(self) -> AsyncIterator[None]:
        """Nothing is sent within the block, and everything that was has been answered before."""
        self._gate.clear()
        while self._at_work:
            await asyncio.wait(self._at_work)
        yield
        self._gate.set()

    async def _rest(self) -> None:
        async with self._silent():
            await self._asking.let_go()
            await asyncio.sleep(_REST_SECONDS)
            self._held.append(look(self._pid, at=self._now(), rest=True))

    async def _pause(self) -> None:
        """While others need the machine, send nothing; that time does not count."""
        file = self._plan.pause_while
        if file is None or not file.exists():
            return
        async with self._silent():
            began = time.monotonic()
            while file.exists():
                await asyncio.sleep(0.5)
            self._paused += time.monotonic() - began

    def _found(self, computed: float) -> dict[str, Any]:
        seconds = self._now()
        rests = [held for held in self._held if held.rest and held.at >= self._plan.warm_up]
        memory, files = [held.resident_mb for held in rests], [held.files for held in rests]
        log = self._server.log.text.splitlines()
        wrong = [line for line in log if " ERROR " in line or " CRITICAL " in line or "Traceback" in line]
        return {
            "seconds": round(seconds),
            "paused_s": round(self._paused),
            "requests": sum(self._tally.asked.values()),
            "by_kind": dict(self._tally.asked.most_common()),
            "by_status": {str(status): number for status, number in sorted(self._tally.statuses.items())},
            "registry_version": self._changes.version,
            "stops": len(self._stops),
            "interrupted": self._interrupted,
            "failed": self._tally.failed,
            "failures": self._tally.failures,
            "errors_in_log": wrong[:50],
            "cpu_share": round(computed / seconds, 3),
            "rests": len(rests),
            "resident_mb": {"first": memory[0], "last": memory[-1], "least": min(memory), "most": max(memory)},
            "files": {"first": files[0], "last": files[-1], "least": min(files), "most": max(files)},
            "within": {
                "no answer that was not asked for": self._tally.failed == 0 and not wrong,
                "resident memory within 5 % after warm-up": max(memory) <= _GROWTH * min(memory),
                f"open files within {_FILES} after warm-up": max(files) - min(files) <= _FILES,
            },
            "held": [asdict(held) for held in self._held],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the results go, without a suffix")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=5, help="minutes before the first moment that counts")
    parser.add_argument("--rate", type=float, default=15, help="requests per second")
    parser.add_argument("--changes", type=float, default=2, help="changes per second")
    parser.add_argument("--threads", default="1", help="of the service")
    parser.add_argument("--pause-while", type=Path, help="a file; while it exists, nothing is sent")
    arguments = parser.parse_args()
    plan = Plan(
        seconds=60 * arguments.minutes,
        warm_up=60 * arguments.warm_up,
        every=60,
        rate=arguments.rate,
        changes=arguments.changes,
        pause_while=arguments.pause_while,
    )
    given = f"--minutes {arguments.minutes:g} --rate {arguments.rate:g} --changes {arguments.changes:g}"
    found: dict[str, Any] = {
        "command": f"python benchmarks/faults/soak.py --out benchmarks/results/{arguments.out.name} {given}",
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "load_before": round(os.getloadavg()[0], 1),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(None, Path(folder), "--threads", arguments.threads, *FLAGS) as server,
    ):
        found |= soak(server, plan)
    arguments.out.with_suffix(".json").write_text(json.dumps(found) + "\n")
    arguments.out.with_suffix(".md").write_text(words(found, arguments.out.name))
    draw(found, arguments.out.with_suffix(".svg"))
    print(words(found, arguments.out.name))


if __name__ == "__main__":
    main()

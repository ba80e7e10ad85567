"""Clients of a service, in one event loop, and the queue that a perfect service would be."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import httpx
import numpy as np

from benchmarks.serving_peers import Target

_LOST = 0.05
"""Share of the connections that may break before a measurement is given up."""


@dataclass(frozen=True)
class Done:
    """A request: when it was due or sent, seconds until its answer, status, body of the answer."""

    sent: float
    seconds: float
    status: int
    body: bytes = b""


def closed(target: Target, images: Sequence[bytes], *, clients: int, seconds: float) -> float:
    """Images per second where each of some clients sends its next image when it has the answer.

    What is under way when the time begins and ends counts for neither.
    """
    return asyncio.run(_closed(target, images, clients, seconds))


async def _closed(target: Target, images: Sequence[bytes], clients: int, seconds: float) -> float:
    done: list[float] = []
    lost, over = 0, False
    following = itertools.cycle([request_bytes(target, data) for data in images])

    async def ask() -> None:
        nonlocal lost
        stream = await _connect(target)
        while not over:
            try:
                status, body = await exchange(stream, next(following))
            except (ConnectionError, asyncio.IncompleteReadError):  # some peers close connections that are in use
                lost += 1
                if lost > 3 + _LOST * len(done):
                    raise
                stream = await _connect(target)
                continue
            if status != HTTPStatus.OK:
                raise RuntimeError(f"{target.url} answered {status}: {body[:500]!r}")
            done.append(time.perf_counter())
        stream[1].close()

    asking = [asyncio.create_task(ask()) for _ in range(clients)]
    while len(done) < clients:
        await _unless_failed(asking, 0.01)
    first, before = done[-1], len(done)
    await _unless_failed(asking, seconds)
    last, after = done[-1], len(done)
    over = True  # what is under way is waited for: it would run into the next measurement
    await asyncio.gather(*asking)
    return (after - before) / (last - first)


async def _unless_failed(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    failed, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in failed:
        task.result()


def one_by_one(target: Target, images: Sequence[bytes], count: int) -> list[tuple[float, bytes]]:
    """Seconds and answers of requests, one after the other on one connection; their bytes are made ready before."""
    answers = []
    with httpx.Client() as client:
        made = [client.build_request("POST", target.url, **target.ask(data)) for data in images]
    ready = [(request.read(), dict(request.headers)) for request in made]
    url = httpx.URL(target.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=600)
    for content, headers in itertools.islice(itertools.cycle(ready), count):
        began = time.perf_counter()
        connection.request("POST", url.path, content, headers)
        with connection.getresponse() as answer:
            body = answer.read()
        answers.append((time.perf_counter() - began, body))
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"{target.url} answered {answer.status}: {body[:500]!r}")
    connection.close()
    return answers


def arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Times of a Poisson process."""
    chance, times, now = random.Random(seed), [], 0.0
    while (now := now + chance.expovariate(rate)) < seconds:
        times.append(now)
    return times


def open_loop(
    target: Target, images: Sequence[bytes], times: Sequence[float], *, timeout_ms: int | None = None
) -> list[Done]:
    """Requests at given times, whether or not others have been answered."""
    return asyncio.run(_open_loop(target, images, times, timeout_ms))


async def _open_loop(
    target: Target, images: Sequence[bytes], times: Sequence[float], timeout_ms: int | None
) -> list[Done]:
    headers = {} if timeout_ms is None else {"D3GZSL-Timeout-Ms": str(timeout_ms)}
    requests = [request_bytes(target, data, headers) for data in images]
    idle: list[Stream] = []
    began = time.perf_counter()

    async def ask(due: float, request: bytes) -> Done:
        await asyncio.sleep(began + due - time.perf_counter())
        sent = time.perf_counter()
        stream = idle.pop() if idle else await _connect(target)
        status, body = await exchange(stream, request)
        idle.append(stream)
        return Done(due, time.perf_counter() - sent, status, body)

    following = itertools.cycle(requests)
    done = list(await asyncio.gather(*(ask(due, next(following)) for due in times)))
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    return done


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(target: Target) -> Stream:
    url = httpx.URL(target.url)
    return await asyncio.open_connection(url.host, url.port)


def request_bytes(target: Target, data: bytes, more: dict[str, str] | None = None) -> bytes:
    """A whole request: `httpx` would take more time per request than a busy service has for it."""
    arguments = target.ask(data)
    request = httpx.Request(
        "POST", target.url, **{**arguments, "headers": {**arguments.get("headers", {}), **(more or {})}}
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n{head}\r\n".encode() + request.read()


async def exchange(stream: Stream, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer, which must say its length."""
    reader, writer = stream
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    body = await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
    return int(head.split()[1]), body


def batch_times(done: Sequence[Done], batch_size: int) -> list[float]:
    """Seconds of a batch of 1, 2, ... images as the service measured them while it answered.

    Images of a batch have the same time to the last digit. Sizes that did not occur lie on the line through the others.
    """
    times: dict[float, int] = {}
    for one in done:
        if one.status == 200:
            inference = json.loads(one.body)["timing_ms"]["inference"] / 1000
            times[inference] = times.get(inference, 0) + 1
    of_size: dict[int, list[float]] = {}
    for seconds, size in times.items():
        of_size.setdefault(size, []).append(seconds)
    slope, start = np.polyfit(list(times.values()), list(times), 1) if len(of_size) > 1 else (0.0, 0.0)
    return [
        statistics.median(of_size[size]) if size in of_size else float(start + slope * size)
        for size in range(1, batch_size + 1)
    ]


def simulated(times: Sequence[float], *, decode_s: float, batch_s: Sequence[float]) -> list[float]:
    """Seconds that each arrival takes where only decoding and model cost time.

    Args:
        times: of the arrivals, ascending.
        decode_s: seconds to decode an image, before it waits.
        batch_s: seconds of a batch of 1, 2, ... images; its length is the batch size.

    The rule is the service's: a free model takes what waits, up to the batch size.
    """
    ready = [moment + decode_s for moment in times]
    taken, free, took = 0, 0.0, []
    while taken < len(ready):
        start = max(free, ready[taken])
        batch = 1
        while batch < len(batch_s) and taken + batch < len(ready) and ready[taken + batch] <= start:
            batch += 1
        free = start + batch_s[batch - 1]
        took += [free - moment for moment in times[taken : taken + batch]]
        taken += batch
    return took


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by this share of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

"""Image files to network inputs, for all requests together: in threads what is quick, in processes what is not.

A thread cannot be interrupted, so it gets only what its header shows to be harmless. Everything else goes to a few
processes that can be ended, under one budget of memory. Both are given to clients in turn.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from model.images.cost import Cost
from model.preprocess import PreprocessSpec
from service.errors import NotReadyError
from service.inference.decode_process import DecodeLimits, DecodeProcess
from service.inference.decoding import Decoded, PixelBudget, decode
from service.inference.fairness import FairBudget

Result = TypeVar("Result")

_IDLE = 10.0  # seconds after which a process that nobody needs is ended
_MOST_PROCESSES = 4


class _NotQuickError(Exception):
    def __init__(self, cost: Cost) -> None:
        super().__init__(cost)
        self.cost = cost


class Decoder:
    """Decodes in bounded pools; what a request waits for is dropped when the request is.

    Args:
        spec: the bundle's preprocessing.
        limits: what one image may take; `memory` also bounds all that is decoded in processes at one time.
        threads: that decode, and most processes beside them.
    """

    def __init__(self, spec: PreprocessSpec, *, limits: DecodeLimits, threads: int) -> None:
        self._spec, self._limits = spec, limits
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._turns = FairBudget(threads)
        self._processes = _Processes(spec, limits, min(threads, _MOST_PROCESSES))
        self._warm_up()

    async def __call__(self, data: bytes, *, client: str = "", pixels: PixelBudget | None = None) -> Decoded:
        """Decode one file.

        Args:
            data: the file.
            client: whose turn it takes.
            pixels: that the images of its request may have.

        Raises:
            ImageError: see :func:`service.inference.decoding.decode`; also for more than the limits or the budget.
        """
        budget = pixels or PixelBudget(self._limits.max_pixels)
        async with self._turns.take(1, client=client):
            loop = asyncio.get_running_loop()
            outcome = await loop.run_in_executor(self._threads, self._decode, data, budget)
        if isinstance(outcome, Decoded):
            return outcome
        return await self._processes.decode(data, outcome, client=client, budget=budget)

    def _warm_up(self) -> None:
        """Decode an image of one pixel: the first one that is sent need not wait for the readers of files."""
        pixel = io.BytesIO()
        Image.new("RGB", (1, 1)).save(pixel, "JPEG")
        decode(pixel.getvalue(), self._spec, max_bytes=pixel.tell(), max_pixels=1)

    def _decode(self, data: bytes, budget: PixelBudget) -> Decoded | Cost:
        """The image, or what it costs where that is too much for a thread."""
        spent, limits = False, self._limits

        def check(cost: Cost) -> None:
            nonlocal spent
            if not spent and 0 < cost.pixels <= limits.max_pixels:  # more than that is refused where it is opened
                limits.check_memory(cost)
                budget.spend(cost.pixels)
                spent = True
            if not cost.quick:
                raise _NotQuickError(cost)

        try:
            return decode(data, self._spec, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels, check=check)
        except _NotQuickError as error:
            return error.cost

    def close(self) -> None:
        """End the processes and let the threads end."""
        self._processes.close()
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Processes:
    """As many processes as are needed, up to a number, each ended when nobody has needed it for a while."""

    def __init__(self, spec: PreprocessSpec, limits: DecodeLimits, most: int) -> None:
        self._spec, self._limits = spec, limits
        self._threads = ThreadPoolExecutor(max_workers=most, thread_name_prefix="decode-process")  # wait for them
        self._turns, self._memory = FairBudget(most), FairBudget(limits.memory)
        self._idle: dict[DecodeProcess, asyncio.TimerHandle] = {}
        self._all: set[DecodeProcess] = set()
        self._closed = False

    async def decode(self, data: bytes, cost: Cost, *, client: str, budget: PixelBudget) -> Decoded:
        """Decode a file; where this is cancelled the work ends at once."""
        memory = self._limits.memory if cost.memory is None else min(cost.memory, self._limits.memory)
        async with self._turns.take(1, client=client), self._memory.take(memory, client=client):
            process = self._idle_one() or await self._started()
            # What is not known before the process opens the file is not spent before either.
            pixels = self._limits.max_pixels if cost.pixels else budget.left
            try:
                decoded = await self._in_thread(lambda: process.decode(data, pixels=pixels))
            except asyncio.CancelledError:
                self._end(process)
                raise
            finally:
                self._keep(process)
        if not cost.pixels:
            budget.spend(decoded.width * decoded.height)
        return decoded

    def close(self) -> None:
        """End them all, whatever they do."""
        self._closed = True
        for process in list(self._all):
            self._end(process)
        self._threads.shutdown(wait=True)

    def _in_thread(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:  # the threads take nothing any more
            raise NotReadyError("the service is stopping") from None

    async def _started(self) -> DecodeProcess:
        starting = self._in_thread(self._start)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._keep_started)
            raise

    def _keep_started(self, started: asyncio.Future[DecodeProcess]) -> None:
        if started.exception() is None:
            self._keep(started.result())

    def _start(self) -> DecodeProcess:
        process = DecodeProcess(self._spec, self._limits)
        self._all.add(process)
        if self._closed:
            self._end(process)
        return process

    def _idle_one(self) -> DecodeProcess | None:
        while self._idle:
            process, expiry = self._idle.popitem()
            expiry.cancel()
            if process.alive:
                return process
            self._end(process)
        return None

    def _keep(self, process: DecodeProcess) -> None:
        if process.alive:
            self._idle[process] = asyncio.get_running_loop().call_later(_IDLE, self._expire, process)
        else:
            self._end(process)

    def _expire(self, process: DecodeProcess) -> None:
        del self._idle[process]
        self._end(process)

    def _end(self, process: DecodeProcess) -> None:
        process.close()
        self._all.discard(process)

"""Gathers images of all requests into batches for the one thread that runs the model.

It is work-conserving: the moment the model is free it takes what waits, up to the batch size, and never waits for more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from model.head import Float32
from service.engine import Embedded
from service.errors import InferenceError, NotReadyError, OverloadedError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says about one image.

    Attributes:
        embedding: float32 [Z].
        teacher_score: the teacher's in-distribution score.
        queue_ms: time it waited for the model.
        inference_ms: time its batch took.
    """

    embedding: Float32
    teacher_score: float
    queue_ms: float
    inference_ms: float


@dataclass(eq=False)
class _Item:
    image: Float32
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """A bounded queue of images in front of the model.

    Args:
        run: from float32 [N, 3, S, S] to embeddings; called in one thread of its own.
        batch_size: most images per call.
        capacity: most images admitted and not yet answered.
    """

    def __init__(self, run: Callable[[Float32], Embedded], *, batch_size: int, capacity: int) -> None:
        self._run, self._batch_size, self._capacity = run, batch_size, capacity
        self._queue: deque[_Item] = deque()
        self._at_work: list[_Item] = []
        self._arrived = asyncio.Event()
        self._admitted = 0
        self._seconds_per_image = 0.0
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    @property
    def alive(self) -> bool:
        """Whether the worker runs; false before `start`, after `stop` and when it died."""
        return self._worker is not None and not self._worker.done()

    async def start(self) -> None:
        """Start the worker in the running event loop."""
        self._worker = asyncio.create_task(self._work(), name="batcher")
        self._worker.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop the worker; what still waits is answered with NotReadyError."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        self._thread.shutdown(wait=True)

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Hold places for a request's images, from before they are decoded until they are answered.

        Raises:
            OverloadedError: not enough places are left; says when to come back.
            NotReadyError: the worker does not run.
        """
        if not self.alive:
            raise NotReadyError("the model's worker is not running")
        if self._admitted + images > self._capacity:
            raise OverloadedError(
                f"{self._admitted} images are waiting and {images} more would exceed the {self._capacity} allowed",
                retry_after=max(1, round(self._admitted * self._seconds_per_image)),
            )
        self._admitted += images
        try:
            yield
        finally:
            self._admitted -= images

    async def submit(self, image: Float32) -> Answer:
        """Queue one image, float32 [3, S, S], for which there is a place, and wait for its answer.

        Raises:
            InferenceError: the model failed on this image.
            NotReadyError: the worker does not run.
        """
        if not self.alive:
            raise NotReadyError("the model's worker is not running")
        item = _Item(image, asyncio.get_running_loop().create_future())
        self._queue.append(item)
        self._arrived.set()
        return await item.answer

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._at_work = self._take()
            if self._at_work:
                await self._answer(self._at_work)

    def _take(self) -> list[_Item]:
        """The next images that somebody still waits for."""
        batch: list[_Item] = []
        while self._queue and len(batch) < self._batch_size:
            item = self._queue.popleft()
            if not item.answer.done():
                batch.append(item)
        if not self._queue:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: list[_Item]) -> None:
        try:
            started = time.perf_counter()
            embedded = await self._infer(batch)
            seconds = time.perf_counter() - started
        except Exception as error:
            if len(batch) > 1:  # one of them may be to blame: each for itself
                for item in batch:
                    await self._answer([item])
                return
            log.exception("the model failed on an image")
            _fail(batch[0], InferenceError(f"the model failed on this image ({type(error).__name__})"))
            return
        self._seconds_per_image = seconds / len(batch)
        for item, embedding, score in zip(batch, embedded.embedding, embedded.teacher_score, strict=True):
            if not (np.isfinite(embedding).all() and np.isfinite(score)):
                _fail(item, InferenceError("the model gave numbers that are not finite for this image"))
            elif not item.answer.done():
                item.answer.set_result(
                    Answer(
                        embedding=embedding,
                        teacher_score=float(score),
                        queue_ms=1000 * (started - item.since),
                        inference_ms=1000 * seconds,
                    )
                )

    async def _infer(self, batch: list[_Item]) -> Embedded:
        images = np.stack([item.image for item in batch])
        embedded = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, images)
        if len(embedded.embedding) != len(batch) or len(embedded.teacher_score) != len(batch):
            raise ValueError(f"{len(batch)} images gave {len(embedded.embedding)} embeddings")
        return embedded

    def _ended(self, worker: asyncio.Task[None]) -> None:
        if not worker.cancelled():
            log.critical("the model's worker died", exc_info=worker.exception())
        for item in (*self._at_work, *self._queue):
            _fail(item, NotReadyError("the model's worker has stopped"))
        self._queue.clear()


def _fail(item: _Item, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)

"""Gathers images of all requests into batches for the threads that run the model.

It is work-conserving: the moment the model is free it takes what waits, up to the batch size, and never waits for more.
The threads take the next batch themselves, so that the model does not idle until the event loop comes round. Clients
take turns, for places and for the model.

Few images go through the model together, with all its CPUs. Where many wait, it runs on several smaller batches at
once, each on CPUs of its own: none of them then waits for another's after each layer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from model.head import Float32
from service.errors import InferenceError, NotFiniteOutputError, NotReadyError
from service.inference.engine import Parts, TrunkOutput
from service.inference.fairness import Admission, FairQueue
from service.inference.sessions import is_out_of_memory

log = logging.getLogger(__name__)

_ENOUGH = 4
"""Waiting images for each part from which on the model runs in parts: with fewer, all CPUs together answer sooner."""
_MOST_FAILURES = 8
"""Images in a row on which the model may fail before it counts as broken, whatever they show."""
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, kw_only=True)
class InferenceResult:
    """What the model says about one image.

    Attributes:
        embedding: float32 [Z].
        teacher_score: the teacher's in-distribution score.
        queue_ms: time it waited for the model.
        inference_ms: time its batch took.
        batch_size: images in that batch.
    """

    embedding: Float32
    teacher_score: float
    queue_ms: float
    inference_ms: float
    batch_size: int


@dataclass(eq=False)
class _QueuedImage:
    image: Float32
    answer: asyncio.Future[InferenceResult]
    since: float = field(default_factory=time.perf_counter)


Outcome = InferenceResult | InferenceError | NotReadyError


class _BrokenModelError(RuntimeError):
    """The model fails on everything."""


@dataclass(eq=False)
class _Turn:
    """What one of the model's threads is at.

    Attributes:
        batch: its images; empty while it waits.
        whole: whether it has the model for itself, with all CPUs.
        began: when the model began on them.
    """

    batch: list[_QueuedImage] = field(default_factory=list)
    whole: bool = False
    began: float | None = None


class Batcher:
    """A bounded queue of images in front of the model, and the threads that empty it.

    Where their work fails in a way that no image explains, what waits is answered with NotReadyError, `alive` falls,
    and the work begins again after a pause, each time a longer one, once `probe` has run.

    Args:
        run: from float32 [N, 3, S, S] to embeddings; called in one thread of its own.
        batch_size: most images per call; parts have a share of it each.
        capacity: most images admitted and not yet answered.
        probe: raises while the model is broken.
        pause: seconds before the first new beginning.
        parts: what runs several batches at once where many images wait.
    """

    def __init__(
        self,
        run: Callable[[Float32], TrunkOutput],
        *,
        batch_size: int,
        capacity: int,
        probe: Callable[[], object] = lambda: None,
        pause: float = 0.5,
        parts: Parts | None = None,
    ) -> None:
        self._run, self._batch_size, self._probe, self._pause = run, batch_size, probe, pause
        self._parts = parts
        self._many = math.inf if parts is None else parts.count * _ENOUGH
        self._most = batch_size if parts is None else math.ceil(batch_size / parts.count)
        self.admission = Admission(capacity, batch_size=batch_size)
        self.dropped = 0
        """Images given up by their requests before the model saw them."""
        self.restarts = 0
        """How often the work began again."""
        self.on_batch: Callable[[int, float], None] = lambda _images, _seconds: None
        """Told the size and the seconds of each batch, in the model's thread."""
        self._queue: FairQueue[_QueuedImage] = FairQueue()
        self._turns = [_Turn() for _ in range(1 if parts is None else parts.count)]
        self._death: BaseException | None = None
        self._failures = 0
        lock = threading.RLock()
        self._changed, self._parts_begun = threading.Condition(lock), threading.Condition(lock)
        self._stopping = threading.Event()
        self._working = False
        self._loop: asyncio.AbstractEventLoop | None = None
        first, *others = self._turns
        self._threads = [threading.Thread(target=self._live, args=(first,), name="inference", daemon=True)]
        self._threads += [
            threading.Thread(target=self._help, args=(turn,), name=f"inference-{i}", daemon=True)
            for i, turn in enumerate(others, 2)
        ]

    @property
    def alive(self) -> bool:
        """Whether images are answered; false before `start`, after `stop` and between death and new beginning."""
        return self._working and not self._stopping.is_set()

    @property
    def waiting(self) -> int:
        """Images that are decoded and wait for the model."""
        return len(self._queue)

    @property
    def at_work_for(self) -> float:
        """Seconds that the model has been busy with its present batch, the oldest of several; 0 while it has none."""
        began = [began for turn in self._turns if (began := turn.began) is not None]
        return time.perf_counter() - min(began) if began else 0.0

    async def start(self) -> None:
        """Start the workers; answers are given in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._working = True
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Stop the workers once their batches are done; what still waits is answered with NotReadyError."""
        self._stopping.set()
        self._fail_waiting()
        with self._changed:
            self._changed.notify()
            self._parts_begun.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                await asyncio.to_thread(thread.join)

    def check(self, *, seconds: float | None = None, client: str = "") -> None:
        """Refuse at once what would be refused later, before anything of it is read; raises what `admit` raises."""
        self._check_alive()
        self.admission.check(seconds=seconds, client=client)

    @contextmanager
    def admit(self, images: int, *, seconds: float | None = None, client: str = "") -> Iterator[None]:
        """Hold places for a request's images, from before they are decoded until they are answered.

        Args:
            images: how many.
            seconds: that the request has left.
            client: who sends them; what it has waiting already counts.

        Raises:
            OverloadedError: not enough places are left, or not in time; says when to come back.
            NotReadyError: the worker does not run.
        """
        self._check_alive()
        with self.admission.admit(images, seconds=seconds, client=client):
            yield

    async def submit(self, image: Float32, *, client: str = "") -> InferenceResult:
        """Queue one image, float32 [3, S, S], for which there is a place, and wait for its answer; clients take turns.

        Raises:
            InferenceError: the model failed on this image.
            NotReadyError: the worker does not run.
        """
        (answer,) = self.queue([image], client=client)
        return await answer

    def queue(self, images: Sequence[Float32], *, client: str = "") -> list[asyncio.Future[InferenceResult]]:
        """Queue images at once, so that no batch begins between them; see :meth:`submit`, whose errors answers raise.

        Raises:
            NotReadyError: the worker does not run.
        """
        self._check_alive()
        loop = asyncio.get_running_loop()
        items = [_QueuedImage(image, loop.create_future()) for image in images]
        with self._changed:
            for item in items:
                self._queue.append(item, client=client)
            self._changed.notify()
            if self._parted:
                self._parts_begun.notify_all()
        return [item.answer for item in items]

    def _check_alive(self) -> None:
        if not self.alive:
            raise NotReadyError("the model's worker is not running")

    # --- in the threads -----------------------------------------------------------------------------------------------

    def _live(self, turn: _Turn) -> None:
        """The first thread: it gives the model the batch or a part of it, and begins again where a thread has died."""
        pause = self._pause
        while not self._stopping.is_set():
            try:
                if not self._working:
                    self._probe()
                    self._failures, self._death, self._working, pause = 0, None, True, self._pause
                    self.restarts += 1
                    log.warning("the model's worker runs again")
                while self._take(turn, self._changed, lambda: bool(self._queue or self._death)):
                    if self._death is not None:
                        raise self._death
                    self._answer(turn, turn.batch)
            except BaseException:  # nothing above would take it, and the model must not stay without its thread
                log.critical("the model's worker died; it begins again in %g seconds", pause, exc_info=True)
                self._die(turn)
                self._stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _help(self, turn: _Turn) -> None:
        """Another thread: it takes parts only, while one is at work."""
        while not self._stopping.is_set():
            try:
                while self._take(turn, self._parts_begun, lambda: bool(self._working and self._queue and self._parted)):
                    self._answer(turn, turn.batch)
            except BaseException as error:  # the first thread says so, and begins again
                self._die(turn, error)

    @property
    def _parted(self) -> bool:
        """Whether parts are at work, to which others may be added."""
        return any(turn.batch and not turn.whole for turn in self._turns)

    def _take(self, turn: _Turn, news: threading.Condition, ready: Callable[[], bool]) -> bool:
        """Wait until there is something to do, and take the images; false at the end."""
        with self._changed:
            turn.batch = []
            news.wait_for(lambda: self._stopping.is_set() or ready())
            if self._stopping.is_set():
                return False
            waiting = len(self._queue)
            turn.whole = not self._parted and waiting < self._many
            # An image is answered with the last one of its batch, and a part takes long on its few CPUs. So it takes
            # its share of what waits, not all that it may, and all parts end at about the same time.
            share = min(self._most, math.ceil(waiting / len(self._turns)))
            turn.batch = self._pop(self._batch_size if turn.whole else share)
            if not turn.whole:
                self._parts_begun.notify_all()
        return True

    def _pop(self, most: int) -> list[_QueuedImage]:
        """The next images that somebody still waits for."""
        batch: list[_QueuedImage] = []
        while self._queue and len(batch) < most:
            item = self._queue.popleft()
            if item.answer.done():
                self.dropped += 1
            else:
                batch.append(item)
        return batch

    def _answer(self, turn: _Turn, batch: list[_QueuedImage]) -> None:
        if not batch:
            return
        turn.began = began = time.perf_counter()
        run = self._run if turn.whole or self._parts is None else self._parts.embed
        try:
            embedded = run(np.stack([item.image for item in batch]))
            if len(embedded.embedding) != len(batch) or len(embedded.teacher_score) != len(batch):
                raise ValueError(f"{len(batch)} images gave {len(embedded.embedding)} embeddings")
        except Exception as error:
            memory = is_out_of_memory(error)
            if len(batch) == 1:
                self._fail_one(batch, error, memory=memory)
                return
            # One of them may be to blame: each for itself. Where memory ran out, each half.
            size = math.ceil(len(batch) / 2) if memory else 1
        else:
            size = 0
        finally:
            turn.began = None
        if size:  # the failed run, whose error held its memory, is over
            if memory:
                log.warning("memory ran out on a batch of %d images, which is split", len(batch))
            for start in range(0, len(batch), size):
                self._answer(turn, batch[start : start + size])
            return
        self._failures = 0
        seconds = time.perf_counter() - began
        self.on_batch(len(batch), seconds)
        self._give(batch, _outcomes(batch, embedded, began, seconds))

    def _fail_one(self, batch: list[_QueuedImage], error: Exception, *, memory: bool) -> None:
        log.error("the model failed on an image", exc_info=error)
        why = "ran out of memory on this image" if memory else f"failed on this image ({type(error).__name__})"
        self._give(batch, [InferenceError(f"the model {why}")])
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            raise _BrokenModelError(f"the model failed on {self._failures} images in a row") from error

    def _give(self, batch: Sequence[_QueuedImage], outcomes: Sequence[Outcome]) -> None:
        """Hand outcomes to the event loop, where they belong."""
        if batch and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, batch, outcomes)

    # --- in the event loop --------------------------------------------------------------------------------------------

    def _deliver(self, batch: Sequence[_QueuedImage], outcomes: Sequence[Outcome]) -> None:
        for item, outcome in zip(batch, outcomes, strict=True):
            if item.answer.done():
                continue
            if isinstance(outcome, InferenceResult):
                item.answer.set_result(outcome)
            else:
                item.answer.set_exception(outcome)
        if answered := sum(not isinstance(outcome, NotReadyError) for outcome in outcomes):
            seconds = [o.inference_ms / 1000 / o.batch_size for o in outcomes if isinstance(o, InferenceResult)]
            self.admission.answered(answered, model_seconds=min(seconds, default=math.inf))

    def _die(self, turn: _Turn, error: BaseException | None = None) -> None:
        """Answer what can have no answer now; with an error of a thread that helps, let the first one begin again."""
        with self._changed:
            self._working, self._death = False, error
            self._changed.notify()
        self._fail(turn.batch)
        self._fail_waiting()
        turn.batch, turn.began = [], None

    def _fail_waiting(self) -> None:
        with self._changed:
            waiting = [item for item in self._queue.drain() if not item.answer.done()]
        self._fail(waiting)

    def _fail(self, items: Sequence[_QueuedImage]) -> None:
        self._give(items, [NotReadyError("the model's worker has stopped") for _ in items])


def _outcomes(batch: Sequence[_QueuedImage], embedded: TrunkOutput, began: float, seconds: float) -> list[Outcome]:
    finite = np.isfinite(embedded.embedding).all(axis=1) & np.isfinite(embedded.teacher_score)
    return [
        InferenceResult(
            embedding=embedded.embedding[i],
            teacher_score=float(embedded.teacher_score[i]),
            queue_ms=1000 * (began - item.since),
            inference_ms=1000 * seconds,
            batch_size=len(batch),
        )
        if finite[i]
        else NotFiniteOutputError("the model gave numbers that are not finite for this image")
        for i, item in enumerate(batch)
    ]

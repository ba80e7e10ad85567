from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from model.head import Float32
from service.batcher import Batcher
from service.engine import Embedded
from service.errors import InferenceError, NotReadyError, OverloadedError

pytestmark = pytest.mark.anyio


class Model:
    """Answers an image with its own value; records batches and can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, images: Float32) -> Embedded:
        assert self.free.wait(10)
        values = images[:, 0, 0, 0]
        self.batches.append(values.tolist())
        if (values == 13).any():
            raise RuntimeError("thirteen")
        return Embedded(np.stack([values, np.where(values == 7, np.nan, values)], axis=1), values)


def image(value: float) -> Float32:
    return np.full((3, 2, 2), value, dtype=np.float32)


@asynccontextmanager
async def batching(
    run: Callable[[Float32], Embedded], *, batch_size: int = 4, capacity: int = 100
) -> AsyncIterator[Batcher]:
    batcher = Batcher(run, batch_size=batch_size, capacity=capacity)
    await batcher.start()
    try:
        yield batcher
    finally:
        await batcher.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_each_image_gets_its_own_answer() -> None:
    async with batching(Model()) as batcher:
        answers = await asyncio.gather(*(batcher.submit(image(v)) for v in range(1, 7)))
    assert [a.teacher_score for a in answers] == [1, 2, 3, 4, 5, 6]


async def test_what_waits_when_the_model_is_free_goes_together_up_to_the_batch_size() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.free.clear()
        first = asyncio.create_task(batcher.submit(image(1)))
        await until(lambda: not batcher._queue and bool(batcher._at_work))
        others = [asyncio.create_task(batcher.submit(image(v))) for v in range(2, 8) if v != 7]
        await until(lambda: len(batcher._queue) == 5)
        model.free.set()
        await asyncio.gather(first, *others)
    assert model.batches == [[1], [2, 3, 4, 5], [6]]


async def test_abandoned_images_never_reach_the_model() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.free.clear()
        first = asyncio.create_task(batcher.submit(image(1)))
        await until(lambda: bool(batcher._at_work))
        abandoned = asyncio.create_task(batcher.submit(image(2)))
        kept = asyncio.create_task(batcher.submit(image(3)))
        await until(lambda: len(batcher._queue) == 2)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        model.free.set()
        await asyncio.gather(first, kept)
    assert model.batches == [[1], [3]]


@pytest.mark.parametrize("bad", [13, 7])  # the model raises; the model gives a number that is not finite
async def test_one_images_failure_never_reaches_the_others(bad: int) -> None:
    async with batching(Model()) as batcher:
        outcomes = await asyncio.gather(*(batcher.submit(image(v)) for v in (1, bad, 3)), return_exceptions=True)
        assert isinstance(outcomes[1], InferenceError)
        assert [o.teacher_score for o in outcomes if not isinstance(o, BaseException)] == [1, 3]
        assert batcher.alive
        assert (await batcher.submit(image(4))).teacher_score == 4


async def test_places_are_counted_in_images_and_given_back() -> None:
    async with batching(Model(), capacity=5) as batcher:
        with batcher.admit(3):
            with pytest.raises(OverloadedError) as caught, batcher.admit(3):
                pass
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= 1
            with batcher.admit(2):
                pass
        with batcher.admit(5):
            pass


async def test_a_dead_worker_fails_what_waits_and_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    async with batching(model) as batcher:

        async def die(_: object) -> None:
            await asyncio.sleep(0)
            raise KeyError("a bug")

        monkeypatch.setattr(batcher, "_answer", die)
        outcomes = await asyncio.gather(*(batcher.submit(image(v)) for v in range(6)), return_exceptions=True)
        assert all(isinstance(outcome, NotReadyError) for outcome in outcomes)
        assert not batcher.alive
        with pytest.raises(NotReadyError):
            await batcher.submit(image(1))
        with pytest.raises(NotReadyError), batcher.admit(1):
            pass


async def test_stopping_answers_what_waits() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.free.clear()
        waiting = [asyncio.create_task(batcher.submit(image(v))) for v in range(1, 7)]
        await until(lambda: bool(batcher._at_work))
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        model.free.set()
        await stopping
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, NotReadyError) for outcome in outcomes)

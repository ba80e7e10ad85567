from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from model.errors import BundleError
from model.head import Float32
from service.errors import InferenceError, NotReadyError, OverloadedError
from service.inference.batcher import Batcher, InferenceResult
from service.inference.engine import TrunkOutput
from service.inference.fairness import Admission
from tests.service.waiting import until

pytestmark = pytest.mark.anyio


class Model:
    """Answers an image with its own value; records batches and can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, images: Float32) -> TrunkOutput:
        assert self.free.wait(10)
        values = images[:, 0, 0, 0]
        self.batches.append(values.tolist())
        if (values == 13).any():
            raise RuntimeError("thirteen")
        return TrunkOutput(np.stack([values, np.where(values == 7, np.nan, values)], axis=1), values)


def image(value: float) -> Float32:
    return np.full((3, 2, 2), value, dtype=np.float32)


@asynccontextmanager
async def batching(
    run: Callable[[Float32], TrunkOutput], *, batch_size: int = 4, capacity: int = 100, **options: Any
) -> AsyncIterator[Batcher]:
    batcher = Batcher(run, batch_size=batch_size, capacity=capacity, **options)
    await batcher.start()
    try:
        yield batcher
    finally:
        await batcher.stop()


async def test_each_image_gets_its_own_answer() -> None:
    async with batching(Model()) as batcher:
        answers = await asyncio.gather(*(batcher.submit(image(v)) for v in range(1, 7)))
    assert [a.teacher_score for a in answers] == [1, 2, 3, 4, 5, 6]


async def test_what_waits_when_the_model_is_free_goes_together_up_to_the_batch_size() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.free.clear()
        first = asyncio.create_task(batcher.submit(image(1)))
        await until(lambda: not batcher._queue and bool(batcher._turns[0].batch))
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
        await until(lambda: bool(batcher._turns[0].batch))
        abandoned = asyncio.create_task(batcher.submit(image(2)))
        kept = asyncio.create_task(batcher.submit(image(3)))
        await until(lambda: len(batcher._queue) == 2)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        model.free.set()
        await asyncio.gather(first, kept)
    assert model.batches == [[1], [3]]
    assert batcher.dropped == 1


@pytest.mark.parametrize("bad", [13, 7])  # the model raises; the model gives a number that is not finite
async def test_one_images_failure_never_reaches_the_others(bad: int) -> None:
    async with batching(Model()) as batcher:
        outcomes = await asyncio.gather(*(batcher.submit(image(v)) for v in (1, bad, 3)), return_exceptions=True)
        assert isinstance(outcomes[1], InferenceError)
        assert [o.teacher_score for o in outcomes if not isinstance(o, BaseException)] == [1, 3]
        assert batcher.alive
        assert (await batcher.submit(image(4))).teacher_score == 4


class SmallMemory(Model):
    """A model for which only so many images fit into memory, and one image not at all."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error

    def __call__(self, images: Float32) -> TrunkOutput:
        answer = super().__call__(images)
        if len(images) > self.most or (images == 99).any():
            raise self.error
        return answer


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        BundleError("trunk.onnx: does not run: [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        BundleError("trunk.onnx: does not run: Failed to allocate memory for requested buffer of size 822083584"),
        BundleError("trunk.onnx: does not run: CUDA failure 2: out of memory ; GPU=0"),
    ],
    ids=["python", "cpp", "runtime", "cuda"],
)
async def test_a_batch_for_which_memory_runs_out_is_split(error: Exception) -> None:
    model = SmallMemory(2, error)
    async with batching(model, batch_size=8) as batcher:
        model.free.clear()
        first = asyncio.create_task(batcher.submit(image(50)))
        await until(lambda: not batcher._queue and bool(batcher._turns[0].batch))
        rest = [asyncio.create_task(batcher.submit(image(v))) for v in (1, 2, 3, 4, 99, 6, 7.5, 8)]
        await until(lambda: len(batcher._queue) == 8)
        model.free.set()
        outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
        assert str(outcomes.pop(5)) == "the model ran out of memory on this image"
        assert [o.teacher_score for o in outcomes if isinstance(o, InferenceResult)] == [50, 1, 2, 3, 4, 6, 7.5, 8]
        assert batcher.alive
    # Halves, and halves of these: what fits is not tried image by image.
    assert [len(batch) for batch in model.batches] == [1, 8, 4, 2, 2, 4, 2, 1, 1, 2]


async def test_places_are_counted_in_images_and_given_back() -> None:
    async with batching(Model(), capacity=5) as batcher:
        with batcher.admit(3):
            with pytest.raises(OverloadedError) as caught, batcher.admit(3):
                pass
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= 1
            with batcher.admit(2), pytest.raises(OverloadedError):
                batcher.check()
        with batcher.admit(5):
            pass
    assert batcher.admission.refused == 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def measured(*batches: tuple[float, int]) -> Admission:
    """An admission that has seen batches leave: seconds after the one before, and images."""
    clock = Clock()
    admission = Admission(100, batch_size=4, clock=clock)
    with admission.admit(50):
        for seconds, images in batches:
            clock.now += seconds
            admission.answered(images)
    clock.now += 1000  # a pause in which nobody waits says nothing about the rate
    return admission


async def test_the_way_back_is_told_from_the_measured_rate() -> None:
    admission = measured((8.0, 4))
    assert admission.seconds_per_image == pytest.approx(2.0)
    with admission.admit(60), pytest.raises(OverloadedError) as caught:
        admission.check(41)
    assert caught.value.retry_after == 120
    # A full batch weighs as much as all before, a single image little.
    assert measured((8.0, 4), (4.0, 4)).seconds_per_image == pytest.approx(1.5)
    assert measured((8.0, 4), (1.0, 1)).seconds_per_image == pytest.approx(1.8)


async def test_a_pause_does_not_count_as_time_that_an_image_takes() -> None:
    clock = Clock()
    admission = Admission(100, batch_size=4, clock=clock)
    for _ in range(20):
        clock.now += 3600
        with admission.admit(1):
            clock.now += 0.5
            admission.answered(1)
    assert admission.seconds_per_image == pytest.approx(0.5)


async def test_a_crowd_at_the_start_is_not_taken_for_a_slow_model() -> None:
    clock = Clock()
    admission = Admission(1000, batch_size=64, clock=clock)
    with admission.admit(256):
        clock.now += 0.5  # everybody's images were decoded meanwhile
        admission.answered(1, model_seconds=0.002)
        assert admission.seconds_per_image == pytest.approx(0.002)
        admission.check(100, seconds=30)
        clock.now += 0.64
        admission.answered(64, model_seconds=0.002)
    assert admission.seconds_per_image == pytest.approx(0.002 + 0.5 * 0.008)


async def test_who_could_not_be_answered_in_time_is_refused_at_once() -> None:
    admission = measured((4.0, 4))
    with admission.admit(10):
        admission.check(1, seconds=24)
        with pytest.raises(OverloadedError, match="too many for an answer within 12 seconds") as caught:
            admission.check(1, seconds=12)
        assert caught.value.retry_after == 10
    admission.check(50, seconds=0.1)  # alone it may try, or a wrong measurement would never be mended


async def test_a_worker_that_dies_fails_what_waits_and_begins_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, broken, probes = Model(), threading.Event(), []

    def probe() -> None:
        probes.append(broken.is_set())
        if broken.is_set():
            raise RuntimeError("still broken")

    async with batching(model, probe=probe, pause=0.01) as batcher:
        broken.set()
        answer = batcher._answer

        def die(*_: object) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(batcher, "_answer", die)
        outcomes = await asyncio.gather(*(batcher.submit(image(v)) for v in range(6)), return_exceptions=True)
        assert all(isinstance(outcome, NotReadyError) for outcome in outcomes)
        assert not batcher.alive
        with pytest.raises(NotReadyError):
            await batcher.submit(image(1))
        with pytest.raises(NotReadyError), batcher.admit(1):
            pass
        await until(lambda: len(probes) >= 2)
        assert (batcher.alive, batcher.restarts) == (False, 0)
        monkeypatch.setattr(batcher, "_answer", answer)
        broken.clear()
        await until(lambda: batcher.alive)
        assert batcher.restarts == 1
        assert (await batcher.submit(image(1))).teacher_score == 1
    assert "the model's worker died" in caplog.text


async def test_a_model_that_fails_on_everything_is_not_ready_until_it_works() -> None:
    model, works = Model(), threading.Event()

    def probe() -> None:
        if not works.is_set():
            raise RuntimeError("still broken")

    async with batching(model, probe=probe, pause=0.01) as batcher:
        outcomes = [await asyncio.gather(batcher.submit(image(13)), return_exceptions=True) for _ in range(7)]
        assert (await batcher.submit(image(1))).teacher_score == 1  # so it was the images
        outcomes += [await asyncio.gather(batcher.submit(image(13)), return_exceptions=True) for _ in range(8)]
        assert all(isinstance(outcome, InferenceError) for (outcome,) in outcomes)
        await until(lambda: not batcher.alive)
        works.set()
        await until(lambda: batcher.alive)
        assert (await batcher.submit(image(1))).teacher_score == 1


async def test_stopping_answers_what_waits() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.free.clear()
        waiting = [asyncio.create_task(batcher.submit(image(1)))]
        await until(lambda: bool(batcher._turns[0].batch))
        waiting += [asyncio.create_task(batcher.submit(image(v))) for v in range(2, 7)]
        await until(lambda: batcher.waiting == 5)
        assert batcher.at_work_for > 0
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        model.free.set()
        await stopping
        at_work, *others = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(at_work, InferenceResult)
    assert all(isinstance(outcome, NotReadyError) for outcome in others)
    assert batcher.at_work_for == 0


async def test_a_lull_is_when_no_image_of_others_has_a_place_or_when_that_takes_too_long() -> None:
    admission = Admission(100, batch_size=4)
    with admission.admit(2, client="own"):
        await admission.lull(client="own", seconds=60)
        with admission.admit(1, client="other"):
            waiting = [asyncio.create_task(admission.lull(client=client, seconds=60)) for client in ("own", "third")]
            await asyncio.wait(waiting, timeout=0.05)
            assert not any(task.done() for task in waiting)
            await admission.lull(client="own", seconds=0.01)
        await asyncio.wait_for(waiting[0], 10)
        assert not waiting[1].done()
    await asyncio.wait_for(waiting[1], 10)

"""Several batches at once where many images wait, and what becomes of the others where one of them fails."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.head import Float32
from service.errors import InferenceError, NotReadyError
from service.inference import engine as engine_module
from service.inference.batcher import Batcher
from service.inference.engine import OnnxEngine, TrunkOutput, number_of_parts
from service.inference.sessions import Provider
from service.service import Service
from service.settings import load_settings
from tests.service import tiny
from tests.service.waiting import until

pytestmark = pytest.mark.anyio


class Trunk:
    """Answers an image with its own value; notes who ran with how many images, and how many ran at once."""

    def __init__(self, count: int = 2) -> None:
        self.count, self.free = count, threading.Event()
        self.free.set()
        self.runs: list[tuple[str, int]] = []
        self.running: dict[str, int] = {"whole": 0, "part": 0}
        self.at_once: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def whole(self, images: Float32) -> TrunkOutput:
        return self._run("whole", images)

    def embed(self, images: Float32) -> TrunkOutput:
        return self._run("part", images)

    def _run(self, kind: str, images: Float32) -> TrunkOutput:
        with self._lock:
            self.runs.append((kind, len(images)))
            self.running[kind] += 1
            self.at_once.add((self.running["whole"], self.running["part"]))
        assert self.free.wait(10)
        with self._lock:
            self.running[kind] -= 1
        values = images[:, 0, 0, 0]
        if (values == 13).any():
            raise RuntimeError("thirteen")
        if (values == 99).any():
            raise SystemExit("nothing that an image explains")
        return TrunkOutput(np.stack([values, values], axis=1), values)


@asynccontextmanager
async def batching(trunk: Trunk, *, batch_size: int = 8, **options: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(trunk.whole, batch_size=batch_size, capacity=100, parts=trunk, pause=0.01, **options)
    await batcher.start()
    try:
        yield batcher
    finally:
        trunk.free.set()
        await batcher.stop()


def _began_again(batcher: Batcher, times: int) -> bool:
    return batcher.alive and batcher.restarts >= times


def submit(batcher: Batcher, values: list[int]) -> list[asyncio.Future[Any]]:
    return batcher.queue([np.full((3, 2, 2), value, dtype=np.float32) for value in values])


async def test_few_images_have_the_whole_model() -> None:
    trunk = Trunk()
    async with batching(trunk) as batcher:
        assert [answer.teacher_score for answer in await asyncio.gather(*submit(batcher, [1, 2, 3]))] == [1, 2, 3]
    assert trunk.runs == [("whole", 3)]


@pytest.mark.parametrize(("count", "first"), [(2, [8, 6]), (4, [4, 4, 3, 3])])
async def test_many_images_are_divided(count: int, first: list[int]) -> None:
    """Each part takes its share of what waits then, at most its share of the largest batch."""
    trunk = Trunk(count)
    async with batching(trunk, batch_size=16) as batcher:
        trunk.free.clear()
        waiting = submit(batcher, list(range(20, 40)))
        await until(lambda: len(trunk.runs) == count)
        assert batcher.at_work_for > 0
        trunk.free.set()
        answers = await asyncio.gather(*waiting)
    assert [answer.teacher_score for answer in answers] == list(range(20, 40))
    assert {kind for kind, _ in trunk.runs} == {"part"}
    assert sorted((images for _, images in trunk.runs[:count]), reverse=True) == first
    assert sum(images for _, images in trunk.runs) == 20


async def test_the_whole_model_never_runs_beside_parts() -> None:
    trunk, answered = Trunk(), []
    async with batching(trunk) as batcher:

        async def client(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(20):
                values = random.integers(20, 90, size=random.integers(1, 9)).tolist()
                found = await asyncio.gather(*submit(batcher, values))
                answered.append([answer.teacher_score for answer in found] == values)

        await asyncio.gather(*map(client, range(4)))
    assert all(answered)
    assert len(answered) == 80
    assert {kind for kind, _ in trunk.runs} == {"whole", "part"}
    assert max(images for kind, images in trunk.runs if kind == "part") <= 4
    assert trunk.at_once <= {(1, 0), (0, 1), (0, 2)}


async def test_a_part_takes_what_comes_while_another_is_at_work() -> None:
    trunk = Trunk()
    async with batching(trunk) as batcher:
        trunk.free.clear()
        first = submit(batcher, list(range(8)))
        await until(lambda: len(trunk.runs) == 2)
        batcher._turns[0].batch[0].answer.cancel()  # whoever asked has gone
        later = submit(batcher, [20, 21])
        assert batcher.waiting == 4  # two of the first and these
        trunk.free.set()
        answers = await asyncio.gather(*first, *later, return_exceptions=True)
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 1
    assert [answer.teacher_score for answer in answers[8:]] == [20, 21]  # type: ignore[union-attr]


async def test_one_images_failure_never_reaches_the_others() -> None:
    trunk = Trunk()
    async with batching(trunk) as batcher:
        answers = await asyncio.gather(*submit(batcher, [1, 2, 3, 4, 13, 6, 7, 8]), return_exceptions=True)
        assert [isinstance(answer, InferenceError) for answer in answers] == [value == 4 for value in range(8)]
        assert batcher.alive
        assert (batcher.restarts, batcher.at_work_for) == (0, 0)


async def test_a_thread_that_dies_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """Each of the threads meets what no image explains, and the model begins again each time."""
    trunk = Trunk()
    async with batching(trunk) as batcher:
        for deaths, values in enumerate([[99, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 99], [99] * 8], 1):
            trunk.free.clear()
            waiting = submit(batcher, values)
            await until(lambda: sum(trunk.running.values()) == 2)
            trunk.free.set()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert any(isinstance(answer, NotReadyError) for answer in answers)
            await until(partial(_began_again, batcher, deaths))
            answers = await asyncio.gather(*submit(batcher, list(range(8))))
            assert [answer.teacher_score for answer in answers] == list(range(8))
    assert "the model's worker died" in caplog.text
    assert "the model's worker runs again" in caplog.text


async def test_stopping_answers_what_waits() -> None:
    trunk = Trunk()
    async with batching(trunk) as batcher:
        trunk.free.clear()
        waiting = submit(batcher, list(range(12)))
        await until(lambda: len(trunk.runs) == 2)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        trunk.free.set()
        await stopping
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(answer, NotReadyError) for answer in answers) == 4


@pytest.mark.parametrize(
    ("asked", "threads", "batch_size", "provider", "count"),
    [
        ("auto", 1, 16, "cpu", 1),
        ("auto", 2, 16, "cpu", 2),
        ("auto", 16, 16, "cpu", 4),
        ("auto", 16, 64, "cpu", 16),
        ("auto", 6, 16, "cpu", 3),
        ("auto", 7, 16, "cpu", 1),
        ("auto", 8, 1, "cpu", 1),
        ("auto", 16, 64, "cuda", 1),
        (1, 8, 16, "cpu", 1),
        (6, 4, 16, "cpu", 4),
        (6, 9, 3, "cpu", 3),
    ],
)
def test_parts_share_the_threads_and_have_four_images(
    asked: Any, threads: int, batch_size: int, provider: Provider, count: int
) -> None:
    assert number_of_parts(asked, threads=threads, batch_size=batch_size, provider=provider) == count


def test_parts_give_the_bits_of_the_whole(bundle_dir: Path) -> None:
    bundle = Bundle.load(bundle_dir)
    engine = OnnxEngine(bundle, threads=2, parts=2)
    assert engine.parts is not None
    assert engine.parts.count == 2
    images = np.random.default_rng(0).random((8, 3, tiny.S, tiny.S), dtype=np.float32)
    whole = engine.embed(images)
    alone = OnnxEngine(bundle, threads=2).embed(images)
    np.testing.assert_array_equal(alone.embedding, whole.embedding)
    for start in range(0, 8, 4):
        part = engine.parts.embed(images[start : start + 4])
        np.testing.assert_array_equal(part.embedding, whole.embedding[start : start + 4])
        np.testing.assert_array_equal(part.teacher_score, whole.teacher_score[start : start + 4])


@pytest.mark.parametrize("place", ["full", "missing"])
def test_without_room_for_the_weights_there_is_one_batch_at_a_time(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    if place == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10))
    else:
        monkeypatch.setattr(engine_module, "TemporaryDirectory", _no_directory)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = OnnxEngine(Bundle.load(bundle_dir), threads=2, parts=2)
    assert engine.parts is None
    assert engine.embed(np.zeros((4, 3, tiny.S, tiny.S), dtype=np.float32)).embedding.shape == (4, tiny.Z)
    assert "one batch at a time" in caplog.text
    assert not [*tmp_path.iterdir()]


def _no_directory(**_options: object) -> None:
    raise FileNotFoundError("No usable temporary directory found")


def test_nothing_is_left_in_the_temporary_directory(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert OnnxEngine(Bundle.load(bundle_dir), threads=2, parts=2).parts is not None
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_service_has_as_many_as_it_is_told(bundle_dir: Path, tmp_path: Path, count: int) -> None:
    service = Service.open(load_settings(bundle=bundle_dir, data_dir=tmp_path, threads=2, parallel_batches=count))
    await service.start()
    try:
        image = np.random.default_rng(0).random((3, tiny.S, tiny.S), dtype=np.float32)
        answers = await asyncio.gather(*service.batcher.queue([image] * 16))
        assert {answer.embedding.tobytes() for answer in answers} == {answers[0].embedding.tobytes()}
        assert max(answer.batch_size for answer in answers) == 16 // count
    finally:
        await service.stop()

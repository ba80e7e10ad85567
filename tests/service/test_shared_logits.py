"""Scores of several requests at once: the same to the last bit, and rows read once for all that wait."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.head import Float32, Row
from service.classes.class_table import KnownClass
from service.classes.ranking import SharedLogits
from service.classes.snapshot import Snapshot
from tests.service.waiting import until

pytestmark = pytest.mark.anyio

Z = 33


def classes(count: int, seed: int = 0) -> Snapshot:
    random = np.random.default_rng(seed)
    known = [
        KnownClass(entry=ClassEntry(id=f"c{i}", name=f"c{i}", kind="unseen", attributes=()), registry_version=0)
        for i in range(count)
    ]
    rows = [Row(random.standard_normal(Z).astype(np.float32), float(i)) for i in range(count)]
    return Snapshot.build(0, known, rows, dimension=Z)


class Scoring:
    """A snapshot that notes how many images are scored together, and can be held back or fail."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.rows = snapshot.rows
        self.together: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.failure: Exception | None = None

    def logits(self, z_NZ: Float32, rows: NDArray[np.intp]) -> Float32:
        self.together.append(len(z_NZ))
        assert self.free.wait(10)
        if self.failure is not None:
            raise self.failure
        return self._snapshot.logits(z_NZ, rows)

    def alone(self, z_NZ: Float32) -> Float32:
        return self._snapshot.logits(z_NZ, self.rows)


def images(count: int, seed: int) -> Float32:
    return np.random.default_rng(100 + seed).standard_normal((count, Z)).astype(np.float32)


async def ask(shared: SharedLogits, snapshot: Any, z_NZ: Float32, rows: NDArray[np.intp] | None = None) -> Float32:
    return await shared(snapshot, snapshot.rows if rows is None else rows, z_NZ)


async def test_those_that_come_at_once_are_scored_together_each_as_if_alone() -> None:
    scoring, shared = Scoring(classes(300)), SharedLogits(16)
    sent = [images(count, seed) for seed, count in enumerate([1, 3, 1, 2])]
    got = await asyncio.gather(*(ask(shared, scoring, z) for z in sent))
    for z, logits in zip(sent, got, strict=True):
        assert np.array_equal(logits, scoring.alone(z))
    assert scoring.together == [7]


async def test_what_comes_meanwhile_goes_next_up_to_the_most() -> None:
    scoring, shared = Scoring(classes(20)), SharedLogits(4)
    scoring.free.clear()
    sent = [images(count, seed) for seed, count in enumerate([1, 2, 3, 2, 9, 1])]
    asked = []
    for z in sent:  # the first is at work before the others come
        asked.append(asyncio.create_task(ask(shared, scoring, z)))
        await until(lambda: bool(scoring.together))
    scoring.free.set()
    for z, logits in zip(sent, await asyncio.gather(*asked), strict=True):
        assert np.array_equal(logits, scoring.alone(z))
    assert scoring.together == [1, 4, 4, 9]


async def test_other_classes_are_scored_apart() -> None:
    scoring, other, shared = Scoring(classes(20)), Scoring(classes(20, seed=1)), SharedLogits(16)
    few = np.array([3, 5, 11], dtype=np.intp)
    z = images(2, 0)
    got = await asyncio.gather(
        ask(shared, scoring, z), ask(shared, other, z), ask(shared, scoring, z, few), ask(shared, scoring, z)
    )
    expected = [scoring.alone(z), other.alone(z), scoring.alone(z)[:, few], scoring.alone(z)]
    assert all(np.array_equal(one, right) for one, right in zip(got, expected, strict=True))
    assert sorted(scoring.together) == [2, 4]
    assert other.together == [2]


async def test_what_nobody_waits_for_any_more_is_not_scored() -> None:
    scoring, shared = Scoring(classes(20)), SharedLogits(16)
    scoring.free.clear()
    first = asyncio.create_task(ask(shared, scoring, images(1, 0)))
    await until(lambda: bool(scoring.together))
    gone, last = (asyncio.create_task(ask(shared, scoring, images(n, n))) for n in (2, 3))
    await asyncio.sleep(0)
    first.cancel()  # and one whose scoring is under way
    gone.cancel()
    scoring.free.set()
    assert np.array_equal(await last, scoring.alone(images(3, 3)))
    assert scoring.together == [1, 3]


async def test_a_failure_reaches_all_it_concerns_and_no_later_request() -> None:
    scoring, shared = Scoring(classes(20)), SharedLogits(16)
    scoring.failure = MemoryError("no room")
    failed = await asyncio.gather(*(ask(shared, scoring, images(1, i)) for i in range(2)), return_exceptions=True)
    assert failed == [scoring.failure] * 2
    scoring.failure = None
    assert np.array_equal(await ask(shared, scoring, images(1, 0)), scoring.alone(images(1, 0)))

"""Clients take turns."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import OverloadedError
from service.inference.fairness import Admission, Debts, FairBudget, FairQueue

pytestmark = pytest.mark.anyio


def test_a_queue_gives_out_one_of_each_client_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a1", "a2", "a3", "b1", "a4", "c1", "b2"):
        queue.append(name, client=name[0])
    assert len(queue) == 7
    assert queue.popleft() == "a1"
    queue.append("d1", client="d")
    assert queue.drain() == ["b1", "c1", "a2", "d1", "b2", "a3", "a4"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.popleft()


async def test_a_budget_is_given_in_turn_and_never_exceeded() -> None:
    budget, order, held = FairBudget(10), [], 0

    async def work(name: str, amount: int) -> None:
        nonlocal held
        async with budget.take(amount, client=name[0]):
            held += amount
            assert held <= 10
            order.append(name)
            await asyncio.sleep(0)
            held -= amount

    await asyncio.gather(*(work(f"a{i}", 8) for i in range(3)), work("b0", 8), work("c0", 1))
    assert order == ["a0", "a1", "b0", "c0", "a2"]
    async with budget.take(10, client="a"):
        pass


async def test_next_is_who_holds_least() -> None:
    budget, order, ends = FairBudget(2), [], [asyncio.Event() for _ in range(5)]

    async def work(name: str, end: asyncio.Event) -> None:
        async with budget.take(1, client=name[0]):
            order.append(name)
            await end.wait()

    async with asyncio.TaskGroup() as group:
        for name, end in zip(("a0", "a1", "a2", "a3", "b0"), ends, strict=True):
            group.create_task(work(name, end))
        await asyncio.sleep(0.01)
        assert order == ["a0", "a1"]
        ends[0].set()
        await asyncio.sleep(0.01)
        assert order == ["a0", "a1", "b0"]
        for end in ends:
            end.set()


async def test_who_no_longer_waits_stands_in_nobodys_way() -> None:
    budget = FairBudget(10)
    async with budget.take(6, client="a"):
        waiting = [asyncio.create_task(_hold(budget, amount, client)) for amount, client in ((9, "b"), (4, "c"))]
        await asyncio.sleep(0)
        waiting[0].cancel()
        async with asyncio.timeout(5):
            await waiting[1]
    async with asyncio.timeout(5), budget.take(10, client="a"):
        pass


async def _hold(budget: FairBudget, amount: int, client: str) -> None:
    async with budget.take(amount, client=client):
        pass


def test_one_client_cannot_take_all_places() -> None:
    places = Admission(256, batch_size=16)
    with places.admit(64, client="a"), places.admit(64, client="a"), places.admit(64, client="a"):
        with pytest.raises(OverloadedError, match="192 images of this client are waiting; the places that are left"):
            places.check(1, client="a")
        with places.admit(48, client="b"), pytest.raises(OverloadedError), places.admit(1, client="b"):
            pass
        with places.admit(1, client="c"):
            pass
    with places.admit(64, client="a"):
        places.check(128, client="a")


def test_a_client_without_places_may_take_all_that_are_free() -> None:
    places = Admission(2, batch_size=1)
    with places.admit(2, client="a"), pytest.raises(OverloadedError, match="would exceed the 2 allowed"):
        places.check(1, client="b")


def test_debts_add_up_and_pass() -> None:
    now = 100.0
    debts = Debts(lambda: now)
    assert debts.left("a") == 0
    debts.owe("a", 2.0)
    debts.owe("a", 3.0)
    assert (debts.left("a"), debts.left("b")) == (5.0, 0)
    now = 106.0
    assert debts.left("a") == 0
    debts.owe("a", 1.0)
    assert debts.left("a") == 1.0


def test_of_many_debtors_those_whose_last_debt_is_longest_ago_are_forgotten() -> None:
    debts = Debts(lambda: 0.0)
    for i in range(10_000):
        debts.owe(str(i), 1.0)
    debts.owe("0", 1.0)
    debts.left("1")  # a question is no debt
    debts.owe("10000", 1.0)
    assert [debts.left(client) for client in ("0", "1", "2", "10000")] == [2.0, 0, 1.0, 1.0]

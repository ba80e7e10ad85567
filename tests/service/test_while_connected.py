"""Work that a request waits for: dropped where the client goes, and only then taken for that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.errors import DeadlineError
from service.http.recognition import while_connected

pytestmark = pytest.mark.anyio


class Sender:
    """The part of a request that says when its client goes."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.messages.put_nowait({"type": "http.request"})

    async def receive(self) -> dict[str, Any]:
        return await self.messages.get()

    def go(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


class Work:
    """Work without end, which says how it ended."""

    def __init__(self) -> None:
        self.begun, self.dropped = asyncio.Event(), False

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.dropped = True
            raise


def requested(sender: Sender, work: Work) -> asyncio.Task[None]:
    return asyncio.create_task(while_connected(sender, work()))  # type: ignore[arg-type]  # all that is asked of it


async def test_the_result_comes_back_and_nothing_is_left_behind() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    before = asyncio.all_tasks()
    assert await while_connected(Sender(), work()) == 3  # type: ignore[arg-type]
    assert asyncio.all_tasks() == before


async def test_what_the_work_raises_comes_through() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await while_connected(Sender(), work())  # type: ignore[arg-type]


async def test_a_client_that_goes_ends_the_work_and_not_the_request() -> None:
    sender, work = Sender(), Work()
    task = requested(sender, work)
    await work.begun.wait()
    sender.go()
    with pytest.raises(DeadlineError, match="gone"):
        await task
    assert work.dropped
    assert task.cancelling() == 0


async def test_a_request_that_is_cancelled_stays_so() -> None:
    work = Work()
    task = requested(Sender(), work)
    await work.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.dropped


async def test_a_request_that_is_cancelled_as_its_client_goes_stays_so() -> None:
    sender, work = Sender(), Work()
    task = requested(sender, work)
    await work.begun.wait()
    sender.go()
    await asyncio.sleep(0)  # the one who watches has the message
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_deadline_is_kept_within() -> None:
    sender, work = Sender(), Work()

    async def within() -> None:
        async with asyncio.timeout(0.01):
            await while_connected(sender, work())  # type: ignore[arg-type]

    with pytest.raises(TimeoutError):
        await within()
    assert work.dropped


async def test_a_client_that_goes_as_the_work_ends_changes_nothing_any_more() -> None:
    """At every distance of rounds of the event loop between the two, the answer is there or the client has gone."""
    outcomes: set[int | str] = set()
    for rounds in range(8):
        sender, finish = Sender(), asyncio.Event()

        async def work(finish: asyncio.Event = finish) -> int:
            await finish.wait()
            return 3

        task = asyncio.create_task(while_connected(sender, work()))  # type: ignore[arg-type]
        for _ in range(4):
            await asyncio.sleep(0)
        sender.go()
        for _ in range(rounds):
            await asyncio.sleep(0)
        finish.set()
        try:
            outcomes.add(await task)
        except DeadlineError:
            outcomes.add("gone")
        assert task.cancelling() == 0
    assert outcomes == {3, "gone"}

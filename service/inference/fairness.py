"""Turns among clients: whoever sends much waits for itself, and nobody else waits for more than one of its images."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A queue that gives out one item of each client in turn; those of one client in the order they came."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Item]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, item: Item, *, client: str) -> None:
        """Put an item behind those of the same client."""
        self._of.setdefault(client, deque()).append(item)
        self._length += 1

    def popleft(self) -> Item:
        """The next item; IndexError where there is none."""
        if not self._of:
            raise IndexError("the queue is empty")
        client, items = self._of.popitem(last=False)
        item = items.popleft()
        if items:
            self._of[client] = items  # behind all others
        self._length -= 1
        return item

    def drain(self) -> list[Item]:
        """Everything that waits; nothing does afterwards."""
        return [self.popleft() for _ in range(len(self))]


class FairBudget:
    """An amount of something that work holds while it runs, given to clients in turn; for one event loop.

    Args:
        amount: that there is in all.
    """

    def __init__(self, amount: int) -> None:
        self._free = amount
        self._waiting: FairQueue[tuple[int, asyncio.Future[None]]] = FairQueue()
        self._next: tuple[int, asyncio.Future[None]] | None = None

    @asynccontextmanager
    async def take(self, amount: int, *, client: str) -> AsyncIterator[None]:
        """Hold a part while the block runs, once it is this client's turn and the part is free.

        Args:
            amount: at most what there is in all, or the wait has no end.
            client: whose turn it takes.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn), client=client)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve()  # it may have stood before others
            else:
                self._give_back(amount)
            raise
        try:
            yield
        finally:
            self._give_back(amount)

    def _give_back(self, amount: int) -> None:
        self._free += amount
        self._serve()

    def _serve(self) -> None:
        """Let begin what can; what is next in turn is not overtaken by what needs less."""
        while self._next is not None or self._waiting:
            amount, turn = self._next = self._next or self._waiting.popleft()
            if not turn.cancelled():
                if amount > self._free:
                    return
                self._free -= amount
                turn.set_result(None)
            self._next = None

"""Places and turns among clients: whoever sends much waits for itself, and others for one of its images at most."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Generic, TypeVar

from service.errors import OverloadedError

Item = TypeVar("Item")
_MOST_CLIENTS = 10_000
_SURE = 0.5
"""Share of a request's time that the wait ahead of it may take: beyond that its deadline would be a matter of luck."""
_GREED = 3
"""Times as many places as it leaves to others a client may hold, where it asks for more than it has."""


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

    def clients(self) -> Iterable[str]:
        """Those who wait, in the order of their turns."""
        return self._of

    def first(self, client: str) -> Item:
        """The item of a client that waits longest; KeyError where it has none."""
        return self._of[client][0]

    def popleft(self, client: str | None = None) -> Item:
        """The next item, or the next one of a client; IndexError or KeyError where there is none."""
        if client is None:
            client = next(iter(self._of), None)
            if client is None:
                raise IndexError("the queue is empty")
        items = self._of.pop(client)
        item = items.popleft()
        if items:
            self._of[client] = items  # behind all others
        self._length -= 1
        return item

    def drain(self) -> list[Item]:
        """Everything that waits; nothing does afterwards."""
        return [self.popleft() for _ in range(len(self))]


class FairBudget:
    """An amount of something that work holds while it runs; next is who holds least. For one event loop.

    Args:
        amount: that there is in all.
    """

    def __init__(self, amount: int) -> None:
        self._free = amount
        self._held: Counter[str] = Counter()
        self._waiting: FairQueue[tuple[int, asyncio.Future[None]]] = FairQueue()

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
                self._give_back(amount, client)
            raise
        try:
            yield
        finally:
            self._give_back(amount, client)

    def _give_back(self, amount: int, client: str) -> None:
        self._free += amount
        self._held[client] -= amount
        if not self._held[client]:
            del self._held[client]
        self._serve()

    def _serve(self) -> None:
        """Let begin what can; what is next is not overtaken by what needs less."""
        while self._waiting:
            client = min(self._waiting.clients(), key=lambda waiting: self._held[waiting])
            amount, turn = self._waiting.first(client)
            if not turn.cancelled():
                if amount > self._free:
                    return
                self._free -= amount
                self._held[client] += amount
                turn.set_result(None)
            self._waiting.popleft(client)


class _Noted(OrderedDict[str, Item]):
    """What is noted of clients; of more than 10,000 those of whom nothing was noted for longest are forgotten."""

    def __setitem__(self, client: str, noted: Item) -> None:
        super().__setitem__(client, noted)
        self.move_to_end(client)
        if len(self) > _MOST_CLIENTS:
            self.popitem(last=False)


class Rates:
    """A token bucket for each client: it holds `burst` tokens at most and gains `rate` a second; a request takes one.

    Of more clients than 10,000, those that have asked longest ago are forgotten. A client that comes back then finds a
    full bucket.

    Args:
        rate: requests a second on average, above 0.
        burst: requests at once, 1 or more.
        clock: seconds.
    """

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._buckets = _Noted[tuple[float, float]]()  # tokens, and when there were so many

    def wait(self, client: str) -> float:
        """Take a token of a client.

        Returns:
            0 where it had one, else the seconds until it has one; then nothing is taken.
        """
        now = self._clock()
        tokens, then = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        seconds = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[client] = (tokens if seconds else tokens - 1, now)
        return seconds


class Debts:
    """What clients owe others for work that came to nothing: a time in which they begin no more of it.

    Of more clients than 10,000, those whose last debt is longest ago are forgotten.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = _Noted[float]()

    def owe(self, client: str, seconds: float) -> None:
        """Add to what a client owes."""
        self._until[client] = max(self._clock(), self._until.get(client, 0.0)) + seconds

    def left(self, client: str) -> float:
        """Seconds that a client owes still, 0 or more."""
        return max(0.0, self._until.get(client, 0.0) - self._clock())


class Admission:
    """A bounded number of places, refused at once where there is none or where the wait would be too long.

    Args:
        capacity: most images admitted and not yet answered.
        batch_size: of the model; a measurement of so many images weighs as much as all before it.
        clock: seconds.
    """

    def __init__(self, capacity: int, *, batch_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._batch_size, self._clock = capacity, batch_size, clock
        self._since = clock()
        self._of: Counter[str] = Counter()
        self._left = asyncio.Event()
        self.admitted = 0
        self.refused = 0
        """Images turned away since the start."""
        self.seconds_per_image = 0.0
        """Between two images that leave while others wait; 0 before the first measurement."""

    def check(self, images: int = 1, *, seconds: float | None = None, client: str = "") -> None:
        """Refuse what could not be answered.

        Args:
            images: how many want a place.
            seconds: that they have left.
            client: who sends them; a name that is empty has no share.

        Raises:
            OverloadedError: not enough places are free, or not early enough; says when to come back.
        """
        wait = self.admitted * self.seconds_per_image
        if self.admitted + images > self._capacity:
            words = f"{self.admitted} images are waiting and {images} more would exceed the {self._capacity} allowed"
        # With nobody ahead it is tried all the same, since only so the measurement can become a better one.
        elif self.admitted and seconds is not None and wait + images * self.seconds_per_image > _SURE * seconds:
            words = f"{self.admitted} images are waiting, too many for an answer within {seconds:.3g} seconds"
        elif (
            client and (held := self._of[client]) and held + images > _GREED * (self._capacity - self.admitted - images)
        ):
            words = f"{held} images of this client are waiting; the places that are left are kept for others"
        else:
            return
        self.refused += images
        raise OverloadedError(words, retry_after=max(1, math.ceil(wait)))

    @contextmanager
    def admit(self, images: int, *, seconds: float | None = None, client: str = "") -> Iterator[None]:
        """Hold places while the block runs; raises what :meth:`check` raises."""
        self.check(images, seconds=seconds, client=client)
        if not self.admitted:
            self._since = self._clock()
        self.admitted += images
        self._of[client] += images
        try:
            yield
        finally:
            self.admitted -= images
            self._of[client] -= images
            if not self._of[client]:
                del self._of[client]
            self._left.set()

    async def lull(self, *, client: str, seconds: float) -> None:
        """Wait until no image of another client has a place, or for so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.admitted > self._of[client]:
                    self._left.clear()
                    await self._left.wait()

    def answered(self, images: int, *, model_seconds: float = math.inf) -> None:
        """Measure: so many images have left since the last time, or since the first of them came.

        Args:
            images: how many.
            model_seconds: that the model took for each. The first measurement is no more than this: many requests that
                come at once all wait for the first image's answer, of which nothing follows for the next ones'.
        """
        now = self._clock()
        measured = (now - self._since) / images
        if not self.seconds_per_image:
            measured = min(measured, model_seconds)
        weight = images / (images + self._batch_size) if self.seconds_per_image else 1.0
        self.seconds_per_image += weight * (measured - self.seconds_per_image)
        self._since = now

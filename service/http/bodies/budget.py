"""The bytes of all bodies in memory, and who gives way where they are too many."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import OverloadedError, UnavailableError

SLOW = 64_000
"""Bytes a second below which an unfinished body gives way to others, where there is no room for all."""
_SMALL, _ROOM_FOR_SMALL = 100, 8  # the parts of all the room that a small body has at most, and that small ones have
_MANY = 32_000_000  # bytes after which the memory is worth giving back
_WINDOW = 1.0  # seconds over which the rate is measured


class Body:
    """The bytes of one body that have come.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.held = 0
        self.refusal: UnavailableError | None = None
        """Why it is not read on."""
        self._wait: asyncio.Timeout | None = None
        self._clock = clock
        self._since = self._last = clock()
        self._bytes, self._rate = 0, math.inf

    def grow(self, size: int) -> None:
        """So many bytes have come."""
        now = self._last = self._clock()
        if now - self._since >= _WINDOW:
            self._rate = self._bytes / (now - self._since)
            self._since, self._bytes = now, 0
        self.held += size
        self._bytes += size

    @property
    def slow(self) -> bool:
        """Whether it comes so slowly, or not at all at present, that others go first."""
        return self._rate < SLOW or self._clock() - self._last >= _WINDOW

    @contextmanager
    def waiting(self, wait: asyncio.Timeout) -> Iterator[None]:
        """While the block runs, a refusal ends this wait."""
        self._wait = wait
        try:
            yield
        finally:
            self._wait = None

    def refuse(self, refusal: UnavailableError) -> None:
        """Read no more of it; whoever waits for more is woken."""
        self.refusal = refusal
        if self._wait is not None:
            self._wait.reschedule(asyncio.get_running_loop().time())


class BodyBudget:
    """The bytes that all bodies may hold at once, from when they come until their requests are answered.

    A body that would need more than there is left is refused, unless there are unfinished ones that come too slowly:
    then these give way, those that hold most first. Small bodies have some room of their own.

    Args:
        most: bytes.
        clock: seconds.
        emptied: called when few bytes are left of many.
    """

    def __init__(
        self, most: int, *, clock: Callable[[], float] = time.monotonic, emptied: Callable[[], object] = lambda: None
    ) -> None:
        self._most, self._clock, self._emptied = most, clock, emptied
        self._many = False
        self._unfinished: dict[Body, None] = {}
        self.held = 0
        """Bytes in memory."""

    @contextmanager
    def body(self) -> Iterator[Body]:
        """A body that counts while the block runs."""
        body = Body(self._clock)
        self._unfinished[body] = None
        try:
            yield body
        finally:
            self._unfinished.pop(body, None)
            self._free(body)

    def check(self, size: int, *, but: Body) -> None:
        """Make room for bytes that a body will need.

        Raises:
            OverloadedError: there is none.
        """
        small = but.held + size <= self._most // _SMALL
        most = self._most + (self._most // _ROOM_FOR_SMALL if small else 0)
        while self.held + size > most:
            slow = [body for body in self._unfinished if body is not but and body.held and body.slow]
            if not slow:
                held = f"bodies of other requests hold {self.held} bytes"
                raise OverloadedError(f"{held} and {size} more would exceed the {most} allowed")
            largest = max(slow, key=lambda body: body.held)
            largest.refuse(OverloadedError("others needed the memory while this body came too slowly"))
            self._free(largest)

    def add(self, body: Body, size: int) -> None:
        """Bytes of a body have come; raises what :meth:`check` raises, and the body's refusal where it has one."""
        if body.refusal is not None:
            raise body.refusal
        self.check(size, but=body)
        body.grow(size)
        self.held += size
        self._many = self._many or self.held > _MANY

    def whole(self, body: Body) -> None:
        """All of a body has come."""
        self._unfinished.pop(body, None)

    def refuse_unfinished(self, refusal: UnavailableError) -> None:
        """Read on in no body."""
        for body in self._unfinished:
            body.refuse(refusal)

    def _free(self, body: Body) -> None:
        self.held -= body.held
        body.held = 0
        if self._many and self.held < _MANY // 4:
            self._many = False
            self._emptied()

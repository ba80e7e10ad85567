"""When a request is given up: after the time that its client allows, at most that of the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.errors import DeadlineError


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """The end of a request's time.

    Attributes:
        seconds: that the request has in all.
        end: when they are over, as a time of the event loop.
    """

    seconds: float
    end: float

    @classmethod
    def from_now(cls, most: float, *, timeout_ms: int | None = None) -> Deadline:
        """The deadline of a request that begins now.

        Args:
            most: seconds that the settings allow.
            timeout_ms: milliseconds that the client allows, where it says so.
        """
        # Compared before it is divided: a whole number with hundreds of digits is no float.
        seconds = most if timeout_ms is None or timeout_ms >= 1000 * most else timeout_ms / 1000
        return cls(seconds=seconds, end=asyncio.get_running_loop().time() + seconds)

    @property
    def left(self) -> float:
        """Seconds until the end; below 0 behind it."""
        return self.end - asyncio.get_running_loop().time()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Raise DeadlineError where the block is not done at the end."""
        try:
            async with asyncio.timeout_at(self.end):
                yield
        except TimeoutError:
            raise DeadlineError(f"no answer within {self.seconds:g} seconds") from None

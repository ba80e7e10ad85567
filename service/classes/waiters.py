"""Tasks that wait until something changes, which may happen in any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Waiters:
    """The tasks of one event loop that wait for a change."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def start(self) -> None:
        """Wake in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Wake all; from any thread, and for nothing before the start and after the loop's end."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    async def wait_while(self, unchanged: Callable[[], bool]) -> None:
        """Wait to be woken, unless the change came already.

        Args:
            unchanged: asked once this task counts as waiting, so that no change is missed.
        """
        woken = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        try:
            if unchanged():
                await woken
        finally:
            self._waiting.discard(woken)

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

"""One thread in which the class table changes, so that changes never meet and none is abandoned halfway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from service.errors import OverloadedError

Result = TypeVar("Result")


class ChangeThread:
    """Runs changes one at a time.

    Args:
        capacity: most changes waiting or at work.
        name: of the thread.
    """

    def __init__(self, *, capacity: int = 64, name: str = "changes") -> None:
        self._capacity, self._admitted = capacity, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run `work`; once begun it ends, whether or not anyone still waits for it.

        Raises:
            OverloadedError: too many changes are waiting.
        """
        if self._admitted >= self._capacity:
            raise OverloadedError(f"{self._admitted} changes are waiting already")
        self._admitted += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        finally:
            self._admitted -= 1

    def prepare(self, work: Callable[..., object], *arguments: Any) -> None:
        """Run ahead of the first change what would make it slow; nobody waits for it."""
        self._thread.submit(work, *arguments)

    def close(self) -> None:
        """Finish what has begun and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

"""A thread in which pieces of work run one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from service.errors import OverloadedError

Result = TypeVar("Result")


class SerialExecutor:
    """Runs work one piece at a time in a thread of its own: pieces never meet, and none is abandoned halfway.

    Args:
        capacity: most pieces waiting or at work.
        name: of the thread.
    """

    def __init__(self, *, capacity: int = 64, name: str = "changes") -> None:
        self._capacity, self._admitted, self._name = capacity, 0, name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def check(self) -> None:
        """Raise OverloadedError where too many pieces are waiting for one more to be taken."""
        if self._admitted >= self._capacity:
            raise OverloadedError(f"{self._admitted} {self._name} are waiting already")

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run `work`; once begun it ends, whether or not anyone still waits for it.

        Raises:
            OverloadedError: too many changes are waiting.
        """
        self.check()
        self._admitted += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, work, *arguments)
        finally:
            self._admitted -= 1

    def prepare(self, work: Callable[..., object], *arguments: Any) -> None:
        """Run ahead of the first change what would make it slow; nobody waits for it."""
        self._thread.submit(work, *arguments)

    def close(self) -> None:
        """Finish what has begun and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

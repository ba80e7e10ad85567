"""Waiting for what another task or thread does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, seconds: float = 10, step: float = 0.001) -> None:
    """Return once a condition holds; TimeoutError where it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(step)

"""Requests whose answers are known beforehand: every other answer is a failure, and is kept in words."""

from __future__ import annotations

import collections
from typing import Any

import httpx

_MOST_KEPT = 50


class Tally:
    """What was asked and what went wrong."""

    def __init__(self) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.failed = 0
        self.failures: list[str] = []

    def fail(self, what: str) -> None:
        """Keep what went wrong; of very many the first."""
        self.failed += 1
        if len(self.failures) < _MOST_KEPT:
            self.failures.append(what[:500])


class WrongAnswerError(Exception):
    """An answer that nobody asked for."""


class Asking:
    """A client that says which status it expects.

    Args:
        url: of the service.
        tally: counts.
    """

    def __init__(self, url: str, tally: Tally) -> None:
        self.url, self.tally = url, tally
        self._client = self._new()

    async def ask(self, method: str, path: str, expected: int = 200, **arguments: Any) -> httpx.Response:
        """Send a request.

        Raises:
            WrongAnswerError: another status came than was expected.
        """
        answer = await self._client.request(method, path, **arguments)
        self.check(f"{method} {path}", answer.status_code, expected, answer.text)
        return answer

    def check(self, what: str, status: int, expected: int, text: str = "") -> None:
        """Count a status, and raise WrongAnswerError where it is not the expected one."""
        self.tally.statuses[status] += 1
        if status != expected:
            raise WrongAnswerError(f"{what}: expected {expected}, got {status} {text[:300]}")

    async def let_go(self) -> None:
        """Close every connection; the next request opens new ones."""
        await self._client.aclose()
        self._client = self._new()

    async def close(self) -> None:
        """Close every connection for good."""
        await self._client.aclose()

    def _new(self) -> httpx.AsyncClient:
        # Shorter than the service keeps connections, so that none is used at the moment at which it is closed.
        return httpx.AsyncClient(base_url=self.url, timeout=120, limits=httpx.Limits(keepalive_expiry=2))

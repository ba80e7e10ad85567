"""What holds for every body while it is read: its framing, its encoding, its size, its time, and the room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import MalformedBodyError, MalformedRequestError, SlowRequestError, TooLargeError
from service.http.bodies.budget import Body, BodyBudget
from service.http.bodies.gunzip import Gunzip, is_gzip
from service.http.problems import problem_answer

_BETWEEN_REFUSALS = 0.02
"""Seconds between refusals of two bodies that are late: each costs milliseconds, and hundreds may be late together."""


class Turns:
    """Moments at which things that are due may happen, so that many at once do not keep others waiting.

    Args:
        seconds: between two of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0

    def take(self, now: float) -> float:
        """Seconds to wait from now; 0 where nothing else is due."""
        at = max(now, self._next)
        self._next = at + self._seconds
        return at - now


class Bodies:
    """Refuses to read on where a body is too large, too slow, or more than there is room for; unpacks gzip.

    Nothing is asked of a body that nobody reads.

    Args:
        app: reads the bodies, unpacked.
        budget: the room for all.
        limit: most bytes of a body, announced or counted, packed or unpacked.
        seconds: for a whole body, from when the first byte of it is wanted.
    """

    def __init__(self, app: ASGIApp, *, budget: BodyBudget, limit: int, seconds: float) -> None:
        self._app, self._budget, self._limit, self._seconds = app, budget, limit, seconds
        self._turns = Turns(_BETWEEN_REFUSALS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and ("content-length" in headers or scope.get("http_version") == "1.0"):
            error = MalformedRequestError("Transfer-Encoding stands beside Content-Length or in HTTP/1.0")
            await problem_answer(Request(scope), error)(scope, receive, send)
            return
        with self._budget.body() as body:
            reader = _Reader(
                scope, receive, self._budget, body, limit=self._limit, seconds=self._seconds, turns=self._turns
            )
            await self._app(scope, reader, send)


async def read_body(request: Request, *, most: int, too_large: Callable[[str], Exception]) -> bytes:
    """The whole body of a request.

    Args:
        request: whose body was not read before.
        most: bytes; no more are read.
        too_large: makes the error for a body of more, from words such as "has 7 bytes".
    """
    announced = "" if "content-encoding" in request.headers else request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large(f"has {announced} bytes; at most {most} are allowed")
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise too_large(f"has more than the {most} bytes allowed")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Reader:
    """Receives the messages of one request."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        budget: BodyBudget,
        body: Body,
        *,
        limit: int,
        seconds: float,
        turns: Turns,
    ) -> None:
        self._scope, self._receive, self._budget, self._body = scope, receive, budget, body
        self._limit, self._seconds, self._turns = limit, seconds, turns
        self._end: float | None = None
        self._gunzip: Gunzip | None = None
        self._came = self._given = 0
        self._whole = self._done = False

    async def __call__(self) -> Message:
        """The next message, of the body as it is without its encoding."""
        if self._done:
            return await self._receive()
        if self._end is None:
            self._begin()
        return await (self._plain() if self._gunzip is None else self._unpacked(self._gunzip))

    def _begin(self) -> None:
        """Refuse at once what would be refused later."""
        self._end = asyncio.get_running_loop().time() + self._seconds
        headers = Headers(scope=self._scope)
        announced = headers.get("content-length", "0")
        if not announced.isdecimal():
            raise MalformedBodyError(f"content-length must be a number, got {announced[:100]!r}")
        if is_gzip(", ".join(headers.getlist("content-encoding"))):
            self._gunzip = Gunzip()
        if int(announced) > self._limit:
            raise TooLargeError(f"the body has {announced} bytes; at most {self._limit} are allowed")
        self._budget.check(int(announced), but=self._body)

    async def _plain(self) -> Message:
        message = await self._next()
        self._give(len(message.get("body", b"")))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._finish()
        return message

    async def _unpacked(self, gunzip: Gunzip) -> Message:
        while not (piece := gunzip.piece()):
            if self._whole:
                gunzip.end()
                self._finish()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._next()
            if message["type"] != "http.request":
                self._finish()
                return message
            gunzip.feed(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        self._give(len(piece))
        await asyncio.sleep(0)  # others have their turn between two pieces
        return {"type": "http.request", "body": piece, "more_body": True}

    async def _next(self) -> Message:
        if self._body.refusal is not None:
            raise self._body.refusal
        try:
            async with asyncio.timeout_at(self._end) as wait:
                with self._body.waiting(wait):
                    message = await self._receive()
        except TimeoutError:
            if self._body.refusal is not None:
                raise self._body.refusal from None
            await asyncio.sleep(self._turns.take(asyncio.get_running_loop().time()))
            raise SlowRequestError(
                f"expected the whole body within {self._seconds:g} seconds, got {self._came} bytes"
            ) from None
        self._came += len(message.get("body", b""))
        if self._came > self._limit:
            raise TooLargeError(f"the body has more than the {self._limit} bytes allowed")
        return message

    def _give(self, size: int) -> None:
        self._given += size
        if self._given > self._limit:
            raise TooLargeError(f"the body has more than the {self._limit} bytes allowed")
        if size:
            self._budget.add(self._body, size)

    def _finish(self) -> None:
        self._done = True
        self._budget.whole(self._body)

"""What surrounds every request, as plain ASGI: its id, HEAD, and the cap on its body."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import MalformedBodyError, TooLargeError
from service.problems import REQUEST_ID

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestId:
    """Gives each request an id, the client's own where it sent a harmless one, and returns it in a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        scope[REQUEST_ID] = sent if _SAFE_ID.fullmatch(sent) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = scope[REQUEST_ID]
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_id)


class HeadAsGet:
    """Answers HEAD as GET without the body, wherever GET is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # A copy, since the server looks at its own to know that no body will follow.
        await self._app({**scope, "method": "GET"}, receive, send_head)


class BodyLimit:
    """Refuses to read on where a body, announced or counted, has more than `limit` bytes."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            if not announced.isdecimal():
                raise MalformedBodyError(f"content-length must be a number, got {announced!r}")
            if int(announced) > self._limit:
                raise TooLargeError(f"the body has {announced} bytes; at most {self._limit} are allowed")
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise TooLargeError(f"the body has more than the {self._limit} bytes allowed")
            return message

        await self._app(scope, receive_within_limit, send)

"""What surrounds every request, as plain ASGI: its id, what is observed of it, and HEAD."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextlib import nullcontext

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import REQUEST_ID
from service.telemetry import logs
from service.telemetry.metrics import Metrics
from service.telemetry.request_stats import CURRENT, RequestStats
from service.telemetry.tracing import Tracing

_REQUEST_ID = REQUEST_ID.encode()
_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_SAFETY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer whose route says nothing else: no page is made of it, in no frame, and it tells others no address."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

access_log = logging.getLogger("d3gzsl.access")
slow_log = logging.getLogger("d3gzsl.slow")


class RequestId:
    """Gives each request an id, the client's own where it sent a harmless one, and returns it in a header.

    Every answer also gets the headers that keep browsers from doing with it what nobody wants.

    Args:
        app: what answers.
        shared: whether pages of other origins may use the answers.
    """

    def __init__(self, app: ASGIApp, *, shared: bool = False) -> None:
        self._app = app
        safety = {**_SAFETY, "cross-origin-resource-policy": "cross-origin" if shared else "same-origin"}
        self._safety = [(name.encode(), value.encode()) for name, value in safety.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        scope[REQUEST_ID] = sent if _SAFE_ID.fullmatch(sent) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if pair[0] != _REQUEST_ID]
                there = {name for name, _ in headers}
                headers.append((_REQUEST_ID, scope[REQUEST_ID].encode()))
                headers += [pair for pair in self._safety if pair[0] not in there]
                message = {**message, "headers": headers}
            await send(message)

        token = logs.REQUEST.set(scope[REQUEST_ID])
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            logs.REQUEST.reset(token)


class UnderPath:
    """Answers under a path prefix, whether or not the proxy in front cuts it off."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. The prefix alone leads to the page, whose addresses are relative to the slash behind it."""
        if scope["type"] == "http" and scope["path"] == self._root_path and scope["method"] in ("GET", "HEAD"):
            await RedirectResponse(f"{self._root_path}/")(scope, receive, send)
            return
        await self._app({**scope, "root_path": self._root_path}, receive, send)


class Observe:
    """Counts each request, logs it, warns of slow ones, and traces it where that is wanted.

    Routes are named by their templates, so that no path that a client makes up becomes a series of its own.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracing: Tracing | None, slow_seconds: float) -> None:
        self._app, self._metrics, self._tracing, self._slow_seconds = app, metrics, tracing, slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stats = RequestStats(metrics=self._metrics, tracing=self._tracing)
        began, status = time.perf_counter(), 500

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = CURRENT.set(stats)
        with self._tracing.request(Headers(scope=scope)) if self._tracing else nullcontext() as span:
            try:
                await self._app(scope, receive, send_observed)
            except Exception:
                stats.problem = "internal-error"
                raise
            finally:
                CURRENT.reset(token)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                route = _template(scope)
                self._tell(method, route, status, time.perf_counter() - began, stats)
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attributes(
                        {
                            "http.request.method": method,
                            "http.route": route,
                            "http.response.status_code": status,
                            "d3gzsl.images": stats.images,
                            "d3gzsl.request_id": scope[REQUEST_ID],
                        }
                    )

    def _tell(self, method: str, route: str, status: int, seconds: float, stats: RequestStats) -> None:
        self._metrics.request(route=route, method=method, status=status, seconds=seconds, problem=stats.problem)
        known = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
            "images": stats.images,
        }
        if stats.problem is not None:
            known["problem"] = stats.problem
        access_log.info("request", extra=logs.fields(**known))
        if 0 < self._slow_seconds < seconds:
            stages = {f"{name}_ms": round(ms, 1) for name, ms in stats.stages_ms.items()}
            slow_log.warning("slow request", extra=logs.fields(**known, **stages))


def _template(scope: Scope) -> str:
    """The path's template; that of a mount is its place, that of a path with nothing under it is `none`."""
    if (path := getattr(scope.get("route"), "path", None)) is not None:
        return str(path)
    if "app_root_path" not in scope:  # no mount
        return "none"
    mounted = scope["root_path"].removeprefix(scope["app_root_path"])
    return f"{mounted}/" if mounted else "none"


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
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, send_head)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]

"""Connections of clients: how many there may be, how long each may be silent, and how an answer arrives at the end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from itertools import chain, takewhile
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.problems import (
    HTTP_ERRORS,
    MEDIA_TYPE,
    OVERLOADED,
    REQUEST_ID,
    SLOW_REQUEST,
    ProblemType,
    problem_document,
)

log = logging.getLogger(__name__)

_SILENCE = 5.0
"""Seconds without a byte after which a client whose answer is out counts as gone."""
_STALLED = 1.0
"""Seconds without a byte of a body after which a connection gives way to others, where there are too many."""
_READ = 65_536
"""Bytes taken from a connection at once: there are several copies of them before anybody has asked for them."""
_UNREAD = {h11.SEND_BODY, h11.ERROR}
"""What a client is at where bytes of it may come that nobody has read."""


class Group(Enum):
    """What a connection waits for."""

    HEAD = "the rest of a request's head, or the first one at all"
    AT_WORK = "the answer of a request"
    DRAINING = "the rest of a body whose answer is out"
    IDLE = "another request"


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What connections may have.

    Attributes:
        most: connections at once.
        head_seconds: for the head of a request, from the connection's or the head's first byte.
        idle_seconds: between requests, and for a client that takes nothing of its answer.
        drain_seconds: for the rest of a body that nobody wants, behind the answer.
        drain_bytes: most bytes of that rest.
    """

    most: int
    head_seconds: float
    idle_seconds: float
    drain_seconds: float
    drain_bytes: int


class Connections:
    """All connections of a process by what they wait for, in each group those first that have waited longest.

    Args:
        limits: what they may have.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._since: dict[Group, dict[Connection, float]] = {group: {} for group in Group}
        self._stuck: dict[Connection, float] = {}

    def __len__(self) -> int:
        """How many are open."""
        return sum(map(len, self._since.values()))

    def admit(self, connection: Connection) -> bool:
        """Take a new connection, where there are too many in the place of one that nobody works for.

        Returns:
            False where every other connection has a request at work, the whole of which has come or still comes.
        """
        if len(self) >= self.limits.most:
            waiting = chain(*(self._since[group] for group in (Group.DRAINING, Group.HEAD, Group.IDLE)))
            stalled = (connection for connection in self._since[Group.AT_WORK] if connection.stalls)
            oldest = next(chain(waiting, stalled), None)
            if oldest is None:
                return False
            oldest.give_up()
        self._since[Group.HEAD][connection] = time.monotonic()
        return True

    def move(self, connection: Connection, former: Group, group: Group) -> None:
        """The connection waits for something else than before."""
        if self._since[former].pop(connection, None) is not None:
            self._since[group][connection] = time.monotonic()

    def stuck(self, connection: Connection, stuck: bool) -> None:
        """The client takes nothing of its answer at present, or takes it again."""
        self._stuck.pop(connection, None)
        if stuck:
            self._stuck[connection] = time.monotonic()

    def closed(self, connection: Connection, group: Group) -> None:
        """The connection is gone."""
        self._since[group].pop(connection, None)
        self._stuck.pop(connection, None)

    async def watch(self) -> None:
        """End what takes too long, until cancelled."""
        limits = self.limits
        step = min(1.0, limits.head_seconds / 4, limits.idle_seconds / 4, limits.drain_seconds / 4)
        while True:
            await asyncio.sleep(step)
            try:
                self._end_late(time.monotonic())
            except Exception:  # the others must have their end all the same
                log.exception("a connection could not be ended")

    def _end_late(self, now: float) -> None:
        limits = self.limits
        for connection in _longest(self._since[Group.HEAD], now - limits.head_seconds):
            connection.refuse_slow_head()
        for connection in [
            *_longest(self._since[Group.IDLE], now - limits.idle_seconds),
            *_longest(self._stuck, now - limits.idle_seconds),
            *_longest(self._since[Group.DRAINING], now - limits.drain_seconds),
            *(c for c in self._since[Group.DRAINING] if now - c.heard > _SILENCE),
        ]:
            connection.give_up()


def _longest(group: dict[Connection, float], before: float) -> list[Connection]:
    """The connections that have been in a group since a time or longer."""
    return list(takewhile(lambda connection: group[connection] <= before, group))


class Connection(H11Protocol):
    """A connection whose answers arrive, also those that are sent before the body was read.

    A socket that is closed while bytes lie unread in it resets the connection, and the client may lose the answer that
    it has not read yet. So at the end the answer goes out with an end of its own, what still comes is read and thrown
    away within limits, and then the connection is closed.

    Args:
        connections: all of the process.
        arguments: see uvicorn.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.app = _quiet(self.app)
        self.heard = time.monotonic()
        """When the last bytes came."""
        self.conn = self._parser = _Parser(h11.SERVER)
        self._all = connections
        self._socket: asyncio.Transport
        self._group = Group.HEAD
        self._drained = 0
        self._ends = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """See `asyncio.Protocol`."""
        self._socket = transport
        transport.max_size = _READ  # type: ignore[attr-defined]  # of asyncio's transports
        super().connection_made(_LastingTransport(transport, self))
        if not self._all.admit(self):
            self._say(OVERLOADED, f"{len(self._all)} connections are open, each with a request; no more are allowed")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._all.closed(self, self._group)
        self._ends = True
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard = time.monotonic()
        if self._ends or self._group is Group.DRAINING:
            self._drained += len(data)
            if self._drained > self._all.limits.drain_bytes:
                self.drop()
        if not self._ends:
            super().data_received(data)
            self._place()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        self._place()

    def _place(self) -> None:
        """Note what the connection waits for now."""
        if self._ends:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            group = Group.AT_WORK
        elif self.conn.their_state is h11.SEND_BODY:
            group = Group.DRAINING
        elif self.cycle is None or self.conn.trailing_data[0]:
            group = Group.HEAD
        else:
            group = Group.IDLE
        self._move(group)

    def _move(self, group: Group) -> None:
        if group is not self._group:
            self._all.move(self, self._group, group)
            self._group, self._drained = group, 0

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._all.stuck(self, True)
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._all.stuck(self, False)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, where an answer can still be sent; see uvicorn."""
        error = self._parser.error
        kind = HTTP_ERRORS[400] if error is None else HTTP_ERRORS.get(error.error_status_hint, HTTP_ERRORS[400])
        self._say(kind, msg if error is None else f"the request is not as HTTP/1.1 has it: {error}")

    def refuse_slow_head(self) -> None:
        """End a connection on which no whole request head came in time; with an answer where one has begun."""
        if self.conn.trailing_data[0]:
            seconds = self._all.limits.head_seconds
            self._say(SLOW_REQUEST, f"expected the whole head of a request within {seconds:g} seconds")
        else:
            self.drop()

    def shutdown(self) -> None:
        """See uvicorn."""
        if not self._ends:
            super().shutdown()

    def give_up(self) -> None:
        """Tell the request at work that nobody waits for it any more, and end the connection."""
        self._leave_request()
        self.drop()

    def drop(self) -> None:
        """End the connection at once."""
        self._ends = True
        self._all.closed(self, self._group)
        self._socket.abort()

    def finish(self) -> None:
        """Close once everything is written, and not before what the client still sends is out of the way."""
        if self._ends:
            return
        self._unset_keepalive_if_required()
        if self.conn.their_state in _UNREAD or self.conn.trailing_data[0]:
            self._move(Group.DRAINING)
            self._socket.write_eof()
            self._socket.resume_reading()
        else:
            self._move(Group.IDLE)
            self._socket.close()
        self._ends = True

    @property
    def stalls(self) -> bool:
        """Whether the rest of a body is due of which nothing comes."""
        return self.conn.their_state is h11.SEND_BODY and time.monotonic() - self.heard > _STALLED

    @property
    def ends(self) -> bool:
        """Whether the connection takes no more requests."""
        return self._ends

    def _leave_request(self) -> None:
        """Let the request at work, if there is one, know that its client is gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _say(self, kind: ProblemType, detail: str) -> None:
        """Answer without the application, and end the connection."""
        self._leave_request()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = uuid.uuid4().hex
            body = json.dumps(problem_document(kind, detail, request_id=request_id)).encode()
            headers = [
                (REQUEST_ID, request_id),
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *([("retry-after", "1")] if kind.status == HTTPStatus.SERVICE_UNAVAILABLE else []),
            ]
            for event in (
                h11.Response(status_code=kind.status, headers=headers, reason=HTTPStatus(kind.status).phrase),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self._socket.write(self.conn.send(event) or b"")
        self.finish()


def _quiet(app: Any) -> Any:
    """An application whose requests may be cancelled at the end without a traceback in the log."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            log.warning("%s %s was given up", scope["method"], scope["path"])

    return run


class _Parser(h11.Connection):
    """Remembers what was wrong with the bytes."""

    error: h11.RemoteProtocolError | None = None

    def next_event(self) -> Any:
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.error = error
            raise


class _LastingTransport(asyncio.Transport):
    """A transport that leaves the end to the connection."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        super().__init__()
        self._transport, self._connection = transport, connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._transport.write(data)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._connection.ends or self._transport.is_closing()

    def close(self) -> None:
        self._connection.finish()

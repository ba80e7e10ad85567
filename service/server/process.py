"""One process that answers on a socket, which other processes may share."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from model.bundle import Precision
from service.errors import NotReadyError, SettingsError
from service.http.bodies.budget import BodyBudget
from service.server.app import create_app
from service.server.connections import Connection, ConnectionLimits, Connections
from service.service import Service
from service.settings import Settings
from service.telemetry import logs

log = logging.getLogger(__name__)

MARGIN = 5.0
"""Seconds behind the grace period after which a process ends, whatever it still does."""
_MOST_CONNECTIONS = 1000
_OTHER_FILES = 256
"""Open files beside the connections: the registry, libraries, connections that come at once or are being closed."""
_AT_ONCE = 32
"""Connections taken before any of them is looked at; the loop takes that many in each of several turns."""
_WAITING = 2048
"""Connections that the system keeps waiting."""
_TURN = 0.0002
"""Seconds after which a thread that reads a long document lets another have its turn; an image takes some ten turns."""
_LAST_ANSWERS = 0.5  # seconds


def run_server(settings: Settings, listener: socket.socket, *, started: Callable[[str, Precision], None]) -> None:
    """Answer until a signal says to stop; SIGHUP reads the keys again.

    Args:
        settings: what the operator chose; `threads` is the share of this process.
        listener: bound.
        started: told the bundle's id and the precision of its trunk once requests are answered.

    Raises:
        D3GZSLError: the service cannot start.
    """
    logs.configure(form=settings.log_format, level=settings.log_level)
    sys.setswitchinterval(_TURN)
    connections = Connections(
        ConnectionLimits(
            most=most_connections(settings, files=resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
            head_seconds=settings.header_timeout,
            idle_seconds=settings.idle_timeout,
            drain_seconds=settings.body_timeout,
            drain_bytes=2 * settings.max_request_bytes,  # so that one that is too large hears of it
        )
    )
    service = Service.open(settings)
    app = create_app(service)

    def connection(**arguments: Any) -> Connection:
        return Connection(connections, **arguments)

    config = uvicorn.Config(
        app,
        loop="asyncio",  # uvicorn would take uvloop where there is one, whose transports lack what connections use
        http=connection,  # type: ignore[arg-type]  # anything that makes a protocol
        backlog=_AT_ONCE,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,  # the application believes those of the settings
        server_header=False,
        timeout_keep_alive=round(settings.idle_timeout) or 1,
    )
    _Server(config, service, connections, app.state.bodies, started).run(sockets=[listener])


def most_connections(settings: Settings, *, files: int) -> int:
    """How many connections a process takes.

    Args:
        settings: what the operator chose.
        files: most files that the process may have open, below 0 for any number.

    Raises:
        SettingsError: the files do not suffice.
    """
    left = _MOST_CONNECTIONS if files < 0 else files - _OTHER_FILES
    if settings.max_connections == "auto":
        if left < 1:
            raise SettingsError(f"expected a limit of more than {_OTHER_FILES} open files (ulimit -n), got {files}")
        return min(_MOST_CONNECTIONS, left)
    if 0 <= files < settings.max_connections + _OTHER_FILES:
        raise SettingsError(
            f"D3GZSL_MAX_CONNECTIONS is {settings.max_connections} and needs a limit of "
            f"{settings.max_connections + _OTHER_FILES} open files (ulimit -n), got {files}"
        )
    return settings.max_connections


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        connections: Connections,
        bodies: BodyBudget,
        started: Callable[[str, Precision], None],
    ) -> None:
        super().__init__(config)
        self._service, self._connections, self._bodies, self._announce = service, connections, bodies, started
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(_WAITING)
        self._watch = asyncio.create_task(self._connections.watch())
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._service.reload_keys)
        # What is there now stays: a collection that looked through it would stop every request for 0.1 to 0.4 seconds.
        gc.collect()
        gc.freeze()
        gc.enable()
        self._announce(self._service.bundle.manifest.bundle_id, self._service.precision)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests end within the grace period, refuse what has not come by then, and end everything."""
        grace = self._service.settings.grace_period
        _end_at(grace + MARGIN)
        state, until = self.server_state, time.monotonic() + grace
        log.info("stopping: %d requests at work have %g seconds to end", len(state.tasks), grace)
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(state.connections):
            connection.shutdown()
        while (state.connections or state.tasks) and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.05)
        if state.tasks:
            log.warning("%d requests have not ended within %g seconds and are given up", len(state.tasks), grace)
            self._bodies.refuse_unfinished(NotReadyError("the service is stopping"))
            await asyncio.wait(state.tasks, timeout=_LAST_ANSWERS)
        for connection in list(state.connections):
            if isinstance(connection, Connection):
                connection.give_up()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_LAST_ANSWERS)
        for task in state.tasks:
            task.cancel()
        if self._watch is not None:
            self._watch.cancel()
        await self.lifespan.shutdown()


def _end_at(seconds: float) -> None:
    """End the process in so many seconds, whatever keeps it; what is committed by then is on disk."""

    def end() -> None:
        log.critical("the process did not end within %g seconds of being told to, and is ended", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()

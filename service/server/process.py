"""One process that answers on a socket, which other processes may share."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from service.server.app import create_app
from service.service import Service
from service.settings import Settings
from service.telemetry import logs

_KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than proxies keep theirs, which else would send into a closing one."""


def run_server(settings: Settings, listener: socket.socket, *, started: Callable[[str], None]) -> None:
    """Answer until a signal says to stop.

    Args:
        settings: what the operator chose; `threads` is the share of this process.
        listener: bound.
        started: told the bundle's id once requests are answered.

    Raises:
        D3GZSLError: the service cannot start.
    """
    logs.configure(form=settings.log_format, level=settings.log_level)
    service = Service.open(settings)
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(settings.deadline) + 1,
    )
    _Server(config, lambda: started(service.bundle.manifest.bundle_id)).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._announce()

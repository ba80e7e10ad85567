"""Connections to PostgreSQL that wait for nothing for long.

A server that is there but does not answer (stopped, or its disk hangs) answers no question about time either, and its
system goes on acknowledging what is sent. So every wait is limited twice: by the server, and here, by the socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError

from model.errors import MissingDependencyError

DISK_FULL = "53100"
"""PostgreSQL's code for a disk without room."""
_PING_SECONDS = 2.0
_BROKEN_LINE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""A server that does not answer is noticed within seconds, not after the system's hours."""


class HasSocket(Protocol):
    """A connection of the driver."""

    def fileno(self) -> int:
        """Of its socket."""
        ...


class Limit:
    """Breaks a connection when its time is over, so that whoever waits for the server gets an error.

    Args:
        connection: of the driver.
        seconds: from now.
    """

    def __init__(self, connection: HasSocket, seconds: float) -> None:
        self._line = socket.socket(fileno=os.dup(connection.fileno()))  # the same line, whatever becomes of the number
        self._timer = self._start(seconds)

    def restart(self, seconds: float) -> None:
        """Count anew."""
        self._timer.cancel()
        self._timer = self._start(seconds)

    def end(self) -> None:
        """Break nothing any more."""
        self._timer.cancel()
        self._line.close()

    def _start(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._break)
        timer.daemon = True
        timer.start()
        return timer

    def _break(self) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            self._line.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def limited(connection: HasSocket, seconds: float) -> Iterator[Limit]:
    """The time that work on a connection may take; after it the connection is of no use."""
    limit = Limit(connection, seconds)
    try:
        yield limit
    finally:
        limit.end()


def open_engine(url: URL, timeout: float, json_serializer: Any, json_deserializer: Any) -> sa.Engine:
    """An engine whose connections are tried before they are used, and give up what takes longer than `timeout` seconds.

    Raises:
        MissingDependencyError: the driver is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise MissingDependencyError("the driver for PostgreSQL is not installed", "postgres") from None
    # A database without an encoding of its own would answer in bytes.
    arguments = {"connect_timeout": max(2, round(timeout)), "client_encoding": "utf8", **_BROKEN_LINE}
    engine = sa.create_engine(
        url, connect_args=arguments, json_serializer=json_serializer, json_deserializer=json_deserializer
    )
    limits = {"lock_timeout": 1.0, "statement_timeout": 1.5, "idle_in_transaction_session_timeout": 1.0}

    def configure(connection: Any, _record: Any) -> None:
        with limited(connection, timeout):
            connection.autocommit = True  # else the settings would end with the transaction
            for name, times in limits.items():
                connection.execute(f"SET {name} = {round(1000 * times * timeout)}")
            connection.autocommit = False

    def ping(connection: Any, _record: Any, _proxy: Any) -> None:
        try:
            with limited(connection, min(_PING_SECONDS, timeout)):
                engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise DisconnectionError(str(error)) from error

    event.listen(engine, "connect", configure)
    event.listen(engine, "checkout", ping)
    return engine

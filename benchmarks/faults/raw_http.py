"""Requests byte by byte, for clients that are slow, go away in the middle or never finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Raw:
    """A connection on which a client does as it likes.

    Args:
        reader: of the connection.
        writer: of the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send some bytes now."""
        self.writer.write(data)
        await self.writer.drain()

    async def dribble(self, data: bytes, *, pieces: int, pause: float) -> None:
        """Send bytes in pieces with pauses between them."""
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(pause)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        return int(head.split()[1]), await self.reader.readexactly(length)

    def break_off(self) -> None:
        """Go away without a word: the service sees a connection that was reset."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Raw]:
    """A new connection to a service; closed at the end."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def head(method: str, path: str, *, length: int | None = None, kind: str | None = None) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    return "\r\n".join([*lines, "", ""]).encode()

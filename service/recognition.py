"""The way of a request's images through decoding and model, each for itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from model.errors import D3GZSLError, ImageError
from service.batcher import Answer
from service.decoding import Decoded
from service.errors import DeadlineError, InferenceError, MalformedBodyError
from service.images import Sent
from service.service import Service

Result = TypeVar("Result")


@dataclass(frozen=True)
class Embedded:
    """An image behind decoding and model."""

    decoded: Decoded
    decode_ms: float
    answer: Answer


async def embed_all(service: Service, images: Sequence[Sent]) -> list[Embedded | D3GZSLError]:
    """Decode and embed images for which there are places; what is wrong with one alone comes back as a value."""
    return await asyncio.gather(*(_embed(service, image.data) for image in images))


async def _embed(service: Service, data: bytes | MalformedBodyError) -> Embedded | D3GZSLError:
    if isinstance(data, MalformedBodyError):
        return data
    started = time.perf_counter()
    try:
        decoded = await service.decoder(data)
        decode_ms = 1000 * (time.perf_counter() - started)
        return Embedded(decoded, decode_ms, await service.batcher.submit(decoded.image))
    except (ImageError, InferenceError) as error:
        return error


@asynccontextmanager
async def deadline(service: Service, *, since: float | None = None) -> AsyncIterator[None]:
    """Give up with DeadlineError where the block takes longer than the settings allow.

    Args:
        service: has the settings.
        since: time of the event loop at which the request began; now where it is None.
    """
    began = asyncio.get_running_loop().time() if since is None else since
    try:
        async with asyncio.timeout_at(began + service.settings.deadline):
            yield
    except TimeoutError:
        raise DeadlineError(f"no answer within {service.settings.deadline:g} seconds") from None


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is dropped when the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise DeadlineError("the client has gone")
        return task.result()
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.wait({task, watch})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

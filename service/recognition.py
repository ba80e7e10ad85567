"""The way of a request's images through decoding and model, each for itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
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
        try:
            decoded = await service.decoder(data)
        except asyncio.CancelledError:
            service.batcher.dropped += 1
            raise
        decode_ms = 1000 * (time.perf_counter() - started)
        return Embedded(decoded, decode_ms, await service.batcher.submit(decoded.image))
    except (ImageError, InferenceError) as error:
        return error


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

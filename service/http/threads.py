"""Which work on bodies and answers leaves the event loop, so that other requests do not wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from service.http.access import client_of

_MUCH, _MANY = 200_000, 1000
"""Bytes of files and values of JSON that are read in about a millisecond."""
_PATIENCE = 0.05
"""Seconds for which a long document lets images of others go first."""
_DEBT, _LONGEST_WAIT = 3.0, 5.0
"""Times as long as a long document took that was refused, its client's next one waits; and the most seconds."""

Result = TypeVar("Result")
Others = ParamSpec("Others")


async def off_the_loop(
    read: Callable[Concatenate[bytes, Others], Result], body: bytes, *others: Others.args, **named: Others.kwargs
) -> Result:
    """Read a body, in another thread where it would keep other requests waiting."""
    if len(body) <= _MUCH and body.count(b",") <= _MANY:
        return read(body, *others, **named)
    return await asyncio.to_thread(read, body, *others, **named)


async def read_in_turn(
    request: Request,
    read: Callable[Concatenate[bytes, Others], Result],
    body: bytes,
    *others: Others.args,
    **named: Others.kwargs,
) -> Result:
    """As :func:`off_the_loop`, for a body that describes classes.

    Reading one of many values keeps a core, and Python, busy for milliseconds. So such bodies are read one at a time,
    those of each client in turn, and each lets the images of other clients that are at work go first, for a short time.
    Where one is refused, its client's next one waits: who sends nothing else has a quarter of a core, not all of it.
    """
    if body.count(b",", 0, _MUCH) <= _MANY:
        return await off_the_loop(read, body, *others, **named)
    client, state = client_of(request), request.app.state
    if (owed := state.debts.left(client)) > 0:
        await asyncio.sleep(min(owed, _LONGEST_WAIT))
    async with state.documents.take(1, client=client):
        await state.service.batcher.admission.lull(client=client, seconds=_PATIENCE)
        began = time.monotonic()
        request.state.on_refusal = lambda: state.debts.owe(client, _DEBT * (time.monotonic() - began))
        return await asyncio.to_thread(read, body, *others, **named)


async def answer(
    make: Callable[[], BaseModel], *, values: int, headers: Mapping[str, str] | None = None, exclude_unset: bool = False
) -> Response:
    """An answer of JSON, made in another thread where it is a large one.

    Args:
        make: makes it.
        values: about how many objects and numbers it has.
        headers: of the answer.
        exclude_unset: leave out what was not given, rather than say that it is null.
    """

    def write() -> str:
        return make().model_dump_json(exclude_unset=exclude_unset)

    text = await asyncio.to_thread(write) if values > _MANY else write()
    return Response(text, headers=headers, media_type="application/json")

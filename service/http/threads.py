"""Which work on bodies and answers leaves the event loop, so that other requests do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypeVar

from fastapi import Response
from pydantic import BaseModel

_MUCH, _MANY = 200_000, 1000
"""Bytes of files and values of JSON that are read in about a millisecond."""

Result = TypeVar("Result")
Others = ParamSpec("Others")


async def off_the_loop(
    read: Callable[Concatenate[bytes, Others], Result], body: bytes, *others: Others.args, **named: Others.kwargs
) -> Result:
    """Read a body, in another thread where it would keep other requests waiting."""
    if len(body) <= _MUCH and body.count(b",") <= _MANY:
        return read(body, *others, **named)
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

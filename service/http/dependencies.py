"""What routes need of a request: the service, the snapshot to read, the deadline, a small JSON body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError

from model.errors import Problem
from service.classes.snapshot import Snapshot
from service.errors import DeadlineError, InvalidRequestError, TooLargeError
from service.http.access import under_own_name, within_rate
from service.http.bodies.reading import read_body
from service.http.bodies.strictjson import loads
from service.http.threads import read_in_turn
from service.service import Service

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """The end of a request's time.

    Attributes:
        seconds: that the request has in all.
        end: when they are over, as a time of the event loop.
    """

    seconds: float
    end: float

    @classmethod
    def from_now(cls, most: float, *, timeout_ms: int | None = None) -> Deadline:
        """The deadline of a request that begins now.

        Args:
            most: seconds that the settings allow.
            timeout_ms: milliseconds that the client allows, where it says so.
        """
        # Compared before it is divided: a whole number with hundreds of digits is no float.
        seconds = most if timeout_ms is None or timeout_ms >= 1000 * most else timeout_ms / 1000
        return cls(seconds=seconds, end=asyncio.get_running_loop().time() + seconds)

    @property
    def left(self) -> float:
        """Seconds until the end; below 0 behind it."""
        return self.end - asyncio.get_running_loop().time()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Raise DeadlineError where the block is not done at the end."""
        try:
            async with asyncio.timeout_at(self.end):
                yield
        except TimeoutError:
            raise DeadlineError(f"no answer within {self.seconds:g} seconds") from None


async def get_service(request: Request) -> Service:
    """The service that the app was made for, with the changes that others have committed before this request."""
    service: Service = request.app.state.service
    await service.follower.refresh()
    return service


TheService = Annotated[Service, Depends(get_service)]

TimeoutMs = Annotated[
    int | None,
    Header(
        alias="D3GZSL-Timeout-Ms",
        ge=1,
        description="Milliseconds after which the client no longer wants the answer; at most the service's deadline.",
    ),
]

_MOST_PARAMETERS = 1100  # a thousand classes, each as a parameter, and the others
MAX_BODY_BYTES = 1_000_000


def json_body(schema: str) -> dict[str, Any]:
    """OpenAPI entry for a JSON body that the route reads itself."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


async def json_of(request: Request, read: Callable[[object], Result]) -> Result:
    """What is read from the JSON of a small body; TooLargeError for one that is not small."""
    body = await read_body(request, most=MAX_BODY_BYTES, too_large=lambda words: TooLargeError(f"the body {words}"))
    return await read_in_turn(request, lambda data: read(loads(data)), body)


async def snapshot_for(service: Service, version: int, *, seconds: float | None = None) -> Snapshot:
    """The newest snapshot, once it has reached a version; VersionNotReachedError where that takes too long."""
    if service.snapshot.registry_version >= version:
        return service.snapshot
    return await service.wait_for_version(version, deadline=service.settings.deadline if seconds is None else seconds)


async def may_be_answered(request: Request) -> None:
    """Dependency of everything: an allowed host, no more requests than a client may send, no more parameters than any.

    All in one, as FastAPI takes as long to look after a dependency as each of these takes.
    """
    under_own_name(request)
    within_rate(request)
    _few_parameters(request)


def _few_parameters(request: Request) -> None:
    """Refuse query parameters so many that naming each that is wrong would keep others waiting."""
    number = len(request.query_params.multi_items())
    if number > _MOST_PARAMETERS:
        raise InvalidRequestError(
            "too many parameters",
            [Problem(pointer="/query", detail=f"expected at most {_MOST_PARAMETERS} parameters, got {number}")],
        )


def no_parameters(request: Request) -> None:
    """Refuse query parameters where there are none: one that is misspelt or gone would else be passed over silently.

    Raises:
        RequestValidationError: names each.
    """
    if request.query_params:
        raise RequestValidationError(
            [
                {
                    "type": "extra_forbidden",
                    "loc": ("query", name),
                    "msg": "Extra inputs are not permitted",
                    "input": value,
                }
                for name, value in request.query_params.items()
            ]
        )

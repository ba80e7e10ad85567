"""What a client does, without doing it: requests as values, and the steps that carry them out.

A flow is a generator. It yields steps, gets back what came of each, and returns its result. Whoever drives it decides
how a request is sent and how time passes, so that one flow serves threads and asyncio alike.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import httpx

from service.client.images import Source

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One question to the service.

    Attributes:
        method: of HTTP.
        template: path as OpenAPI has it, with names in braces.
        read: makes the result of the answer.
        values: of the names in the path.
        query: parameters; those that are None are left out.
        headers: likewise.
        document: body, or the field `class` of a form that has images, too; None for none.
        files: of a form, each with the field that it stands in; None where the body is the document alone.
        repeat: whether sending it twice does no more than sending it once.
        at_least: where the service is told which version of the class table it must know; None where it need not.
        gone_is_done: whether 404 is success, once a former try may have come through.
    """

    method: str
    template: str
    read: Callable[[httpx.Response], T]
    values: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    document: Any = None
    files: Sequence[tuple[str, Source]] | None = None
    repeat: bool = False
    at_least: Literal["query", "parameters"] | None = None
    gone_is_done: bool = False


@dataclass(frozen=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Work(Generic[T]):
    """Call a function that reads files, where that keeps nobody else waiting; the outcome is its result."""

    function: Callable[[], T]


@dataclass(frozen=True)
class Start(Generic[T]):
    """Begin another flow beside this one; the outcome is its handle for :class:`Join`."""

    flow: Flow[T]


@dataclass(frozen=True)
class Join:
    """Wait for a flow that was begun; the outcome is its result."""

    handle: Any


@dataclass(frozen=True)
class Ready(Generic[T]):
    """Hand these items to whoever reads the stream."""

    items: Sequence[T]


Step = httpx.Request | Pause | Work[Any] | Start[Any] | Join
"""A request is a step, too: its outcome is an `httpx.Response`, or the exception that sending it raised."""

Flow = Generator[Step, Any, T]
Stream = Generator[Step | Ready[T], Any, None]
